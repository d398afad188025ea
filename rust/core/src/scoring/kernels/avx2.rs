//! Kernels for AVX2 with FMA.
//!
//! The 4-bit codes are at most 15 and the query at most 127 in size, so a pair of products is at most 3,810 and eight
//! of them fit a signed 16-bit lane (30,480): sums are widened to 32 bits only every four blocks.

use super::{AHEAD_BYTES, CoarseBound, Line, TILE_QUERIES};
use std::arch::x86_64::{
    __m128i, __m256, __m256i, _CMP_NLT_UQ, _MM_HINT_T0, _mm_add_epi32, _mm_add_ps, _mm_add_ss, _mm_cvtsi128_si32,
    _mm_cvtss_f32, _mm_loadu_ps, _mm_movehdup_ps, _mm_movehl_ps, _mm_prefetch, _mm_shuffle_epi32, _mm_storeu_si128,
    _mm256_add_epi16, _mm256_add_epi32, _mm256_add_pd, _mm256_add_ps, _mm256_and_si256, _mm256_castps256_ps128,
    _mm256_castsi256_si128, _mm256_cmp_ps, _mm256_cvtepi32_ps, _mm256_cvtps_pd, _mm256_extractf128_ps,
    _mm256_extracti128_si256, _mm256_fmadd_ps, _mm256_hadd_epi32, _mm256_loadu_pd, _mm256_loadu_ps, _mm256_loadu_si256,
    _mm256_madd_epi16, _mm256_maddubs_epi16, _mm256_movemask_ps, _mm256_mul_pd, _mm256_mul_ps, _mm256_permute_ps,
    _mm256_permute2f128_ps, _mm256_set1_epi8, _mm256_set1_epi16, _mm256_set1_ps, _mm256_setzero_pd, _mm256_setzero_ps,
    _mm256_setzero_si256, _mm256_srli_epi16, _mm256_storeu_pd, _mm256_storeu_ps, _mm256_sub_ps, _mm256_xor_ps,
};

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

/// Rows that share the loads of the query.
const SHARING_ROWS: usize = 4;

/// Row `row` is at `place(row)`; `place(row + ahead)` is asked for meanwhile.
///
/// # Safety
///
/// For every index below `dots.len()`, `place` must return a row of `query.len()` readable `f32`, and `squares` must be
/// as long as `dots`.
#[target_feature(enable = "avx2,fma")]
pub(super) unsafe fn dot_squares(
    query: &[f32],
    place: impl Fn(usize) -> *const f32,
    ahead: usize,
    dots: &mut [f32],
    squares: &mut [f32],
) {
    let (dots, dots_left) = dots.as_chunks_mut::<SHARING_ROWS>();
    let (squares, squares_left) = squares.as_chunks_mut::<SHARING_ROWS>();
    let done = dots.len() * SHARING_ROWS;
    for (group, (dots, squares)) in dots.iter_mut().zip(squares).enumerate() {
        let row = group * SHARING_ROWS;
        let rows = [place(row), place(row + 1), place(row + 2), place(row + 3)];
        let later = row + ahead;
        let next = [place(later), place(later + 1), place(later + 2), place(later + 3)];
        // SAFETY: by contract.
        (*dots, *squares) = unsafe { row_sums(query, rows, next) };
    }
    for (index, (dot, square)) in dots_left.iter_mut().zip(squares_left).enumerate() {
        let row = place(done + index);
        // SAFETY: by contract.
        ([*dot], [*square]) = unsafe { row_sums(query, [row], [row]) };
    }
}

/// `q.x` and `x.x` of `N` rows; asks for the rows of `next`. The order of summation does not depend on `N`.
///
/// # Safety
///
/// Each of `rows` must be `query.len()` readable `f32`; `next` is never read.
#[inline]
#[target_feature(enable = "avx2,fma")]
unsafe fn row_sums<const N: usize>(
    query: &[f32],
    rows: [*const f32; N],
    next: [*const f32; N],
) -> ([f32; N], [f32; N]) {
    let dimensions = query.len();
    let whole = dimensions / 8 * 8;
    let mut sums = [[_mm256_setzero_ps(); 2]; N];
    for index in (0..whole).step_by(8) {
        // SAFETY: `index + 8 <= dimensions`, the length of the query and of the rows.
        let q = unsafe { _mm256_loadu_ps(query.as_ptr().add(index)) };
        for row in 0..N {
            // SAFETY: as above; what is asked for is not read.
            let x = unsafe { _mm256_loadu_ps(rows[row].add(index)) };
            if index % 16 == 0 {
                _mm_prefetch::<_MM_HINT_T0>(next[row].wrapping_add(index).cast());
            }
            sums[row] = [_mm256_fmadd_ps(q, x, sums[row][0]), _mm256_fmadd_ps(x, x, sums[row][1])];
        }
    }
    let (mut dots, mut squares) = ([0.0; N], [0.0; N]);
    for row in 0..N {
        let (mut dot, mut square) = (sum_f32(sums[row][0]), sum_f32(sums[row][1]));
        for (index, &q) in query.iter().enumerate().skip(whole) {
            // SAFETY: `index < dimensions`.
            let x = unsafe { rows[row].add(index).read_unaligned() };
            dot += q * x;
            square += x * x;
        }
        (dots[row], squares[row]) = (dot, square);
    }
    (dots, squares)
}

/// The operations of the portable loop in their order; the compiler does not find the registers for it by itself.
///
/// # Safety
///
/// `row` must be `query.len()` readable `f32`.
#[target_feature(enable = "avx2")]
pub(super) unsafe fn exact_dot(query: &[f64], row: *const f32) -> (f64, f64) {
    let mut sums = [[_mm256_setzero_pd(); 2]; 2];
    for index in (0..query.len() / 8 * 8).step_by(8) {
        for half in 0..2 {
            let at = index + half * 4;
            // SAFETY: `at + 4 <= query.len()`, the length of both.
            let (q, x) = unsafe { (_mm256_loadu_pd(query.as_ptr().add(at)), _mm_loadu_ps(row.add(at))) };
            let x = _mm256_cvtps_pd(x);
            sums[half][0] = _mm256_add_pd(sums[half][0], _mm256_mul_pd(q, x));
            sums[half][1] = _mm256_add_pd(sums[half][1], _mm256_mul_pd(x, x));
        }
    }
    let mut lanes = [[0.0; 8]; 2];
    for half in 0..2 {
        for which in 0..2 {
            // SAFETY: four doubles of eight, from the first or the fifth on.
            unsafe { _mm256_storeu_pd(lanes[which].as_mut_ptr().add(half * 4), sums[half][which]) };
        }
    }
    // SAFETY: the index runs over the query.
    super::exact_tail(query, |index| f64::from(unsafe { row.add(index).read_unaligned() }), lanes[0], lanes[1])
}

/// The portable loop, compiled for wider registers, with the stages inside a register by hand.
#[target_feature(enable = "avx2")]
pub(super) fn rotate(values: &mut [f32], signs: &[f32], stretches: &[usize]) {
    super::encode::rotate_by(values, signs, stretches, |block| eights(block));
}

/// The first three stages of a Walsh-Hadamard transform: in each, the sum of a pair of lanes and their difference.
#[inline]
#[target_feature(enable = "avx2")]
fn eights(block: &mut [f32; 8]) {
    // `a + -b` is `a - b` to the last bit, and so is `b + a`: the portable loop's results.
    let minus = |mask: [u32; 8]| {
        let mask = mask.map(|bit| f32::from_bits(bit << 31));
        // SAFETY: eight floats.
        unsafe { _mm256_loadu_ps(mask.as_ptr()) }
    };
    // SAFETY: eight floats.
    let mut v = unsafe { _mm256_loadu_ps(block.as_ptr()) };
    v = _mm256_add_ps(_mm256_permute_ps::<0b10_11_00_01>(v), _mm256_xor_ps(v, minus([0, 1, 0, 1, 0, 1, 0, 1])));
    v = _mm256_add_ps(_mm256_permute_ps::<0b01_00_11_10>(v), _mm256_xor_ps(v, minus([0, 0, 1, 1, 0, 0, 1, 1])));
    v = _mm256_add_ps(_mm256_permute2f128_ps::<1>(v, v), _mm256_xor_ps(v, minus([0, 0, 0, 0, 1, 1, 1, 1])));
    // SAFETY: eight floats.
    unsafe { _mm256_storeu_ps(block.as_mut_ptr(), v) };
}

/// The portable loop, compiled for wider registers.
#[target_feature(enable = "avx2")]
pub(super) fn quantise(values: &[f32], step: f32, inverse: f32, high: &mut [u8], low: &mut [u8]) -> [[f32; 8]; 2] {
    super::encode::quantise_by(values, step, inverse, high, low)
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

/// The sums of the lanes of four vectors.
#[inline]
#[target_feature(enable = "avx2")]
fn sums_i32(v: [__m256i; 4]) -> __m128i {
    let pairs = _mm256_hadd_epi32(_mm256_hadd_epi32(v[0], v[1]), _mm256_hadd_epi32(v[2], v[3]));
    _mm_add_epi32(_mm256_castsi256_si128(pairs), _mm256_extracti128_si256::<1>(pairs))
}

/// # Safety
///
/// `codes` must hold `out.len()` rows of `query.len() / 2` bytes, and the query whole blocks.
#[target_feature(enable = "avx2")]
pub(super) unsafe fn nibble_dots(query: &[i8], codes: &[u8], out: &mut [i32]) {
    let row_bytes = query.len() / 2;
    let (fours, rest) = out.as_chunks_mut::<4>();
    let mut at = codes.as_ptr();
    for slots in fours {
        // SAFETY: by contract there are as many rows as slots; the store is of four of them.
        unsafe {
            _mm_storeu_si128(slots.as_mut_ptr().cast(), sums_i32(row_products::<4>(query, at)));
            at = at.add(4 * row_bytes);
        }
    }
    for slot in rest {
        // SAFETY: as above.
        unsafe {
            *slot = sum_i32(row_products::<1>(query, at)[0]);
            at = at.add(row_bytes);
        }
    }
}

/// The products of `N` consecutive rows with the query, summed into eight 32-bit lanes for each. Rows share the loads of
/// the query.
///
/// # Safety
///
/// `codes` must point to `N` rows of `query.len() / 2` readable bytes.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn row_products<const N: usize>(query: &[i8], codes: *const u8) -> [__m256i; N] {
    let blocks = query.len() / (2 * BLOCK_BYTES);
    let ones = _mm256_set1_epi16(1);
    let mut wide = [_mm256_setzero_si256(); N];
    let mut block = 0;
    while block < blocks {
        let end = blocks.min(block + BLOCKS_PER_WIDENING);
        let mut narrow = [_mm256_setzero_si256(); N];
        while block < end {
            // SAFETY: `block` is below the number of blocks of the query and of each row.
            let (q_low, q_high) = unsafe {
                let q = query.as_ptr().add(block * 2 * BLOCK_BYTES);
                (_mm256_loadu_si256(q.cast()), _mm256_loadu_si256(q.add(BLOCK_BYTES).cast()))
            };
            for row in 0..N {
                // SAFETY: as above.
                let at = unsafe { codes.add((row * blocks + block) * BLOCK_BYTES) };
                if N > 1 && block % 2 == 0 {
                    _mm_prefetch::<_MM_HINT_T0>(at.wrapping_add(AHEAD_BYTES).cast());
                }
                // SAFETY: as above.
                let (low, high) = unsafe { unpack(at) };
                narrow[row] = _mm256_add_epi16(narrow[row], block_products(low, high, q_low, q_high));
            }
            block += 1;
        }
        for row in 0..N {
            wide[row] = _mm256_add_epi32(wide[row], _mm256_madd_epi16(narrow[row], ones));
        }
    }
    wide
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
        let mut sums = [0_i32; TILE_QUERIES];
        // SAFETY: four results of 32 bits.
        unsafe { _mm_storeu_si128(sums.as_mut_ptr().cast(), sums_i32(wide)) };
        for lane in 0..TILE_QUERIES {
            out[lane][row] = sums[lane];
        }
    }
}

/// As the portable loop, eight rows at a time: the same operations in the same order.
///
/// # Safety
///
/// Every column must be as long as `raw`, and `words` have one bit a row.
#[target_feature(enable = "avx2")]
pub(super) unsafe fn reaching(bound: &CoarseBound, floor: f32, raw: &[i32], columns: [&[f32]; 3], words: &mut [u64]) {
    let (scale, offset) = (_mm256_set1_ps(bound.scale), _mm256_set1_ps(bound.offset));
    let (per_residual, per_norm) = (_mm256_set1_ps(bound.residual_factor), _mm256_set1_ps(bound.norm_factor));
    let lowest = _mm256_set1_ps(floor);
    let (whole, rest) = words.split_at_mut(raw.len() / 64);
    for (index, word) in whole.iter_mut().enumerate() {
        *word = 0;
        for eight in 0..8 {
            let at = index * 64 + eight * 8;
            // SAFETY: `at + 8 <= raw.len()`, by contract the length of the columns too.
            let (raw, step, residual, norm) = unsafe {
                (
                    _mm256_loadu_si256(raw.as_ptr().add(at).cast()),
                    _mm256_loadu_ps(columns[0].as_ptr().add(at)),
                    _mm256_loadu_ps(columns[1].as_ptr().add(at)),
                    _mm256_loadu_ps(columns[2].as_ptr().add(at)),
                )
            };
            let approx = _mm256_mul_ps(step, _mm256_sub_ps(_mm256_mul_ps(scale, _mm256_cvtepi32_ps(raw)), offset));
            let error = _mm256_add_ps(_mm256_mul_ps(residual, per_residual), _mm256_mul_ps(norm, per_norm));
            let reaching = _mm256_cmp_ps::<_CMP_NLT_UQ>(_mm256_add_ps(approx, error), lowest);
            *word |= u64::from(_mm256_movemask_ps(reaching).cast_unsigned()) << (eight * 8);
        }
    }
    let done = whole.len() * 64;
    super::reaching_by(bound, floor, &raw[done..], columns.map(|column| &column[done..]), rest);
}

/// The portable loop with wider registers.
#[target_feature(enable = "avx2")]
pub(super) fn above(line: Line, dots: &[f32], squares: &[f32], words: &mut [u64]) {
    super::above_by(line, dots, squares, words);
}
