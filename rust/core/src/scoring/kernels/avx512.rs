//! Kernels for AVX-512 F and BW with VNNI.
//!
//! `vpdpbusd` adds four products of an unsigned and a signed byte to a 32-bit lane without saturating, so upper nibbles
//! are multiplied where they stand, as sixteen times their value, and their sums shifted down at the end: exact, and far
//! from overflow (`240 * 127 * 65_536 / 16` for a lane).

use super::{AHEAD_BYTES, CoarseBound, F32_SAFE_SQUARES, Line, TILE_QUERIES};
use std::arch::x86_64::{
    __m128i, __m512, __m512i, _CMP_GE_OQ, _CMP_LT_OQ, _CMP_NLT_UQ, _MM_HINT_T0, _mm_add_epi32, _mm_cvtsi128_si32,
    _mm_prefetch, _mm_shuffle_epi32, _mm_storeu_si128, _mm256_add_epi32, _mm256_and_si256, _mm256_castsi256_si128,
    _mm256_extracti128_si256, _mm256_loadu_ps, _mm256_loadu_si256, _mm256_set1_epi8, _mm256_srli_epi16,
    _mm512_add_epi32, _mm512_add_pd, _mm512_add_ps, _mm512_and_si512, _mm512_castsi256_si512, _mm512_castsi512_si256,
    _mm512_cvtepi32_ps, _mm512_cvtps_pd, _mm512_dpbusd_epi32, _mm512_extracti64x4_epi64, _mm512_fmadd_ps,
    _mm512_inserti64x4, _mm512_loadu_pd, _mm512_loadu_ps, _mm512_loadu_si512, _mm512_mask_cmp_ps_mask,
    _mm512_maskz_loadu_epi32, _mm512_maskz_loadu_ps, _mm512_mul_pd, _mm512_mul_ps, _mm512_reduce_add_ps,
    _mm512_set1_epi8, _mm512_set1_ps, _mm512_setzero_pd, _mm512_setzero_ps, _mm512_setzero_si512, _mm512_shuffle_i64x2,
    _mm512_sqrt_ps, _mm512_srai_epi32, _mm512_srli_epi16, _mm512_storeu_pd, _mm512_sub_ps, _mm512_unpackhi_epi32,
    _mm512_unpackhi_epi64, _mm512_unpacklo_epi32, _mm512_unpacklo_epi64,
};

const BLOCK_BYTES: usize = 32;

/// Rows that share the loads of the query; with two sums each, as many as hide the latency of the multiplier.
const SHARING_ROWS: usize = 4;

/// Row `row` is at `place(row)`; `place(row + ahead)` is asked for meanwhile.
///
/// # Safety
///
/// For every index below `dots.len()`, `place` must return a row of `query.len()` readable `f32`, and `squares` must be
/// as long as `dots`.
#[target_feature(enable = "avx512f")]
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

/// `q.x` and `x.x` of `N` rows; asks for the rows of `next`.
///
/// # Safety
///
/// Each of `rows` must be `query.len()` readable `f32`; `next` is never read.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn row_sums<const N: usize>(
    query: &[f32],
    rows: [*const f32; N],
    next: [*const f32; N],
) -> ([f32; N], [f32; N]) {
    let dimensions = query.len();
    let mut sums = [[_mm512_setzero_ps(); 2]; N];
    // The first elements alone, so that the loads after them lie in one cache line each. Rows that do not begin like the
    // first one are no worse off than before.
    let head = rows[0].cast::<u8>().align_offset(64).min(64) / 4 % 16;
    let mut index = head.min(dimensions);
    if index > 0 {
        // SAFETY: the rows and the query have at least `index` elements.
        unsafe { add_masked(u16::MAX >> (16 - index), query.as_ptr(), rows, &mut sums) };
    }
    while index + 16 <= dimensions {
        // SAFETY: `index + 16 <= dimensions`, the length of the query and of the rows.
        let q = unsafe { _mm512_loadu_ps(query.as_ptr().add(index)) };
        for row in 0..N {
            // SAFETY: as above; what is asked for is not read.
            let x = unsafe { _mm512_loadu_ps(rows[row].add(index)) };
            _mm_prefetch::<_MM_HINT_T0>(next[row].wrapping_add(index).cast());
            sums[row] = [_mm512_fmadd_ps(q, x, sums[row][0]), _mm512_fmadd_ps(x, x, sums[row][1])];
        }
        index += 16;
    }
    if index < dimensions {
        // SAFETY: fewer than 16 elements are left.
        unsafe {
            let rows = rows.map(|row| row.add(index));
            add_masked(u16::MAX >> (16 - (dimensions - index)), query.as_ptr().add(index), rows, &mut sums);
        }
    }
    let (mut dots, mut squares) = ([0.0; N], [0.0; N]);
    for row in 0..N {
        (dots[row], squares[row]) = (_mm512_reduce_add_ps(sums[row][0]), _mm512_reduce_add_ps(sums[row][1]));
    }
    (dots, squares)
}

/// Adds the products of the elements that the mask lets through.
///
/// # Safety
///
/// Those elements of the query and of the rows must be readable.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn add_masked<const N: usize>(mask: u16, query: *const f32, rows: [*const f32; N], sums: &mut [[__m512; 2]; N]) {
    // SAFETY: by contract.
    let q = unsafe { _mm512_maskz_loadu_ps(mask, query) };
    for row in 0..N {
        // SAFETY: by contract.
        let x = unsafe { _mm512_maskz_loadu_ps(mask, rows[row]) };
        sums[row] = [_mm512_fmadd_ps(q, x, sums[row][0]), _mm512_fmadd_ps(x, x, sums[row][1])];
    }
}

/// The operations of the portable loop in their order.
///
/// # Safety
///
/// `row` must be `query.len()` readable `f32`.
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn exact_dot(query: &[f64], row: *const f32) -> (f64, f64) {
    let (mut dots, mut squares) = (_mm512_setzero_pd(), _mm512_setzero_pd());
    for index in (0..query.len() / 8 * 8).step_by(8) {
        // SAFETY: `index + 8 <= query.len()`, the length of both.
        let (q, x) = unsafe { (_mm512_loadu_pd(query.as_ptr().add(index)), _mm256_loadu_ps(row.add(index))) };
        let x = _mm512_cvtps_pd(x);
        dots = _mm512_add_pd(dots, _mm512_mul_pd(q, x));
        squares = _mm512_add_pd(squares, _mm512_mul_pd(x, x));
    }
    let mut lanes = [[0.0; 8]; 2];
    // SAFETY: eight doubles each.
    unsafe {
        _mm512_storeu_pd(lanes[0].as_mut_ptr(), dots);
        _mm512_storeu_pd(lanes[1].as_mut_ptr(), squares);
    }
    // SAFETY: the index runs over the query.
    super::exact_tail(query, |index| f64::from(unsafe { row.add(index).read_unaligned() }), lanes[0], lanes[1])
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

/// Two blocks of the query, the dimensions that stand in the lower nibbles of two blocks of codes and those in the upper.
///
/// # Safety
///
/// `at` must be 128 readable bytes.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn query_halves(at: *const i8) -> (__m512i, __m512i) {
    // SAFETY: 128 readable bytes by contract.
    let (first, second) = unsafe { (_mm512_loadu_si512(at.cast()), _mm512_loadu_si512(at.add(64).cast())) };
    (_mm512_shuffle_i64x2::<0b01_00_01_00>(first, second), _mm512_shuffle_i64x2::<0b11_10_11_10>(first, second))
}

/// The sums of the lanes of four vectors.
#[inline]
#[target_feature(enable = "avx512f")]
fn sums_i32(v: [__m512i; 4]) -> __m128i {
    let pair = |a, b| _mm512_add_epi32(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
    let (ab, cd) = (pair(v[0], v[1]), pair(v[2], v[3]));
    let abcd = _mm512_add_epi32(_mm512_unpacklo_epi64(ab, cd), _mm512_unpackhi_epi64(ab, cd));
    let half = _mm256_add_epi32(_mm512_castsi512_si256(abcd), _mm512_extracti64x4_epi64::<1>(abcd));
    _mm_add_epi32(_mm256_castsi256_si128(half), _mm256_extracti128_si256::<1>(half))
}

/// The sum of the lanes.
#[inline]
#[target_feature(enable = "avx512f")]
fn sum_i32(v: __m512i) -> i32 {
    let half = _mm256_add_epi32(_mm512_castsi512_si256(v), _mm512_extracti64x4_epi64::<1>(v));
    let quarter = _mm_add_epi32(_mm256_castsi256_si128(half), _mm256_extracti128_si256::<1>(half));
    let pair = _mm_add_epi32(quarter, _mm_shuffle_epi32::<0b00_00_11_10>(quarter));
    _mm_cvtsi128_si32(_mm_add_epi32(pair, _mm_shuffle_epi32::<0b00_00_00_01>(pair)))
}

/// # Safety
///
/// `codes` must hold `out.len()` rows of `query.len() / 2` bytes, and the query whole blocks.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
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

/// The products of `N` consecutive rows with the query, summed into sixteen lanes for each. Rows share the loads of the
/// query.
///
/// # Safety
///
/// `codes` must point to `N` rows of `query.len() / 2` readable bytes.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
unsafe fn row_products<const N: usize>(query: &[i8], codes: *const u8) -> [__m512i; N] {
    let blocks = query.len() / (2 * BLOCK_BYTES);
    let (low_mask, high_mask) = (_mm512_set1_epi8(15), _mm512_set1_epi8(-16));
    let mut low = [_mm512_setzero_si512(); N];
    let mut high = [_mm512_setzero_si512(); N];
    let mut block = 0;
    while block + 2 <= blocks {
        // SAFETY: two blocks of the query and of each row are left.
        let (q_low, q_high) = unsafe { query_halves(query.as_ptr().add(block * 2 * BLOCK_BYTES)) };
        for row in 0..N {
            // SAFETY: as above.
            let at = unsafe { codes.add((row * blocks + block) * BLOCK_BYTES) };
            // SAFETY: as above; what is asked for is not read.
            let bytes = unsafe { _mm512_loadu_si512(at.cast()) };
            if N > 1 {
                _mm_prefetch::<_MM_HINT_T0>(at.wrapping_add(AHEAD_BYTES).cast());
            }
            low[row] = _mm512_dpbusd_epi32(low[row], _mm512_and_si512(bytes, low_mask), q_low);
            high[row] = _mm512_dpbusd_epi32(high[row], _mm512_and_si512(bytes, high_mask), q_high);
        }
        block += 2;
    }
    if block < blocks {
        // SAFETY: one block of the query and of each row is left.
        let q = unsafe { _mm512_loadu_si512(query.as_ptr().add(block * 2 * BLOCK_BYTES).cast()) };
        for row in 0..N {
            // SAFETY: as above.
            let codes = unsafe { unpack(codes.add((row * blocks + block) * BLOCK_BYTES)) };
            low[row] = _mm512_dpbusd_epi32(low[row], codes, q);
        }
    }
    for row in 0..N {
        low[row] = _mm512_add_epi32(low[row], _mm512_srai_epi32::<4>(high[row]));
    }
    low
}

/// # Safety
///
/// As [`nibble_dots`] for every query and its results.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
pub(super) unsafe fn nibble_dots_tile(queries: [&[i8]; TILE_QUERIES], codes: &[u8], out: [&mut [i32]; TILE_QUERIES]) {
    let row_bytes = queries[0].len() / 2;
    let rows = out[0].len();
    let mut row = 0;
    while row + SHARING_ROWS <= rows {
        // SAFETY: so many rows of codes are left, and every query is as long as the first.
        let sums = unsafe { tile_products::<SHARING_ROWS>(queries, codes.as_ptr().add(row * row_bytes)) };
        for lane in 0..TILE_QUERIES {
            let slots = &mut out[lane][row..row + SHARING_ROWS];
            // SAFETY: the slice was checked to have four slots.
            unsafe { _mm_storeu_si128(slots.as_mut_ptr().cast(), sums_i32(sums[lane])) };
        }
        row += SHARING_ROWS;
    }
    while row < rows {
        // SAFETY: as above.
        let sums = unsafe { tile_products::<1>(queries, codes.as_ptr().add(row * row_bytes)) };
        for lane in 0..TILE_QUERIES {
            out[lane][row] = sum_i32(sums[lane][0]);
        }
        row += 1;
    }
}

/// As [`row_products`] for several queries, so that a row is unpacked once for all of them.
///
/// # Safety
///
/// As [`row_products`] for every query.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
unsafe fn tile_products<const N: usize>(
    queries: [&[i8]; TILE_QUERIES],
    codes: *const u8,
) -> [[__m512i; N]; TILE_QUERIES] {
    let blocks = queries[0].len() / (2 * BLOCK_BYTES);
    let mask = _mm512_set1_epi8(15);
    let mut sums = [[_mm512_setzero_si512(); N]; TILE_QUERIES];
    let mut block = 0;
    while block + 2 <= blocks {
        // Shifted here, unlike in `row_products`: one sum a query and row is what fits the registers.
        let mut halves = [[mask; 2]; N];
        for row in 0..N {
            // SAFETY: two blocks of each row are left.
            let bytes = unsafe { _mm512_loadu_si512(codes.add((row * blocks + block) * BLOCK_BYTES).cast()) };
            halves[row] = [_mm512_and_si512(bytes, mask), _mm512_and_si512(_mm512_srli_epi16::<4>(bytes), mask)];
        }
        for lane in 0..TILE_QUERIES {
            // SAFETY: two blocks of each query are left.
            let (q_low, q_high) = unsafe { query_halves(queries[lane].as_ptr().add(block * 2 * BLOCK_BYTES)) };
            for row in 0..N {
                sums[lane][row] = _mm512_dpbusd_epi32(sums[lane][row], halves[row][0], q_low);
                sums[lane][row] = _mm512_dpbusd_epi32(sums[lane][row], halves[row][1], q_high);
            }
        }
        block += 2;
    }
    if block < blocks {
        for row in 0..N {
            // SAFETY: one block of each row is left.
            let unpacked = unsafe { unpack(codes.add((row * blocks + block) * BLOCK_BYTES)) };
            for lane in 0..TILE_QUERIES {
                // SAFETY: and one of each query.
                let q = unsafe { _mm512_loadu_si512(queries[lane].as_ptr().add(block * 2 * BLOCK_BYTES).cast()) };
                sums[lane][row] = _mm512_dpbusd_epi32(sums[lane][row], unpacked, q);
            }
        }
    }
    sums
}

/// As the portable loop, sixteen rows at a time: the same operations in the same order.
///
/// # Safety
///
/// Every column must be as long as `raw`.
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn reaching(bound: &CoarseBound, floor: f32, raw: &[i32], columns: [&[f32]; 3], words: &mut [u64]) {
    let [steps, residuals, norms] = columns;
    let (scale, offset) = (_mm512_set1_ps(bound.scale), _mm512_set1_ps(bound.offset));
    let (per_residual, per_norm) = (_mm512_set1_ps(bound.residual_factor), _mm512_set1_ps(bound.norm_factor));
    let floor = _mm512_set1_ps(floor);
    words.fill(0);
    for at in (0..raw.len()).step_by(16) {
        let mask = u16::MAX >> (16 - (raw.len() - at).min(16));
        // SAFETY: the mask lets only those elements be read that `raw` and, by contract, the columns have.
        let (raw, step, residual, norm) = unsafe {
            (
                _mm512_maskz_loadu_epi32(mask, raw.as_ptr().add(at)),
                _mm512_maskz_loadu_ps(mask, steps.as_ptr().add(at)),
                _mm512_maskz_loadu_ps(mask, residuals.as_ptr().add(at)),
                _mm512_maskz_loadu_ps(mask, norms.as_ptr().add(at)),
            )
        };
        let approx = _mm512_mul_ps(step, _mm512_sub_ps(_mm512_mul_ps(scale, _mm512_cvtepi32_ps(raw)), offset));
        let error = _mm512_add_ps(_mm512_mul_ps(residual, per_residual), _mm512_mul_ps(norm, per_norm));
        let reaching = _mm512_mask_cmp_ps_mask::<_CMP_NLT_UQ>(mask, _mm512_add_ps(approx, error), floor);
        words[at / 64] |= u64::from(reaching) << (at % 64);
    }
}

/// As the portable loop, sixteen rows at a time: the same operations in the same order.
///
/// # Safety
///
/// `squares` must be as long as `dots`, and `words` must have a bit for each of them.
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn above(line: Line, dots: &[f32], squares: &[f32], words: &mut [u64]) {
    let (slope, rise, zero) = (_mm512_set1_ps(line.slope), _mm512_set1_ps(line.rise), _mm512_setzero_ps());
    let (smallest, largest) = (_mm512_set1_ps(F32_SAFE_SQUARES.start), _mm512_set1_ps(F32_SAFE_SQUARES.end));
    words.fill(0);
    for at in (0..dots.len()).step_by(16) {
        let mask = u16::MAX >> (16 - (dots.len() - at).min(16));
        // SAFETY: the mask lets only those elements be read that there are.
        let (dot, square) = unsafe {
            (_mm512_maskz_loadu_ps(mask, dots.as_ptr().add(at)), _mm512_maskz_loadu_ps(mask, squares.as_ptr().add(at)))
        };
        let is_large = _mm512_mask_cmp_ps_mask::<_CMP_GE_OQ>(mask, square, smallest);
        let is_safe = _mm512_mask_cmp_ps_mask::<_CMP_LT_OQ>(is_large, square, largest);
        let height = _mm512_sub_ps(_mm512_add_ps(dot, _mm512_mul_ps(slope, _mm512_sqrt_ps(square))), rise);
        let is_below = _mm512_mask_cmp_ps_mask::<_CMP_LT_OQ>(is_safe, height, zero);
        words[at / 64] |= u64::from(mask & !is_below) << (at % 64);
    }
}
