//! How long a reader of the memory index waits for a writer: the time of taking the current state, without a writer, with
//! one that writes batches to *another* index without a pause, and with one that writes to the same index.
//!
//! `cargo run --release --example reader_wait`
//!
//! A wait is the time of copying one pointer plus whatever the scheduler does. The second line is what the scheduler does
//! while a thread works beside the reader; what the third has more than the second is the writer's doing.

use agent_memory_core::scoring::index::codes::Rotation;
use agent_memory_core::scoring::index::segment::NewRow;
use agent_memory_core::scoring::index::text::{Analyzer, Bm25};
use agent_memory_core::scoring::index::{Index, Settings};
use agent_memory_core::scoring::parts::Metric;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const DIMENSIONS: usize = 384;
const BATCH: usize = 1000;

fn waits(index: &Index, written_to: Option<&Index>, seconds: u64) -> (Vec<Duration>, usize) {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let mut written = 0;
            while let Some(index) = written_to
                && !stop.load(Ordering::Relaxed)
            {
                let rows = (0..BATCH).map(|row| NewRow { id: format!("m{}", written + row), ..NewRow::default() });
                let element = |at: usize| ((at * 2_654_435_761 % 1_000_003) as f32) / 1e6 - 0.5;
                let vectors = (0..BATCH * DIMENSIONS).map(element).collect();
                index.upsert(rows.collect(), vectors, &[]).expect("fewer than 2^32 rows");
                written += BATCH;
            }
            written
        });
        let end = Instant::now() + Duration::from_secs(seconds);
        let mut taken = Vec::with_capacity(100_000_000);
        while Instant::now() < end && taken.len() < taken.capacity() {
            let start = Instant::now();
            std::hint::black_box(index.state());
            taken.push(start.elapsed());
        }
        stop.store(true, Ordering::Relaxed);
        taken.sort_unstable();
        (taken, writer.join().expect("the writer does not panic"))
    })
}

fn index() -> Index {
    Index::new(Settings {
        dimensions: DIMENSIONS,
        metric: Metric::Cosine,
        analyzer: Analyzer::new("none").expect("known"),
        bm25: Bm25::default(),
        context: false,
        model: String::new(),
        rotation: Rotation::new(DIMENSIONS),
    })
}

fn main() {
    let (read, other) = (index(), index());
    let rounds = [("without a writer", None), ("a writer elsewhere", Some(&other)), ("a writer", Some(&read))];
    for (name, written_to) in rounds {
        let (taken, written) = waits(&read, written_to, 8);
        let at = |per_100_000: usize| taken[(taken.len() - 1) * per_100_000 / 100_000];
        let long = taken.iter().filter(|wait| **wait > Duration::from_millis(1)).count();
        println!(
            "{name} ({written} rows written): {} readings, median {:?}, 99.9 % {:?}, 99.999 % {:?}, longest {:?}, {long} over 1 ms",
            taken.len(),
            at(50_000),
            at(99_900),
            at(99_999),
            at(100_000),
        );
    }
}
