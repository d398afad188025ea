//! The inner loops, one implementation per instruction set, and the only `unsafe` code of the scoring core.
//!
//! # Rules
//!
//! * A [`Kernels`] value can only be made for a [`Tier`] that this processor has, so calling through it is sound.
//! * Two kinds of loop exist. The *fast* ones (`f32` dot products, integer dot products of 4-bit codes) differ between
//!   tiers in rounding or not at all; the *exact* one ([`Rows::exact_dot`]) is one fixed sequence of `f64` operations
//!   on every tier, and every score that leaves the core was computed by it. So results never depend on the processor.
//! * [`Rows`] describes memory that may belong to Python and may be written by another thread while it is read. It is
//!   read through raw pointers only, never through a `&[f32]`; no address, length or branch that matters for memory
//!   safety depends on a value read from it. A torn or changing value gives some number, never an access out of bounds.
//!
//! # Bounds
//!
//! [`Kernels::dot_squares`] sums at least eight partial sums side by side on every tier, so no product passes through more
//! than `h = d/8 + 16` roundings for `d` dimensions, and `|computed - exact| <= gamma(h) * |q||x|` with
//! `gamma(h) = h*u/(1 - h*u)`, `u = 2^-24` (Higham, *Accuracy and Stability of Numerical Algorithms*, 2nd ed., chapters 3
//! and 4), as long as nothing over- or underflows. See [`f32_error_factor`] and [`F32_SAFE_SQUARES`].
//! [`Kernels::nibble_dots`] is integer arithmetic and exact for at most [`MAX_DIMENSIONS`] dimensions.

#![allow(unsafe_code)]
#![allow(clippy::cast_ptr_alignment)] // every read is an unaligned one
#![allow(clippy::needless_range_loop, clippy::needless_pass_by_value)] // lanes of several arrays go together

use half::slice::HalfFloatSliceExt;
use std::marker::PhantomData;

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
pub mod encode;
#[cfg(target_arch = "aarch64")]
mod neon;
mod scalar;

/// How the coarse pass turns an integer dot product into a bound: `approx = row.step * (scale * raw - offset)` and
/// `error = row.coarse_residual * residual_factor + row.norm * norm_factor`, all in `f32`, its rounding included.
#[derive(Clone, Copy, Debug)]
pub struct CoarseBound {
    /// See above.
    pub scale: f32,
    /// See above.
    pub offset: f32,
    /// See above.
    pub residual_factor: f32,
    /// See above.
    pub norm_factor: f32,
}

/// How far ahead of themselves kernels that read many rows ask for memory: eight rows of 384 elements. Half as far and twice as
/// far were as fast; without it a scan of memory took a quarter longer.
const AHEAD_BYTES: usize = 12_288;

/// The rows of a matrix that [`Kernels::dot_squares`] reads.
#[derive(Clone, Copy, Debug)]
pub enum Chosen<'l> {
    /// Rows side by side, from this one on.
    From(usize),
    /// The first of these; those behind them are asked for.
    Listed(&'l [u32]),
}

/// Where a row of sums may still be among the best: not where `dot + slope * sqrt(square) - rise < 0`.
#[derive(Clone, Copy, Debug)]
pub struct Line {
    /// See above.
    pub slope: f32,
    /// See above.
    pub rise: f32,
}

impl Line {
    /// Whether a row is below the line. Sums that say nothing ([`F32_SAFE_SQUARES`]) are not below.
    #[inline]
    #[must_use]
    #[allow(clippy::needless_bitwise_bool, clippy::manual_range_contains)] // without branches many rows go at once
    pub fn is_above(self, dot: f32, square: f32) -> bool {
        let is_safe = (square >= F32_SAFE_SQUARES.start) & (square < F32_SAFE_SQUARES.end);
        !(is_safe & (dot + self.slope * square.sqrt() - self.rise < 0.0))
    }
}

/// The most rows that [`Kernels::dot_squares`] looks ahead.
pub const MAX_ROWS_AHEAD: usize = 64;

/// [`AHEAD_BYTES`] in rows of an `f32` matrix.
#[must_use]
pub fn rows_ahead(dimensions: usize) -> usize {
    (AHEAD_BYTES / (4 * dimensions)).clamp(4, MAX_ROWS_AHEAD)
}

/// Largest number of dimensions: `15 * 127 * 65_536` stays far below `i32::MAX`, and `gamma` far below one.
pub const MAX_DIMENSIONS: usize = 65_536;

/// Codes are stored in blocks of this many dimensions: 32 bytes of two 4-bit codes each.
pub const BLOCK_DIMENSIONS: usize = 64;

/// Queries that [`Kernels::nibble_dots_tile`] multiplies with one unpacked row.
pub const TILE_QUERIES: usize = 4;

/// Squared norms between which the `f32` kernels neither overflow nor lose an amount to underflow that matters beside
/// [`f32_error_factor`]; rows outside are computed in `f64`.
pub const F32_SAFE_SQUARES: std::ops::Range<f32> = 1e-24..1e30;

/// `gamma(d/8 + 16)` of the module's documentation, doubled as a margin.
#[must_use]
pub fn f32_error_factor(dimensions: usize) -> f64 {
    let unit = (dimensions as f64 / 8.0 + 16.0) * f64::from(f32::EPSILON) / 2.0;
    2.0 * unit / (1.0 - unit)
}

/// An instruction set with kernels of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tier {
    /// Portable Rust; always there.
    Scalar,
    /// 128-bit NEON of aarch64.
    Neon,
    /// 256-bit AVX2 with FMA.
    Avx2,
    /// AVX-512 F and BW with VNNI.
    Avx512,
}

impl Tier {
    /// Every tier, slowest first.
    pub const ALL: [Self; 4] = [Self::Scalar, Self::Neon, Self::Avx2, Self::Avx512];

    /// The name by which it is forced: `scalar`, `neon`, `avx2`, `avx512`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Scalar => "scalar",
            Self::Neon => "neon",
            Self::Avx2 => "avx2",
            Self::Avx512 => "avx512",
        }
    }

    /// Whether this processor can run it.
    #[must_use]
    pub fn is_available(self) -> bool {
        match self {
            Self::Scalar => true,
            #[cfg(target_arch = "aarch64")]
            Self::Neon => std::arch::is_aarch64_feature_detected!("neon"),
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma"),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => {
                std::arch::is_x86_feature_detected!("avx512f")
                    && std::arch::is_x86_feature_detected!("avx512bw")
                    && std::arch::is_x86_feature_detected!("avx512vnni")
            }
            #[allow(unreachable_patterns)]
            _ => false,
        }
    }
}

/// The element type of an array of vectors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Element {
    /// IEEE 754 binary16.
    F16,
    /// IEEE 754 binary32.
    F32,
    /// IEEE 754 binary64.
    F64,
}

impl Element {
    /// Bytes of one element.
    #[must_use]
    pub const fn size(self) -> usize {
        match self {
            Self::F16 => 2,
            Self::F32 => 4,
            Self::F64 => 8,
        }
    }
}

/// A matrix in memory that may change while it is read: rows of contiguous elements at a constant distance in bytes.
#[derive(Clone, Copy)]
#[allow(clippy::struct_field_names)] // a number of rows is called what it is
pub struct Rows<'a> {
    start: *const u8,
    rows: usize,
    dimensions: usize,
    stride_bytes: isize,
    element: Element,
    owner: PhantomData<&'a [u8]>,
}

// SAFETY: `Rows` only ever reads, and the module's rules allow the memory to change under it.
unsafe impl Send for Rows<'_> {}
// SAFETY: as above; there is no state of its own to share.
unsafe impl Sync for Rows<'_> {}

impl<'a> Rows<'a> {
    /// Describes foreign memory.
    ///
    /// # Safety
    ///
    /// `dimensions` must be at least 1. For the lifetime `'a` every row `start + row * stride_bytes`, `row < rows`, must be `dimensions` readable
    /// elements. Their values may change at any time; alignment does not matter.
    #[must_use]
    pub const unsafe fn from_raw(
        start: *const u8,
        rows: usize,
        dimensions: usize,
        stride_bytes: isize,
        element: Element,
    ) -> Self {
        Self { start, rows, dimensions, stride_bytes, element, owner: PhantomData }
    }

    /// Describes rows of a slice.
    ///
    /// # Panics
    ///
    /// If the slice does not hold a whole number of rows.
    #[must_use]
    pub fn from_slice(values: &'a [f32], dimensions: usize) -> Self {
        assert!(dimensions > 0 && values.len().is_multiple_of(dimensions), "whole rows are needed");
        let stride_bytes = isize::try_from(dimensions * 4).expect("a row is smaller than the address space");
        let rows = values.len() / dimensions;
        Self {
            start: values.as_ptr().cast(),
            rows,
            dimensions,
            stride_bytes,
            element: Element::F32,
            owner: PhantomData,
        }
    }

    /// Describes rows of `f32` in bytes that may change, such as those of a mapped file.
    ///
    /// # Panics
    ///
    /// If the bytes do not hold a whole number of rows.
    #[must_use]
    pub fn from_bytes(bytes: &'a [u8], dimensions: usize) -> Self {
        assert!(dimensions > 0 && bytes.len().is_multiple_of(dimensions * 4), "whole rows are needed");
        let stride_bytes = isize::try_from(dimensions * 4).expect("a row is smaller than the address space");
        let rows = bytes.len() / (dimensions * 4);
        Self { start: bytes.as_ptr(), rows, dimensions, stride_bytes, element: Element::F32, owner: PhantomData }
    }

    /// Number of rows.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.rows
    }

    /// Whether there is no row.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.rows == 0
    }

    /// Elements of a row.
    #[must_use]
    pub const fn dimensions(&self) -> usize {
        self.dimensions
    }

    /// The type of an element.
    #[must_use]
    pub const fn element(&self) -> Element {
        self.element
    }

    fn row(&self, row: usize) -> *const u8 {
        assert!(row < self.rows, "row {row} of {}", self.rows);
        let row = isize::try_from(row).expect("checked against the number of rows");
        // SAFETY: in bounds by the assertion and the promise made to `from_raw`.
        unsafe { self.start.offset(row * self.stride_bytes) }
    }

    /// A row as `f64`.
    ///
    /// # Panics
    ///
    /// If `row` is out of range.
    #[must_use]
    pub fn wide(&self, row: usize) -> Vec<f64> {
        let start = self.row(row);
        // SAFETY: the elements of one row lie side by side, so each is a row of one element of the same matrix.
        let size = isize::try_from(self.element.size()).expect("an element is small");
        unsafe { Self::from_raw(start, self.dimensions, 1, size, self.element) }.column()
    }

    /// The first element of every row as `f64`: what a column of numbers is made of.
    #[must_use]
    pub fn column(&self) -> Vec<f64> {
        if usize::try_from(self.stride_bytes) == Ok(self.element.size()) {
            // A distance that the compiler knows lets it convert several at once.
            let at = |row: usize, size: usize| self.start.wrapping_add(row * size);
            return self.column_from(|row| at(row, 2), |row| at(row, 4), |row| at(row, 8));
        }
        let at = |row: usize| self.row(row);
        self.column_from(at, at, at)
    }

    /// [`Self::column`] with the places of rows of halves, singles and doubles.
    #[inline(always)]
    #[allow(clippy::inline_always)] // the places must be known inside the loops
    fn column_from(
        &self,
        half: impl Fn(usize) -> *const u8,
        single: impl Fn(usize) -> *const u8,
        double: impl Fn(usize) -> *const u8,
    ) -> Vec<f64> {
        let rows = 0..self.rows;
        // SAFETY (all three): a row has at least one element, by the promise made to `from_raw`.
        match self.element {
            Element::F32 => rows.map(|row| f64::from(unsafe { single(row).cast::<f32>().read_unaligned() })).collect(),
            Element::F64 => rows.map(|row| unsafe { double(row).cast::<f64>().read_unaligned() }).collect(),
            Element::F16 => {
                let bits = |row| unsafe { half(row).cast::<u16>().read_unaligned() };
                rows.map(|row| half::f16::from_bits(bits(row)).to_f64()).collect()
            }
        }
    }

    /// Copies a row into `out` as `f32`, rounding `f64` elements to nearest.
    ///
    /// # Panics
    ///
    /// If `row` is out of range or `out` is not `dimensions` long.
    pub fn copy_f32(&self, row: usize, out: &mut [f32]) {
        assert_eq!(out.len(), self.dimensions, "one slot per dimension");
        let start = self.row(row);
        // SAFETY (all three): the row holds `dimensions` elements and so does `out`; the copies are of bytes, so
        // alignment does not matter, and `out` cannot overlap memory that was handed in as `Rows`.
        match self.element {
            Element::F32 => unsafe { std::ptr::copy_nonoverlapping(start, out.as_mut_ptr().cast(), out.len() * 4) },
            Element::F64 => {
                for (index, slot) in out.iter_mut().enumerate() {
                    #[allow(clippy::cast_possible_truncation)] // rounding is what is wanted here
                    let value = unsafe { start.cast::<f64>().add(index).read_unaligned() } as f32;
                    *slot = value;
                }
            }
            Element::F16 => {
                let mut halves = [half::f16::ZERO; 64];
                for (piece, slots) in out.chunks_mut(64).enumerate() {
                    let bytes = slots.len() * 2;
                    unsafe { std::ptr::copy_nonoverlapping(start.add(piece * 128), halves.as_mut_ptr().cast(), bytes) };
                    halves[..slots.len()].convert_to_f32_slice(slots);
                }
            }
        }
    }

    /// `(q.x, x.x)` in `f64`: element `i` goes to partial sum `i % 8`, the sums are added in a fixed tree. The relative
    /// error of either is at most `(d/8 + 4) * 2^-53` of the sum of the absolute products.
    ///
    /// # Panics
    ///
    /// If `row` is out of range or the query has another number of dimensions.
    #[must_use]
    pub fn exact_dot(&self, query: &[f64], row: usize) -> (f64, f64) {
        assert_eq!(query.len(), self.dimensions, "query and rows have the same dimensions");
        let start = self.row(row);
        #[cfg(target_arch = "x86_64")]
        if self.element == Element::F32 {
            if Tier::Avx512.is_available() {
                // SAFETY: AVX-512 F was found, and the row is as long as the query.
                return unsafe { avx512::exact_dot(query, start.cast()) };
            }
            if Tier::Avx2.is_available() {
                // SAFETY: AVX2 was found, and the row is as long as the query.
                return unsafe { avx2::exact_dot(query, start.cast()) };
            }
        }
        match self.element {
            // SAFETY (all three): the index runs over the query, which is as long as the row.
            Element::F32 => exact_sums(query, |i| f64::from(unsafe { start.cast::<f32>().add(i).read_unaligned() })),
            Element::F64 => exact_sums(query, |i| unsafe { start.cast::<f64>().add(i).read_unaligned() }),
            Element::F16 => exact_sums(query, |i| {
                // SAFETY: as above.
                half::f16::from_bits(unsafe { start.cast::<u16>().add(i).read_unaligned() }).to_f64()
            }),
        }
    }
}

impl Rows<'_> {
    /// `|q - x|^2` in `f64`, with the order of summation and the error of [`Self::exact_dot`].
    ///
    /// # Panics
    ///
    /// If `row` is out of range or the query has another number of dimensions.
    #[must_use]
    pub fn exact_distance_square(&self, query: &[f64], row: usize) -> f64 {
        assert_eq!(query.len(), self.dimensions, "query and rows have the same dimensions");
        let start = self.row(row);
        let difference = |i: usize| {
            // SAFETY: the index runs over the query, which is as long as the row.
            let x = unsafe {
                match self.element {
                    Element::F32 => f64::from(start.cast::<f32>().add(i).read_unaligned()),
                    Element::F64 => start.cast::<f64>().add(i).read_unaligned(),
                    Element::F16 => half::f16::from_bits(start.cast::<u16>().add(i).read_unaligned()).to_f64(),
                }
            };
            query[i] - x
        };
        exact_sums(query, difference).1
    }
}

#[inline(always)]
#[allow(clippy::inline_always)] // the element type must be known inside the loop
fn exact_sums(query: &[f64], value: impl Fn(usize) -> f64) -> (f64, f64) {
    let mut dots = [0.0_f64; 8];
    let mut squares = [0.0_f64; 8];
    let whole = query.len() / 8 * 8; // separate multiplications and additions: a fused one would differ between tiers
    for (block, chunk) in query[..whole].chunks_exact(8).enumerate() {
        for lane in 0..8 {
            let x = value(block * 8 + lane);
            dots[lane] += chunk[lane] * x;
            squares[lane] += x * x;
        }
    }
    exact_tail(query, value, dots, squares)
}

/// The end of [`exact_sums`]: the elements after the last whole block of eight, and the tree.
#[inline(always)]
#[allow(clippy::inline_always)] // as above
fn exact_tail(query: &[f64], value: impl Fn(usize) -> f64, mut dots: [f64; 8], mut squares: [f64; 8]) -> (f64, f64) {
    let whole = query.len() / 8 * 8;
    for (lane, &q) in query[whole..].iter().enumerate() {
        let x = value(whole + lane);
        dots[lane] += q * x;
        squares[lane] += x * x;
    }
    let tree = |s: [f64; 8]| ((s[0] + s[4]) + (s[2] + s[6])) + ((s[1] + s[5]) + (s[3] + s[7]));
    (tree(dots), tree(squares))
}

/// The sum of the squares, in the order of [`Rows::exact_dot`].
#[must_use]
pub fn exact_square(values: &[f64]) -> f64 {
    let mut squares = [0.0_f64; 8];
    let (blocks, rest) = values.as_chunks::<8>();
    for block in blocks {
        for lane in 0..8 {
            squares[lane] += block[lane] * block[lane];
        }
    }
    exact_tail(rest, |index| rest[index], [0.0; 8], squares).1
}

/// The kernels of one tier. Holding one proves that the processor has the tier.
#[derive(Clone, Copy, Debug)]
pub struct Kernels(Tier);

impl Kernels {
    /// The kernels of `tier`, or `None` if this processor does not have it.
    #[must_use]
    pub fn forced(tier: Tier) -> Option<Self> {
        tier.is_available().then_some(Self(tier))
    }

    /// The fastest kernels that this processor has.
    #[must_use]
    pub fn detect() -> Self {
        let best = Tier::ALL.into_iter().rev().find(|tier| tier.is_available());
        Self(best.unwrap_or(Tier::Scalar))
    }

    /// The tier these kernels are of.
    #[must_use]
    pub const fn tier(self) -> Tier {
        self.0
    }

    /// For `dots.len()` rows of an `f32` matrix: `q.x` into `dots` and `x.x` into `squares`, in `f32`. Memory is asked for
    /// some rows ahead, so a list of rows should go on with those that come next.
    ///
    /// # Panics
    ///
    /// If the rows are not `f32`, a row is out of range, or lengths disagree.
    pub fn dot_squares(
        self,
        query: &[f32],
        rows: &Rows<'_>,
        chosen: Chosen<'_>,
        dots: &mut [f32],
        squares: &mut [f32],
    ) {
        assert_eq!(rows.element, Element::F32, "the fast kernel reads f32");
        assert_eq!(query.len(), rows.dimensions, "query and rows have the same dimensions");
        assert_eq!(squares.len(), dots.len(), "one result per row");
        if dots.is_empty() {
            return;
        }
        match chosen {
            Chosen::From(first) => {
                assert!(first.checked_add(dots.len()).is_some_and(|end| end <= rows.rows), "rows from {first} on");
                let place = |index: usize| {
                    // Rows beyond the last are asked for and never read, so the address may be any.
                    let row = first.wrapping_add(index).cast_signed();
                    rows.start.wrapping_offset(row.wrapping_mul(rows.stride_bytes)).cast::<f32>()
                };
                // SAFETY: the rows of every index below `dots.len()` are in range.
                unsafe { self.dot_squares_at(query, place, dots, squares) };
            }
            Chosen::Listed(listed) => {
                assert!(dots.len() <= listed.len(), "one row per result");
                let place = |index: usize| rows.row(listed[index.min(listed.len() - 1)] as usize).cast::<f32>();
                // SAFETY: `Rows::row` checks every row.
                unsafe { self.dot_squares_at(query, place, dots, squares) };
            }
        }
    }

    /// # Safety
    ///
    /// For every index below `dots.len()`, `place` must return a row of `query.len()` readable `f32`, and `squares` must
    /// be as long as `dots`.
    unsafe fn dot_squares_at(
        self,
        query: &[f32],
        place: impl Fn(usize) -> *const f32,
        dots: &mut [f32],
        squares: &mut [f32],
    ) {
        let work = |dots, squares| std::iter::zip(dots, squares).enumerate().map(|(index, out)| (place(index), out));
        match self.0 {
            Tier::Scalar => scalar::dot_squares(query, work(dots, squares)),
            #[cfg(target_arch = "x86_64")]
            // SAFETY: `self` proves AVX2 and FMA; each place is a row of `query.len()` readable elements.
            Tier::Avx2 => unsafe { avx2::dot_squares(query, place, rows_ahead(query.len()), dots, squares) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: `self` proves AVX-512 F; the places are as above.
            Tier::Avx512 => unsafe { avx512::dot_squares(query, place, rows_ahead(query.len()), dots, squares) },
            #[cfg(target_arch = "aarch64")]
            // SAFETY: `self` proves NEON; the places are as above.
            Tier::Neon => unsafe { neon::dot_squares(query, work(dots, squares)) },
            #[allow(unreachable_patterns)]
            _ => unreachable!("a tier of another architecture is never available"),
        }
    }

    /// Integer dot products of consecutive rows of packed 4-bit codes with one signed query.
    ///
    /// Row `r` is `codes[r * query.len() / 2 ..][.. query.len() / 2]`; in each 32 bytes the low halves are dimensions
    /// 0 to 31 of a block and the high halves 32 to 63.
    ///
    /// # Panics
    ///
    /// If the query is not whole blocks, holds -128, or `codes` does not hold `out.len()` rows.
    pub fn nibble_dots(self, query: &[i8], codes: &[u8], out: &mut [i32]) {
        let row_bytes = check_codes(query);
        assert_eq!(codes.len(), out.len() * row_bytes, "codes hold one row per result");
        match self.0 {
            Tier::Scalar => scalar::nibble_dots(query, codes, out),
            #[cfg(target_arch = "x86_64")]
            // SAFETY: `self` proves AVX2; lengths were checked.
            Tier::Avx2 => unsafe { avx2::nibble_dots(query, codes, out) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: `self` proves AVX-512 F, BW and VNNI; lengths were checked.
            Tier::Avx512 => unsafe { avx512::nibble_dots(query, codes, out) },
            #[cfg(target_arch = "aarch64")]
            // SAFETY: `self` proves NEON; lengths were checked.
            Tier::Neon => unsafe { neon::nibble_dots(query, codes, out) },
            #[allow(unreachable_patterns)]
            _ => unreachable!("a tier of another architecture is never available"),
        }
    }

    /// As [`Self::nibble_dots`] for [`TILE_QUERIES`] queries at once, so that a row is unpacked once for all of them.
    ///
    /// # Panics
    ///
    /// As [`Self::nibble_dots`].
    pub fn nibble_dots_tile(self, queries: [&[i8]; TILE_QUERIES], codes: &[u8], out: [&mut [i32]; TILE_QUERIES]) {
        let row_bytes = queries.map(check_codes)[0];
        for (query, slots) in queries.iter().zip(&out) {
            assert_eq!(query.len(), row_bytes * 2, "all queries have the same dimensions");
            assert_eq!(codes.len(), slots.len() * row_bytes, "codes hold one row per result");
        }
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: `self` proves AVX2; lengths were checked.
            Tier::Avx2 => unsafe { avx2::nibble_dots_tile(queries, codes, out) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: `self` proves AVX-512 F, BW and VNNI; lengths were checked.
            Tier::Avx512 => unsafe { avx512::nibble_dots_tile(queries, codes, out) },
            _ => {
                for (query, slots) in queries.into_iter().zip(out) {
                    self.nibble_dots(query, codes, slots);
                }
            }
        }
    }
}

impl Kernels {
    /// Sets bit `row` of `words` for every row whose coarse upper end reaches `floor`, and clears the others. `columns` are
    /// the rows' steps, coarse residuals and norms.
    ///
    /// # Panics
    ///
    /// If a column is not as long as `raw`, or `words` has not one bit a row.
    pub fn reaching(self, bound: &CoarseBound, floor: f32, raw: &[i32], columns: [&[f32]; 3], words: &mut [u64]) {
        assert!(columns.iter().all(|column| column.len() == raw.len()), "one value per row in each column");
        assert_eq!(words.len(), raw.len().div_ceil(64), "one bit per row");
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: `self` proves AVX2; lengths were checked.
            Tier::Avx2 => unsafe { avx2::reaching(bound, floor, raw, columns, words) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: `self` proves AVX-512 F; lengths were checked.
            Tier::Avx512 => unsafe { avx512::reaching(bound, floor, raw, columns, words) },
            _ => reaching_by(bound, floor, raw, columns, words),
        }
    }

    /// Sets bit `row` of `words` for every row that is [above](Line::is_above) the line, and clears the others.
    ///
    /// # Panics
    ///
    /// If there is not one square per dot product, or `words` has not one bit a row.
    pub fn above(self, line: Line, dots: &[f32], squares: &[f32], words: &mut [u64]) {
        assert_eq!(dots.len(), squares.len(), "one square per row");
        assert_eq!(words.len(), dots.len().div_ceil(64), "one bit per row");
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: `self` proves AVX2.
            Tier::Avx2 => unsafe { avx2::above(line, dots, squares, words) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: `self` proves AVX-512 F; lengths were checked.
            Tier::Avx512 => unsafe { avx512::above(line, dots, squares, words) },
            _ => above_by(line, dots, squares, words),
        }
    }
}

/// Asks for bytes that will be read soon; without such an instruction it does nothing.
#[inline]
pub fn prefetch(bytes: &[u8]) {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    for line in bytes.chunks(64) {
        // SAFETY: a hint; SSE is part of x86-64, and the address is that of a slice.
        unsafe { std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(line.as_ptr().cast()) };
    }
    #[cfg(not(all(target_arch = "x86_64", not(miri))))]
    let _ = bytes;
}

#[inline(always)]
#[allow(clippy::inline_always)] // compiled anew inside a function with wider registers
fn reaching_by(bound: &CoarseBound, floor: f32, raw: &[i32], columns: [&[f32]; 3], words: &mut [u64]) {
    let [steps, residuals, norms] = columns;
    // For an enormous query the sum is NaN, which is not below: then the row has to be looked at.
    let is_below = |row: usize| {
        let approx = steps[row] * (bound.scale * raw[row] as f32 - bound.offset);
        approx + (residuals[row] * bound.residual_factor + norms[row] * bound.norm_factor) < floor
    };
    for (index, word) in words.iter_mut().enumerate() {
        let rows = index * 64..raw.len().min(index * 64 + 64);
        let mut bits = [0_u8; 64];
        for (bit, row) in bits.iter_mut().zip(rows) {
            *bit = u8::from(!is_below(row));
        }
        *word = packed(&bits);
    }
}

#[inline(always)]
#[allow(clippy::inline_always)] // compiled anew inside a function with wider registers
fn above_by(line: Line, dots: &[f32], squares: &[f32], words: &mut [u64]) {
    for (word, (dots, squares)) in words.iter_mut().zip(dots.chunks(64).zip(squares.chunks(64))) {
        let mut bits = [0_u8; 64];
        for (bit, (&dot, &square)) in bits.iter_mut().zip(dots.iter().zip(squares)) {
            *bit = u8::from(line.is_above(dot, square));
        }
        *word = packed(&bits);
    }
}

/// The bits of 64 bytes that are 0 or 1, the first one lowest.
#[inline]
#[must_use]
pub fn packed(bits: &[u8; 64]) -> u64 {
    // The product moves byte `i` to bit `56 + i`; no two terms meet.
    let eight = |bytes: &[u8; 8]| u64::from_le_bytes(*bytes).wrapping_mul(0x0102_0408_1020_4080) >> 56;
    let (eights, _) = bits.as_chunks::<8>();
    eights.iter().rev().fold(0, |word, bytes| word << 8 | eight(bytes))
}

fn check_codes(query: &[i8]) -> usize {
    assert!(!query.is_empty() && query.len().is_multiple_of(BLOCK_DIMENSIONS), "whole blocks are needed");
    assert!(query.len() <= MAX_DIMENSIONS, "sums must fit an i32");
    debug_assert!(!query.contains(&i8::MIN), "-128 would let the 16-bit sums overflow");
    query.len() / 2
}

#[cfg(test)]
mod tests;
