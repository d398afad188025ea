//! Kernels for AVX2 with FMA.
//!
//! The 4-bit codes are at most 15 and the query at most 127 in size, so a pair of products is at most 3,810 and eight
//! of them fit a signed 16-bit lane (30,480): sums are widened to 32 bits only every four blocks.

use super::TILE_QUERIES;
use std::arch::x86_64::{
    __m256, __m256i, _mm_add_epi32, _mm_add_ps, _mm_add_ss, _mm_cvtsi128_si32, _mm_cvtss_f32, _mm_movehdup_ps,
    _mm_movehl_ps, _mm_shuffle_epi32, _mm256_add_epi16, _mm256_add_epi32, _mm256_add_ps, _mm256_and_si256,
    _mm256_castps256_ps128, _mm256_castsi256_si128, _mm256_extractf128_ps, _mm256_extracti128_si256, _mm256_fmadd_ps,
    _mm256_loadu_ps, _mm256_loadu_si256, _mm256_madd_epi16, _mm256_maddubs_epi16, _mm256_set1_epi8, _mm256_set1_epi16,
    _mm256_setzero_ps, _mm256_setzero_si256, _mm256_srli_epi16,
};

type Results<'o> = (&'o mut f32, &'o mut f32);

/// Blocks of 64 dimensions whose 16-bit sums cannot overflow.
const BLOCKS_PER_WIDENING: usize = 4;
const BLOCK_BYTES: usize = 32;

#[inline]
#[target_feature(enable = "avx2,fma")]
fn sum_f32(v: __m256) -> f32 {
    let half = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
    let quarter = _mm_add_ps(half, _mm_movehl_ps(half, half));
    _mm_cvtss_f32(_mm_add_ss(quarter, _mm_movehdup_ps(quarter)))
}

#[inline]
#[target_feature(enable = "avx2")]
fn sum_i32(v: __m256i) -> i32 {
    let half = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256::<1>(v));
    let quarter = _mm_add_epi32(half, _mm_shuffle_epi32::<0b00_00_11_10>(half));
    _mm_cvtsi128_si32(_mm_add_epi32(quarter, _mm_shuffle_epi32::<0b00_00_00_01>(quarter)))
}

/// # Safety
///
/// Every pointer must be a row of `query.len()` readable `f32`.
#[target_feature(enable = "avx2,fma")]
pub(super) unsafe fn dot_squares<'o>(query: &[f32], mut work: impl Iterator<Item = (*const f32, Results<'o>)>) {
    while let Some((first, (first_dot, first_square))) = work.next() {
        if let Some((second, (second_dot, second_square))) = work.next() {
            // SAFETY: by contract. Two rows share the loads of the query.
            let [(a, b), (c, d)] = unsafe { row_sums(query, [first, second]) };
            (*first_dot, *first_square, *second_dot, *second_square) = (a, b, c, d);
        } else {
            // SAFETY: by contract.
            let [(a, b)] = unsafe { row_sums(query, [first]) };
            (*first_dot, *first_square) = (a, b);
        }
    }
}

/// `(q.x, x.x)` of `N` rows. The order of summation does not depend on `N`.
///
/// # Safety
///
/// As [`dot_squares`].
#[inline]
#[target_feature(enable = "avx2,fma")]
unsafe fn row_sums<const N: usize>(query: &[f32], rows: [*const f32; N]) -> [(f32, f32); N] {
    let dimensions = query.len();
    let whole = dimensions / 8 * 8;
    let mut dots = [[_mm256_setzero_ps(); 2]; N];
    let mut squares = [[_mm256_setzero_ps(); 2]; N];
    let mut index = 0;
    while index + 16 <= whole {
        for lane in 0..2 {
            let at = index + lane * 8;
            // SAFETY: `at + 8 <= dimensions`, the length of the query and of the rows.
            let q = unsafe { _mm256_loadu_ps(query.as_ptr().add(at)) };
            for row in 0..N {
                // SAFETY: as above.
                let x = unsafe { _mm256_loadu_ps(rows[row].add(at)) };
                dots[row][lane] = _mm256_fmadd_ps(q, x, dots[row][lane]);
                squares[row][lane] = _mm256_fmadd_ps(x, x, squares[row][lane]);
            }
        }
        index += 16;
    }
    let mut sums = [(0.0, 0.0); N];
    for row in 0..N {
        if index < whole {
            // SAFETY: `index + 8 <= dimensions`.
            let (q, x) = unsafe { (_mm256_loadu_ps(query.as_ptr().add(index)), _mm256_loadu_ps(rows[row].add(index))) };
            dots[row][0] = _mm256_fmadd_ps(q, x, dots[row][0]);
            squares[row][0] = _mm256_fmadd_ps(x, x, squares[row][0]);
        }
        let mut dot = sum_f32(_mm256_add_ps(dots[row][0], dots[row][1]));
        let mut square = sum_f32(_mm256_add_ps(squares[row][0], squares[row][1]));
        for (index, &q) in query.iter().enumerate().skip(whole) {
            // SAFETY: `index < dimensions`.
            let x = unsafe { rows[row].add(index).read_unaligned() };
            dot += q * x;
            square += x * x;
        }
        sums[row] = (dot, square);
    }
    sums
}

/// The portable loop, compiled for wider registers; the operations and their order are the same.
///
/// # Safety
///
/// `row` must be `query.len()` readable `f32`.
#[target_feature(enable = "avx2")]
pub(super) unsafe fn exact_dot(query: &[f64], row: *const f32) -> (f64, f64) {
    // SAFETY: the index runs over the query.
    super::exact_sums(query, |index| f64::from(unsafe { row.add(index).read_unaligned() }))
}

/// Adds the products of one block of codes and one block of the query to 16-bit lanes.
#[inline]
#[target_feature(enable = "avx2")]
fn block_products(low: __m256i, high: __m256i, q_low: __m256i, q_high: __m256i) -> __m256i {
    _mm256_add_epi16(_mm256_maddubs_epi16(low, q_low), _mm256_maddubs_epi16(high, q_high))
}

/// # Safety
///
/// `at` must be 32 readable bytes.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn unpack(at: *const u8) -> (__m256i, __m256i) {
    let mask = _mm256_set1_epi8(15);
    // SAFETY: 32 readable bytes by contract.
    let bytes = unsafe { _mm256_loadu_si256(at.cast()) };
    (_mm256_and_si256(bytes, mask), _mm256_and_si256(_mm256_srli_epi16::<4>(bytes), mask))
}

/// # Safety
///
/// `codes` must hold `out.len()` rows of `query.len() / 2` bytes, and the query whole blocks.
#[target_feature(enable = "avx2")]
pub(super) unsafe fn nibble_dots(query: &[i8], codes: &[u8], out: &mut [i32]) {
    let blocks = query.len() / (2 * BLOCK_BYTES);
    let ones = _mm256_set1_epi16(1);
    for (row, slot) in out.iter_mut().enumerate() {
        let mut wide = _mm256_setzero_si256();
        let mut block = 0;
        while block < blocks {
            let end = blocks.min(block + BLOCKS_PER_WIDENING);
            let mut narrow = _mm256_setzero_si256();
            while block < end {
                // SAFETY: `row` and `block` are below the counts that the contract states for `codes` and `query`.
                let (low, high, q_low, q_high) = unsafe {
                    let (low, high) = unpack(codes.as_ptr().add((row * blocks + block) * BLOCK_BYTES));
                    let q = query.as_ptr().add(block * 2 * BLOCK_BYTES);
                    (low, high, _mm256_loadu_si256(q.cast()), _mm256_loadu_si256(q.add(BLOCK_BYTES).cast()))
                };
                narrow = _mm256_add_epi16(narrow, block_products(low, high, q_low, q_high));
                block += 1;
            }
            wide = _mm256_add_epi32(wide, _mm256_madd_epi16(narrow, ones));
        }
        *slot = sum_i32(wide);
    }
}

/// # Safety
///
/// As [`nibble_dots`] for every query and its results.
#[target_feature(enable = "avx2")]
pub(super) unsafe fn nibble_dots_tile(queries: [&[i8]; TILE_QUERIES], codes: &[u8], out: [&mut [i32]; TILE_QUERIES]) {
    let blocks = queries[0].len() / (2 * BLOCK_BYTES);
    let rows = out[0].len();
    let ones = _mm256_set1_epi16(1);
    for row in 0..rows {
        let mut wide = [_mm256_setzero_si256(); TILE_QUERIES];
        let mut block = 0;
        while block < blocks {
            let end = blocks.min(block + BLOCKS_PER_WIDENING);
            let mut narrow = [_mm256_setzero_si256(); TILE_QUERIES];
            while block < end {
                // SAFETY: `row` and `block` are below the counts that the contract states for `codes`.
                let (low, high) = unsafe { unpack(codes.as_ptr().add((row * blocks + block) * BLOCK_BYTES)) };
                for lane in 0..TILE_QUERIES {
                    // SAFETY: every query has `blocks` whole blocks.
                    let (q_low, q_high) = unsafe {
                        let q = queries[lane].as_ptr().add(block * 2 * BLOCK_BYTES);
                        (_mm256_loadu_si256(q.cast()), _mm256_loadu_si256(q.add(BLOCK_BYTES).cast()))
                    };
                    narrow[lane] = _mm256_add_epi16(narrow[lane], block_products(low, high, q_low, q_high));
                }
                block += 1;
            }
            for lane in 0..TILE_QUERIES {
                wide[lane] = _mm256_add_epi32(wide[lane], _mm256_madd_epi16(narrow[lane], ones));
            }
        }
        for lane in 0..TILE_QUERIES {
            out[lane][row] = sum_i32(wide[lane]);
        }
    }
}
