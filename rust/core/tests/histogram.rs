//! The latency histogram against the sorted list of its values.

use agent_memory_core::guard::metrics::{Histogram, LARGEST_NS};
use proptest::prelude::*;

fn values() -> impl Strategy<Value = Vec<u64>> {
    let value = prop_oneof![0u64..64, 0u64..100_000, (0u32..42).prop_map(|bits| 1 << bits), 0..=LARGEST_NS];
    prop::collection::vec(value, 1..400)
}

proptest! {
    #[test]
    fn quantiles_are_within_a_thirty_second(mut values in values(), quantile in 0.0..=1.0f64) {
        let mut histogram = Histogram::default();
        for value in &values {
            histogram.record(*value);
        }
        values.sort_unstable();
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a rank")]
        let rank = ((values.len() as f64 * quantile).ceil() as usize).clamp(1, values.len());
        let exact = values[rank - 1];
        let told = histogram.quantile_ns(quantile);
        prop_assert!(told.abs_diff(exact) as f64 <= exact as f64 / 32.0, "told {}, exact {}", told, exact);
        prop_assert_eq!(histogram.max_ns(), *values.last().unwrap());
        prop_assert_eq!(histogram.total(), values.len() as u64);
        prop_assert_eq!(histogram.sum_ns(), values.iter().sum::<u64>());
    }

    #[test]
    fn every_bucket_holds_the_values_below_its_end(values in values()) {
        let mut histogram = Histogram::default();
        for value in &values {
            histogram.record(*value);
        }
        let (mut seen, mut start) = (0, 0);
        for (end_ns, count) in histogram.buckets() {
            prop_assert!(end_ns > start);
            seen += count;
            start = end_ns;
            prop_assert_eq!(seen, values.iter().filter(|value| **value < end_ns).count() as u64);
        }
        prop_assert_eq!(seen, values.len() as u64);
    }
}

#[test]
fn an_empty_histogram_answers_zero() {
    let histogram = Histogram::default();
    assert_eq!((histogram.quantile_ns(0.5), histogram.max_ns(), histogram.buckets().count()), (0, 0, 0));
}

#[test]
fn values_beyond_the_last_bucket_are_counted_in_it() {
    let mut histogram = Histogram::default();
    histogram.record(u64::MAX);
    histogram.record(u64::MAX);
    assert_eq!((histogram.total(), histogram.max_ns(), histogram.sum_ns()), (2, u64::MAX, u64::MAX));
    assert!(histogram.quantile_ns(0.5) > LARGEST_NS / 32 * 31);
}
