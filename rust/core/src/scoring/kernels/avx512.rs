//! Kernels for AVX-512 F and BW with VNNI.

use super::TILE_QUERIES;
use std::arch::x86_64::{
    __m512i, _mm256_and_si256, _mm256_loadu_si256, _mm256_set1_epi8, _mm256_srli_epi16, _mm512_add_ps,
    _mm512_castsi256_si512, _mm512_dpbusd_epi32, _mm512_fmadd_ps, _mm512_inserti64x4, _mm512_loadu_ps,
    _mm512_loadu_si512, _mm512_maskz_loadu_ps, _mm512_reduce_add_epi32, _mm512_reduce_add_ps, _mm512_setzero_ps,
    _mm512_setzero_si512,
};

type Results<'o> = (&'o mut f32, &'o mut f32);

const BLOCK_BYTES: usize = 32;

/// # Safety
///
/// Every pointer must be a row of `query.len()` readable `f32`.
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn dot_squares<'o>(query: &[f32], work: impl Iterator<Item = (*const f32, Results<'o>)>) {
    let dimensions = query.len();
    for (row, (dot, square)) in work {
        let mut dots = [_mm512_setzero_ps(); 2];
        let mut squares = [_mm512_setzero_ps(); 2];
        let mut index = 0;
        while index + 32 <= dimensions {
            for lane in 0..2 {
                // SAFETY: `index + 32 <= dimensions`, the length of both.
                let (q, x) = unsafe {
                    let at = index + lane * 16;
                    (_mm512_loadu_ps(query.as_ptr().add(at)), _mm512_loadu_ps(row.add(at)))
                };
                dots[lane] = _mm512_fmadd_ps(q, x, dots[lane]);
                squares[lane] = _mm512_fmadd_ps(x, x, squares[lane]);
            }
            index += 32;
        }
        while index < dimensions {
            let left = (dimensions - index).min(16);
            let mask = u16::MAX >> (16 - left);
            // SAFETY: the mask lets only the `left` elements be read that both have.
            let (q, x) = unsafe {
                (_mm512_maskz_loadu_ps(mask, query.as_ptr().add(index)), _mm512_maskz_loadu_ps(mask, row.add(index)))
            };
            dots[0] = _mm512_fmadd_ps(q, x, dots[0]);
            squares[0] = _mm512_fmadd_ps(x, x, squares[0]);
            index += left;
        }
        *dot = _mm512_reduce_add_ps(_mm512_add_ps(dots[0], dots[1]));
        *square = _mm512_reduce_add_ps(_mm512_add_ps(squares[0], squares[1]));
    }
}

/// One block of codes as 64 bytes in the order of the dimensions.
///
/// # Safety
///
/// `at` must be 32 readable bytes.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn unpack(at: *const u8) -> __m512i {
    let mask = _mm256_set1_epi8(15);
    // SAFETY: 32 readable bytes by contract.
    let bytes = unsafe { _mm256_loadu_si256(at.cast()) };
    let low = _mm256_and_si256(bytes, mask);
    let high = _mm256_and_si256(_mm256_srli_epi16::<4>(bytes), mask);
    _mm512_inserti64x4::<1>(_mm512_castsi256_si512(low), high)
}

/// # Safety
///
/// `codes` must hold `out.len()` rows of `query.len() / 2` bytes, and the query whole blocks.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
pub(super) unsafe fn nibble_dots(query: &[i8], codes: &[u8], out: &mut [i32]) {
    let blocks = query.len() / (2 * BLOCK_BYTES);
    for (row, slot) in out.iter_mut().enumerate() {
        let mut sums = [_mm512_setzero_si512(); 2];
        for block in 0..blocks {
            // SAFETY: `row` and `block` are below the counts that the contract states for `codes` and `query`.
            let (codes, q) = unsafe {
                let at = codes.as_ptr().add((row * blocks + block) * BLOCK_BYTES);
                (unpack(at), _mm512_loadu_si512(query.as_ptr().add(block * 2 * BLOCK_BYTES).cast()))
            };
            sums[block % 2] = _mm512_dpbusd_epi32(sums[block % 2], codes, q);
        }
        *slot = _mm512_reduce_add_epi32(sums[0]) + _mm512_reduce_add_epi32(sums[1]);
    }
}

/// # Safety
///
/// As [`nibble_dots`] for every query and its results.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
pub(super) unsafe fn nibble_dots_tile(queries: [&[i8]; TILE_QUERIES], codes: &[u8], out: [&mut [i32]; TILE_QUERIES]) {
    let blocks = queries[0].len() / (2 * BLOCK_BYTES);
    let rows = out[0].len();
    for row in 0..rows {
        let mut sums = [_mm512_setzero_si512(); TILE_QUERIES];
        for block in 0..blocks {
            // SAFETY: `row` and `block` are below the counts that the contract states for `codes`.
            let unpacked = unsafe { unpack(codes.as_ptr().add((row * blocks + block) * BLOCK_BYTES)) };
            for lane in 0..TILE_QUERIES {
                // SAFETY: every query has `blocks` whole blocks.
                let q = unsafe { _mm512_loadu_si512(queries[lane].as_ptr().add(block * 2 * BLOCK_BYTES).cast()) };
                sums[lane] = _mm512_dpbusd_epi32(sums[lane], unpacked, q);
            }
        }
        for lane in 0..TILE_QUERIES {
            out[lane][row] = _mm512_reduce_add_epi32(sums[lane]);
        }
    }
}
