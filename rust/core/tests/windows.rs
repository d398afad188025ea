//! The windows against models that keep every result.

use agent_memory_core::guard::window::{CountWindow, TIME_BUCKETS, Tally, TimeWindow};
use proptest::prelude::*;

fn tally<'a>(results: impl Iterator<Item = &'a (bool, bool)>) -> Tally {
    results.fold(Tally::default(), |sum, (failed, slow)| Tally {
        calls: sum.calls + 1,
        failures: sum.failures + u64::from(*failed),
        slow: sum.slow + u64::from(*slow),
    })
}

proptest! {
    #[test]
    fn a_count_window_is_the_last_n_results(
        capacity in 1u32..200,
        results in proptest::collection::vec((any::<bool>(), any::<bool>()), 0..600),
        clear_at in proptest::option::of(0usize..600),
    ) {
        let mut window = CountWindow::new(capacity);
        let mut kept = Vec::new();
        for (index, result) in results.into_iter().enumerate() {
            if clear_at == Some(index) {
                window.clear();
                kept.clear();
            }
            window.record(result.0, result.1);
            kept.push(result);
            prop_assert_eq!(window.tally(), tally(kept.iter().rev().take(capacity as usize)));
        }
    }

    #[test]
    fn a_time_window_is_the_results_of_its_last_buckets(
        bucket_ns in 1u64..1_000,
        steps in proptest::collection::vec((0u64..40_000, any::<bool>(), any::<bool>()), 1..200),
    ) {
        let mut window = TimeWindow::new(bucket_ns * TIME_BUCKETS as u64);
        let (mut now_ns, mut kept) = (0u64, Vec::new());
        for (step_ns, failed, slow) in steps {
            now_ns += step_ns;
            window.record(now_ns, failed, slow);
            kept.push((now_ns / bucket_ns, (failed, slow)));
            let first = (now_ns / bucket_ns + 1).saturating_sub(TIME_BUCKETS as u64);
            let recent = kept.iter().filter(|(bucket, _)| *bucket >= first).map(|(_, result)| result);
            prop_assert_eq!(window.tally(now_ns), tally(recent));
        }
        let later_ns = now_ns + bucket_ns * TIME_BUCKETS as u64;
        prop_assert_eq!(window.tally(later_ns), Tally::default());
    }
}

#[test]
fn a_result_with_an_older_time_counts_in_the_newest_bucket() {
    let mut window = TimeWindow::new(32_000);
    window.record(100_000, false, false);
    window.record(5_000, true, false);
    assert_eq!(window.tally(100_000), Tally { calls: 2, failures: 1, slow: 0 });
    assert_eq!(window.tally(131_999), Tally { calls: 2, failures: 1, slow: 0 });
    assert_eq!(window.tally(132_000), Tally::default());
}
