//! Relevance scoring: exact ranking of rows by similarity fused with recency, importance, access and words.
//!
//! * [`kernels`]: the inner loops and the only `unsafe` code.
//! * [`topk`]: the best k of many intervals, with exact values asked for only where an interval cannot decide.
//! * [`parts`]: what a score is made of.
//! * [`index`]: an index in memory of vectors, words, times, attributes and sequences.
//! * [`exact`]: ranks rows of a matrix that belongs to the caller.

pub mod exact;
pub mod index;
pub mod kernels;
pub mod parts;
pub mod topk;
