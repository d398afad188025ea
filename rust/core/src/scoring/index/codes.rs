//! The int8 shadow of a vector: rotated, quantised, with a measured error.
//!
//! A vector is padded with zeros to whole blocks, the signs of its elements are flipped by a fixed random sequence, and
//! each power-of-two stretch goes through a Walsh-Hadamard transform. That is a rotation, so it keeps dot products, and it
//! spreads an outlier dimension over its stretch. The result is quantised to `c = round(x / s)`, `s = max|x| / 127`, and
//! `c + 128` is stored as two planes of 4-bit codes: the high half alone is a coarse vector `x4`, both give `x8`.
//!
//! For the residual `r = |x - x'|` of either, by Cauchy and Schwarz,
//! `|q.x - q'.x'| = |q.(x - x') + (q - q').x'| <= |q| r + |q - q'| |x'|`, and `|x'| <= |x| + r`. Both residuals are
//! measured when the codes are made and rounded up, the rounding of the rotation included; so the bound holds for any
//! data whatever.

use crate::scoring::kernels::{BLOCK_DIMENSIONS, CoarseBound, Kernels, encode, f32_error_factor};

/// Version of the sign sequence and of the layout; part of a snapshot.
pub const CODE_VERSION: u32 = 1;

/// What the high halves stand for: the middle of the sixteen codes they leave open, as a multiple of 16.
const COARSE_OFFSET: f64 = (128.0 - 7.5) / 16.0;

/// The rotation for one number of dimensions.
#[derive(Clone, Debug)]
pub struct Rotation {
    dimensions: usize,
    signs: Vec<f32>,
    stretches: Vec<usize>,
}

impl Rotation {
    /// For vectors of `dimensions` elements.
    #[must_use]
    pub fn new(dimensions: usize) -> Self {
        let padded = dimensions.next_multiple_of(BLOCK_DIMENSIONS);
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut sign = || {
            // SplitMix64 (Steele, Lea and Flood, 2014).
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut word = state;
            word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            if (word ^ (word >> 31)) & 1 == 0 { 1.0 } else { -1.0 }
        };
        let signs = (0..padded).map(|_| sign()).collect();
        let stretches = (0..usize::BITS).rev().map(|bit| padded & (1 << bit)).filter(|&stretch| stretch > 0).collect();
        Self { dimensions, signs, stretches }
    }

    /// Dimensions after padding.
    #[must_use]
    pub fn padded(&self) -> usize {
        self.signs.len()
    }

    /// Bytes of one plane of codes of one row.
    #[must_use]
    pub fn plane_bytes(&self) -> usize {
        self.padded() / 2
    }

    /// Rotates `padded` elements in place. The rounding error is at most [`Self::error_factor`] of the norm.
    fn rotate(&self, values: &mut [f32]) {
        encode::rotate(values, &self.signs, &self.stretches);
    }

    /// Every stage of the transform rounds once, the scale once, an input scaled to unit length twice; doubled to spare.
    fn error_factor(&self) -> f64 {
        let stages = f64::from(usize::BITS - self.padded().leading_zeros());
        2.0 * (stages + 4.0) * f64::from(f32::EPSILON)
    }
}

/// The numbers that go with the codes of one row.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RowCode {
    /// `s`: what one step of the fine code is worth.
    pub step: f32,
    /// At least `|x - x4|`.
    pub coarse_residual: f32,
    /// At least `|x - x8|`.
    pub fine_residual: f32,
    /// At least `|x|`.
    pub norm: f32,
}

/// Encodes rows; holds the buffer for that.
#[derive(Debug)]
pub struct Encoder<'r> {
    rotation: &'r Rotation,
    buffer: Vec<f32>,
}

impl<'r> Encoder<'r> {
    /// For one rotation.
    #[must_use]
    pub fn new(rotation: &'r Rotation) -> Self {
        Self { rotation, buffer: vec![0.0; rotation.padded()] }
    }

    /// Encodes `row * factor` into one row of both planes. `row` must be finite and `|row * factor|` be `norm`.
    pub fn encode(&mut self, row: &[f32], factor: f64, norm: f64, high: &mut [u8], low: &mut [u8]) -> RowCode {
        #[allow(clippy::cast_possible_truncation)] // counted in the error factor
        let factor = factor as f32;
        self.buffer[row.len()..].fill(0.0);
        for (slot, &x) in self.buffer.iter_mut().zip(row) {
            *slot = x * factor;
        }
        self.rotation.rotate(&mut self.buffer);
        // Below this norm the squares of what is lost would underflow: all of the row counts as lost.
        let step = if norm > 1e-10 { encode::largest(&self.buffer) / 127.0 } else { 0.0 };
        let inverse = if step > 0.0 { 1.0 / step } else { 0.0 };
        let [coarse, fine] = encode::quantise(&self.buffer, step, inverse, high, low);
        let slack = self.rotation.error_factor() * norm + f64::from(step) * 1e-4;
        let widen = 1.0 + f32_error_factor(self.rotation.padded());
        let residual = |sums: [f32; 8]| {
            let sum: f64 = sums.into_iter().map(f64::from).sum();
            if step == 0.0 { round_up(norm) } else { round_up(sum.sqrt() * widen + slack) }
        };
        RowCode { step, coarse_residual: residual(coarse), fine_residual: residual(fine), norm: round_up(norm) }
    }
}

/// A little above `value`, as `f32`.
#[allow(clippy::cast_possible_truncation)] // that is the point
fn round_up(value: f64) -> f32 {
    (value * (1.0 + 1e-6) + 1e-37) as f32
}

/// A query in the rotated space: one plane of 8-bit integers for the coarse pass, two for the fine one.
#[derive(Clone, Debug)]
pub struct QueryCode {
    coarse: Vec<i8>,
    remainder: Vec<i8>,
    coarse_sum: f64,
    remainder_sum: f64,
    step: f64,
    norm: f64,
    coarse_residual: f64,
    fine_residual: f64,
}

/// Folds every eighth value, so that no addition waits for the one before.
fn lanes<T>(values: &[T], start: f64, fold: impl Fn(f64, &T) -> f64) -> [f64; 8] {
    let mut lanes = [start; 8];
    let (whole, rest) = values.as_chunks::<8>();
    for chunk in whole {
        for (lane, value) in lanes.iter_mut().zip(chunk) {
            *lane = fold(*lane, value);
        }
    }
    for (lane, value) in lanes.iter_mut().zip(rest) {
        *lane = fold(*lane, value);
    }
    lanes
}

/// The nearest integer to a small value, ties to even, without a call.
fn nearest(value: f64) -> f64 {
    const ROUNDER: f64 = 6_755_399_441_055_744.0; // 1.5 * 2^52
    (value + ROUNDER) - ROUNDER
}

/// Units of the second plane in one of the first.
const REMAINDER_STEPS: f64 = 200.0;

impl QueryCode {
    /// Encodes a finite query.
    #[must_use]
    #[allow(clippy::cast_possible_truncation)] // clamped first
    pub fn new(rotation: &Rotation, query: &[f64]) -> Self {
        // A query's largest element is brought near one, so that nothing overflows in `f32`.
        let unit = match lanes(query, 0.0, |most, &q| f64::max(most, q.abs())).into_iter().fold(0.0, f64::max) {
            0.0 => 1.0,
            largest => largest,
        };
        let mut rotated: Vec<f32> = query.iter().map(|q| (q / unit) as f32).collect();
        debug_assert_eq!(query.len(), rotation.dimensions);
        rotated.resize(rotation.padded(), 0.0);
        rotation.rotate(&mut rotated);
        let norm = lanes(query, 0.0, |sum, q| sum + (q / unit) * (q / unit)).into_iter().sum::<f64>().sqrt();
        let step = f64::from(encode::largest(&rotated)) / 127.0;
        let inverse = if step > 0.0 { 1.0 / step } else { 0.0 };
        let first: Vec<f64> = rotated.iter().map(|&x| nearest((f64::from(x) * inverse).clamp(-127.0, 127.0))).collect();
        let rest = |(&x, first): (&f32, &f64)| (f64::from(x) * inverse - first) * REMAINDER_STEPS;
        let second: Vec<f64> =
            rotated.iter().zip(&first).map(rest).map(|rest| nearest(rest.clamp(-127.0, 127.0))).collect();
        let gaps: Vec<[f64; 2]> = rotated
            .iter()
            .zip(first.iter().zip(&second))
            .map(|(&x, (first, second))| {
                [f64::from(x) - step * first, f64::from(x) - step * (first + second / REMAINDER_STEPS)]
            })
            .collect();
        let square =
            |which: usize| lanes(&gaps, 0.0, |sum, gap| sum + gap[which] * gap[which]).into_iter().sum::<f64>();
        let sum = |plane: &[f64]| lanes(plane, 0.0, |sum, c| sum + c).into_iter().sum::<f64>();
        let plane = |plane: &[f64]| plane.iter().map(|&c| c as i8).collect();
        let mut code = Self {
            coarse: plane(&first),
            remainder: plane(&second),
            coarse_sum: sum(&first),
            remainder_sum: sum(&second),
            step: step * unit,
            norm: norm * unit,
            coarse_residual: square(0),
            fine_residual: square(1),
        };
        let slack = rotation.error_factor() * norm;
        code.coarse_residual = (code.coarse_residual.sqrt() * (1.0 + 1e-9) + slack) * unit;
        code.fine_residual = (code.fine_residual.sqrt() * (1.0 + 1e-9) + slack) * unit;
        code
    }

    /// The plane for the coarse pass.
    #[must_use]
    pub fn coarse(&self) -> &[i8] {
        &self.coarse
    }

    /// The constants of the coarse pass.
    #[must_use]
    #[allow(clippy::cast_possible_truncation)] // the rounding is in `norm_factor`
    pub fn coarse_bound(&self) -> CoarseBound {
        let scale = self.step * 16.0;
        let offset = scale * COARSE_OFFSET * self.coarse_sum;
        // |x'| <= |x| + r. A few f32 roundings of terms no larger than |q'||x'|*d^(1/2) are covered by the last term.
        let rounding = 1e-6 * (self.norm + self.coarse_residual) + 4e-7 * (offset.abs() / 127.0);
        let residual_factor = round_up(self.norm + self.coarse_residual + rounding + self.rounding_of_sums());
        let norm_factor = round_up(self.coarse_residual + rounding + self.rounding_of_sums());
        CoarseBound { scale: scale as f32, offset: offset as f32, residual_factor, norm_factor }
    }

    /// `f32` rounding of `scale * raw - offset`: both are at most `scale * 15 * sum|c|`, a row's step is at most
    /// `(|x| + r) / 127 + r`.
    fn rounding_of_sums(&self) -> f64 {
        let absolute: f64 = self.coarse.iter().map(|&c| f64::from(c).abs()).sum();
        4.0 * f64::from(f32::EPSILON) * self.step * 16.0 * 15.0 * absolute / 127.0
    }

    /// The integer part of `q.x` that the first plane of the query gives, from its dot products with both planes of a row.
    #[must_use]
    pub fn first(&self, high: i32, low: i32) -> f64 {
        f64::from(16 * high + low) - 128.0 * self.coarse_sum
    }

    /// [`Self::first`] of a row of which the coarse pass has found the dot product with the high plane.
    #[must_use]
    pub fn first_after(&self, kernels: Kernels, high: i32, low: &[u8]) -> f64 {
        self.first(high, dot(kernels, &self.coarse, low))
    }

    /// [`Self::first`] of a row from its planes.
    #[must_use]
    pub fn first_of(&self, kernels: Kernels, high: &[u8], low: &[u8]) -> f64 {
        self.first_after(kernels, dot(kernels, &self.coarse, high), low)
    }

    /// `q.x` from both planes of a row and the first plane of the query, and how far it may be off.
    #[must_use]
    pub fn medium(&self, first: f64, row: &RowCode) -> (f64, f64) {
        (self.step * f64::from(row.step) * first, self.error(self.coarse_residual, row))
    }

    /// `q.x` from both planes of a row and of the query, and how far it may be off.
    #[must_use]
    pub fn fine(&self, kernels: Kernels, first: f64, high: &[u8], low: &[u8], row: &RowCode) -> (f64, f64) {
        let (high, low) = (dot(kernels, &self.remainder, high), dot(kernels, &self.remainder, low));
        let second = f64::from(16 * high + low) - 128.0 * self.remainder_sum;
        let value = self.step * f64::from(row.step) * (first + second / REMAINDER_STEPS);
        (value, self.error(self.fine_residual, row))
    }

    fn error(&self, query_residual: f64, row: &RowCode) -> f64 {
        let (norm, residual) = (f64::from(row.norm), f64::from(row.fine_residual));
        let error = self.norm * residual + query_residual * (norm + residual);
        error * (1.0 + 1e-9) + 1e-12 * self.norm * norm
    }
}

/// The dot product of one plane of a query and one of a row. Sixteen times it fits an `i32` for any number of dimensions.
fn dot(kernels: Kernels, query: &[i8], codes: &[u8]) -> i32 {
    let mut out = [0];
    kernels.nibble_dots(query, codes, &mut out);
    out[0]
}

#[cfg(test)]
mod tests {
    use super::{Encoder, QueryCode, Rotation};
    use crate::scoring::kernels::{Kernels, Tier};
    use proptest::prelude::*;

    fn element() -> impl Strategy<Value = f32> {
        // Ordinary values, exact zeros, and outliers a thousand times larger.
        prop_oneof![4 => -1.0_f32..1.0, 1 => Just(0.0), 1 => -1e3_f32..1e3, 1 => -1e-3_f32..1e-3]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 4 } else { 400 }))]

        #[test]
        fn bounds_hold_for_any_data(
            (query, row) in (1_usize..300).prop_flat_map(|d| (
                prop::collection::vec(element(), d), prop::collection::vec(element(), d),
            )),
        ) {
            let rotation = Rotation::new(query.len());
            let query: Vec<f64> = query.into_iter().map(f64::from).collect();
            let norm = row.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt();
            let exact: f64 = query.iter().zip(&row).map(|(q, &x)| q * f64::from(x)).sum();
            let (mut high, mut low) = (vec![0; rotation.plane_bytes()], vec![0; rotation.plane_bytes()]);
            let code = Encoder::new(&rotation).encode(&row, 1.0, norm, &mut high, &mut low);
            let query = QueryCode::new(&rotation, &query);
            for kernels in Tier::ALL.into_iter().filter_map(Kernels::forced) {
                let mut raw = [0];
                kernels.nibble_dots(query.coarse(), &high, &mut raw);
                let bound = query.coarse_bound();
                #[allow(clippy::cast_precision_loss)]
                let approx = code.step * (bound.scale * raw[0] as f32 - bound.offset);
                let error = code.coarse_residual * bound.residual_factor + code.norm * bound.norm_factor;
                prop_assert!((f64::from(approx) - exact).abs() <= f64::from(error) + 1e-30);
                let first = query.first_of(kernels, &high, &low);
                prop_assert_eq!(first.to_bits(), query.first_after(kernels, raw[0], &low).to_bits());
                let (value, error) = query.medium(first, &code);
                prop_assert!((value - exact).abs() <= error + 1e-30);
                let (value, error) = query.fine(kernels, first, &high, &low, &code);
                prop_assert!((value - exact).abs() <= error + 1e-30);
            }
        }
    }

    #[test]
    fn an_outlier_dimension_does_not_spoil_the_fine_code() {
        let mut row = vec![0.01_f32; 384];
        row[17] = 1.0;
        let norm = row.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt();
        let rotation = Rotation::new(384);
        let code = Encoder::new(&rotation).encode(&row, 1.0, norm, &mut [0; 192], &mut [0; 192]);
        assert!(f64::from(code.fine_residual) < 0.02 * norm, "{code:?}");
    }
}
