//! BM25: what a term's frequency is worth.

/// `k1` and `b` of BM25. The defaults suit short texts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bm25 {
    /// How soon repetition of a term stops to count; >= 0.
    pub k1: f64,
    /// How much long texts are held back; 0..=1.
    pub b: f64,
}

impl Default for Bm25 {
    fn default() -> Self {
        Self { k1: 0.9, b: 0.15 }
    }
}

impl Bm25 {
    /// `ln(1 + (N - df + 0.5) / (df + 0.5))`: never negative.
    #[must_use]
    pub fn inverse_document_frequency(documents: f64, with_term: f64) -> f64 {
        (1.0 + (documents - with_term + 0.5) / (with_term + 0.5)).ln()
    }

    /// The share of one term: `idf * tf * (k1 + 1) / (tf + k1 * (1 - b + b * length / mean_length))`.
    #[must_use]
    #[inline]
    pub fn share(self, idf: f64, frequency: f64, length: f64, mean_length: f64) -> f64 {
        let norm = self.k1 * (1.0 - self.b + self.b * length / mean_length);
        idf * frequency * (self.k1 + 1.0) / (frequency + norm)
    }
}
