//! Loops of the encoder. Each is one fixed sequence of `f32` operations, compiled for wider registers where they are
//! there; none is fused, so codes do not depend on the processor.

use super::BLOCK_DIMENSIONS;
#[cfg(target_arch = "x86_64")]
use super::Tier;

/// Flips signs, then transforms each stretch (powers of two, multiples of 8, that make up `values`) and scales it to
/// keep lengths.
///
/// # Panics
///
/// If there is not one sign per value, or the stretches do not fit them.
pub fn rotate(values: &mut [f32], signs: &[f32], stretches: &[usize]) {
    assert_eq!(values.len(), signs.len(), "one sign per value");
    #[cfg(target_arch = "x86_64")]
    if Tier::Avx2.is_available() {
        // SAFETY: AVX2 was found.
        unsafe { super::avx2::rotate(values, signs, stretches) };
        return;
    }
    rotate_by(values, signs, stretches, portable_eights);
}

#[inline(always)]
#[allow(clippy::inline_always)] // compiled anew inside a function with wider registers
pub(super) fn rotate_by(values: &mut [f32], signs: &[f32], stretches: &[usize], eights: impl Fn(&mut [f32; 8])) {
    for (value, sign) in values.iter_mut().zip(signs) {
        *value *= sign;
    }
    let mut rest = values;
    for &stretch in stretches {
        let (now, later) = rest.split_at_mut(stretch);
        let (blocks, odd) = now.as_chunks_mut::<8>();
        assert!(odd.is_empty(), "stretches are multiples of 8");
        for block in blocks {
            eights(block);
        }
        let mut half = 8;
        while half < stretch {
            for pair in now.chunks_exact_mut(2 * half) {
                let (low, high) = pair.split_at_mut(half);
                for (a, b) in low.iter_mut().zip(high) {
                    (*a, *b) = (*a + *b, *a - *b);
                }
            }
            half *= 2;
        }
        #[allow(clippy::cast_possible_truncation)] // counted in the error factor
        let scale = (1.0 / (stretch as f64).sqrt()) as f32;
        for value in now {
            *value *= scale;
        }
        rest = later;
    }
}

/// The first three stages, within eight values.
fn portable_eights(block: &mut [f32; 8]) {
    for half in [1, 2, 4] {
        for pair in block.chunks_exact_mut(2 * half) {
            let (low, high) = pair.split_at_mut(half);
            for (a, b) in low.iter_mut().zip(high) {
                (*a, *b) = (*a + *b, *a - *b);
            }
        }
    }
}

/// Quantises whole blocks of values to steps of `step = max|x| / 127` (`inverse` is `1 / step`, or 0), packs the codes as
/// [`super::Kernels::nibble_dots`] reads them, and returns partial sums of the squares of what the coarse and the fine
/// code lose.
///
/// # Panics
///
/// If `values` is not whole blocks, or a plane is not half as many bytes.
pub fn quantise(values: &[f32], step: f32, inverse: f32, high: &mut [u8], low: &mut [u8]) -> [[f32; 8]; 2] {
    assert!(values.len().is_multiple_of(BLOCK_DIMENSIONS), "whole blocks are needed");
    assert!(high.len() * 2 == values.len() && low.len() == high.len(), "one nibble per value in each plane");
    #[cfg(target_arch = "x86_64")]
    if Tier::Avx2.is_available() {
        // SAFETY: AVX2 was found.
        return unsafe { super::avx2::quantise(values, step, inverse, high, low) };
    }
    quantise_by(values, step, inverse, high, low)
}

#[inline(always)]
#[allow(clippy::inline_always)] // as above
pub(super) fn quantise_by(values: &[f32], step: f32, inverse: f32, high: &mut [u8], low: &mut [u8]) -> [[f32; 8]; 2] {
    /// Adding it rounds to the nearest integer, which then stands in the lowest bits.
    const ROUNDER: f32 = 12_582_912.0; // 1.5 * 2^23
    const HALF: usize = BLOCK_DIMENSIONS / 2;
    let (mut coarse, mut fine) = ([0.0_f32; 8], [0.0_f32; 8]);
    let blocks = values.as_chunks::<BLOCK_DIMENSIONS>().0.iter();
    let planes = high.as_chunks_mut::<HALF>().0.iter_mut().zip(low.as_chunks_mut::<HALF>().0);
    for (block, (high, low)) in blocks.zip(planes) {
        let mut codes = [0_u32; BLOCK_DIMENSIONS];
        for (codes, lanes) in codes.as_chunks_mut::<8>().0.iter_mut().zip(block.as_chunks::<8>().0) {
            for lane in 0..8 {
                let rounded = (lanes[lane] * inverse).clamp(-127.0, 127.0) + ROUNDER;
                let unsigned = rounded.to_bits().wrapping_add(128) & 0xff;
                codes[lane] = unsigned;
                let fine_gap = lanes[lane] - step * (rounded - ROUNDER);
                // A code's upper nibble is at most 240: exact in a float, and the cast through i32 is one instruction.
                let coarse_gap = lanes[lane] - step * ((unsigned & 0xf0).cast_signed() as f32 - 120.5);
                fine[lane] += fine_gap * fine_gap;
                coarse[lane] += coarse_gap * coarse_gap;
            }
        }
        for index in 0..HALF {
            let (a, b) = (codes[index], codes[index + HALF]);
            high[index] = byte((a >> 4) | (b & 0xf0));
            low[index] = byte((a & 15) | (b << 4));
        }
    }
    [coarse, fine]
}

#[inline(always)]
#[allow(clippy::inline_always, clippy::cast_possible_truncation)] // the lowest eight bits are what is wanted
const fn byte(bits: u32) -> u8 {
    bits as u8
}

/// The largest size of a value; 0 if there is none.
#[must_use]
pub fn largest(values: &[f32]) -> f32 {
    let (whole, rest) = values.as_chunks::<8>();
    let mut lanes = [0.0_f32; 8];
    for chunk in whole {
        for lane in 0..8 {
            let size = chunk[lane].abs();
            lanes[lane] = if size > lanes[lane] { size } else { lanes[lane] };
        }
    }
    rest.iter().map(|x| x.abs()).chain(lanes).fold(0.0, f32::max)
}
