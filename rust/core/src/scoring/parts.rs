//! What a score is made of, and how its parts are put on one scale.
//!
//! `score = w_similarity * N(similarity) + w_lexical * N(lexical) + w_recency * N(recency) + ...`, where `N` is the
//! identity or a min-max over the rows that take part.

use super::topk::Interval;

/// How two vectors are compared. Larger is always more alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Metric {
    /// `q.x / (|q||x|)`, in -1..=1; 0 if either vector is zero.
    Cosine,
    /// `q.x`.
    InnerProduct,
    /// `1 / (1 + |q - x|)`, in 0..=1.
    Euclidean,
}

impl Metric {
    /// The names by which Python knows the metrics.
    pub const NAMES: [(&'static str, Self); 3] =
        [("cosine", Self::Cosine), ("inner_product", Self::InnerProduct), ("euclidean", Self::Euclidean)];

    /// The metric of a name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::NAMES.iter().find(|(known, _)| *known == name).map(|(_, metric)| *metric)
    }

    /// The name of the metric.
    #[must_use]
    pub fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(_, metric)| *metric == self).map_or("", |(name, _)| name)
    }

    /// The interval of the similarity from an interval of `q.x` and the squared norms, each known within a relative
    /// `slack`. Only the cosine and the inner product are proportional to `q.x`; the distance is monotone in it.
    #[must_use]
    pub fn interval(self, dot: Interval, query_square: f64, row_square: f64, slack: f64) -> Interval {
        match self {
            Self::InnerProduct => dot,
            Self::Cosine => {
                let norms = (query_square * row_square).sqrt();
                if norms == 0.0 {
                    return Interval::exactly(0.0);
                }
                let widen = |end: f64| end.abs() / norms * slack;
                let (low, high) = (dot.low / norms - widen(dot.low), dot.high / norms + widen(dot.high));
                Interval { low: low.max(-1.0), high: high.min(1.0) }
            }
            Self::Euclidean => {
                let squares = query_square + row_square;
                let near = squares - 2.0 * dot.high - squares * slack;
                let far = squares - 2.0 * dot.low + squares * slack;
                Interval { low: closeness(far * (1.0 + 1e-15)), high: closeness(near * (1.0 - 1e-15)) }
            }
        }
    }
}

/// `1 / (1 + sqrt(square))`, taking a square below zero (rounding) as zero; `NaN` if the square is not finite.
#[must_use]
pub fn closeness(square: f64) -> f64 {
    if square.is_finite() { 1.0 / (1.0 + square.max(0.0).sqrt()) } else { f64::NAN }
}

/// How recency falls with age.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Decay {
    /// `2^(-age / half_life)`.
    HalfLife {
        /// Age at which a half is left, in seconds; positive.
        half_life_s: f64,
    },
    /// `(1 + age / scale)^(-exponent)`.
    PowerLaw {
        /// Age at which the fall sets in, in seconds; positive.
        scale_s: f64,
        /// Steepness; positive.
        exponent: f64,
    },
}

impl Decay {
    /// Recency in 0..=1; an age below zero (a clock that runs ahead) counts as zero.
    #[must_use]
    pub fn recency(self, age_s: f64) -> f64 {
        let age_s = age_s.max(0.0);
        match self {
            Self::HalfLife { half_life_s } => (-age_s / half_life_s).exp2(),
            Self::PowerLaw { scale_s, exponent } => (1.0 + age_s / scale_s).powf(-exponent),
        }
    }
}

/// Access frequency: `ln(1 + count)`.
#[must_use]
pub fn access(count: f64) -> f64 {
    count.ln_1p()
}

/// A min-max scale `(value - low) / (high - low)`; a part that is the same everywhere scales to 0.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scale {
    low: f64,
    factor: f64,
}

impl Scale {
    /// Leaves values as they are.
    pub const IDENTITY: Self = Self { low: 0.0, factor: 1.0 };

    /// Maps `low..=high` to 0..=1.
    #[must_use]
    pub fn between(low: f64, high: f64) -> Self {
        let factor = if high > low { 1.0 / (high - low) } else { 0.0 };
        Self { low, factor: if factor.is_finite() { factor } else { 0.0 } }
    }

    /// Between the smallest and the largest of the values; `NaN` is ignored.
    #[must_use]
    pub fn spanning(values: impl Iterator<Item = f64>) -> Self {
        let (low, high) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| (low.min(v), high.max(v)));
        Self::between(low, high)
    }

    /// The scaled value. Monotone: rounding never swaps two values.
    #[must_use]
    pub fn apply(self, value: f64) -> f64 {
        (value - self.low) * self.factor
    }

    /// By how much the scaled value rises with the value.
    #[must_use]
    pub const fn slope(self) -> f64 {
        self.factor
    }

    /// The scaled interval.
    #[must_use]
    pub fn apply_interval(self, interval: Interval) -> Interval {
        Interval { low: self.apply(interval.low), high: self.apply(interval.high) }
    }
}

/// The weight of each part; finite and not negative.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Weights {
    /// Of the similarity of vectors.
    pub similarity: f64,
    /// Of the words in common.
    pub lexical: f64,
    /// Of being recent.
    pub recency: f64,
    /// Of importance.
    pub importance: f64,
    /// Of being accessed often.
    pub access: f64,
}
