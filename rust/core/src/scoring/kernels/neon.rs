//! Kernels for NEON.

use std::arch::aarch64::{
    vaddq_f32, vaddq_s32, vaddvq_f32, vaddvq_s32, vandq_u8, vdupq_n_f32, vdupq_n_s32, vdupq_n_u8, vfmaq_f32,
    vget_high_s8, vget_low_s8, vld1q_f32, vld1q_s8, vld1q_u8, vmlal_s8, vmull_s8, vpadalq_s16, vreinterpretq_s8_u8,
    vshrq_n_u8,
};

type Results<'o> = (&'o mut f32, &'o mut f32);

/// # Safety
///
/// Every pointer must be a row of `query.len()` readable `f32`.
#[target_feature(enable = "neon")]
pub(super) unsafe fn dot_squares<'o>(query: &[f32], work: impl Iterator<Item = (*const f32, Results<'o>)>) {
    let whole = query.len() / 8 * 8;
    for (row, (dot, square)) in work {
        let mut dots = [vdupq_n_f32(0.0); 2];
        let mut squares = [vdupq_n_f32(0.0); 2];
        let mut index = 0;
        while index < whole {
            for lane in 0..2 {
                // SAFETY: `index + 8 <= query.len()`, the length of both.
                let (q, x) = unsafe {
                    let at = index + lane * 4;
                    (vld1q_f32(query.as_ptr().add(at)), vld1q_f32(row.add(at)))
                };
                dots[lane] = vfmaq_f32(dots[lane], q, x);
                squares[lane] = vfmaq_f32(squares[lane], x, x);
            }
            index += 8;
        }
        let mut dot_sum = vaddvq_f32(vaddq_f32(dots[0], dots[1]));
        let mut square_sum = vaddvq_f32(vaddq_f32(squares[0], squares[1]));
        for (index, &q) in query.iter().enumerate().skip(whole) {
            // SAFETY: `index < query.len()`.
            let x = unsafe { row.add(index).read_unaligned() };
            dot_sum += q * x;
            square_sum += x * x;
        }
        *dot = dot_sum;
        *square = square_sum;
    }
}

/// # Safety
///
/// `codes` must hold `out.len()` rows of `query.len() / 2` bytes, and the query whole blocks.
#[target_feature(enable = "neon")]
pub(super) unsafe fn nibble_dots(query: &[i8], codes: &[u8], out: &mut [i32]) {
    let halves = query.len() / 32; // 16 bytes of codes each
    let mask = vdupq_n_u8(15);
    for (row, slot) in out.iter_mut().enumerate() {
        let mut sum = [vdupq_n_s32(0); 2];
        for half in 0..halves {
            let q_at = half / 2 * 64 + half % 2 * 16;
            // SAFETY: `row` and `half` are below the counts that the contract states for `codes` and `query`.
            let (bytes, q_low, q_high) = unsafe {
                let at = codes.as_ptr().add((row * halves + half) * 16);
                let q = query.as_ptr().add(q_at);
                (vld1q_u8(at), vld1q_s8(q), vld1q_s8(q.add(32)))
            };
            let low = vreinterpretq_s8_u8(vandq_u8(bytes, mask));
            let high = vreinterpretq_s8_u8(vshrq_n_u8::<4>(bytes));
            // Two products of at most 15 * 127 each stay inside 16 bits.
            let first =
                vmlal_s8(vmull_s8(vget_low_s8(low), vget_low_s8(q_low)), vget_low_s8(high), vget_low_s8(q_high));
            let second =
                vmlal_s8(vmull_s8(vget_high_s8(low), vget_high_s8(q_low)), vget_high_s8(high), vget_high_s8(q_high));
            sum[0] = vpadalq_s16(sum[0], first);
            sum[1] = vpadalq_s16(sum[1], second);
        }
        *slot = vaddvq_s32(vaddq_s32(sum[0], sum[1]));
    }
}
