//! Histograms that many threads record into without a lock.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counts per bucket and their sum. A reader may see an observation in its bucket and not yet in the sum; both are
/// complete once the recorders rest.
#[derive(Debug)]
pub(crate) struct Histogram {
    /// Upper bounds, ascending; what exceeds the last is counted in one more bucket.
    bounds: Vec<f64>,
    counts: Vec<AtomicU64>,
    /// An `f64` as bits.
    sum: AtomicU64,
}

impl Histogram {
    pub(crate) fn new(bounds: &[f64]) -> Self {
        Self {
            bounds: bounds.to_vec(),
            counts: (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect(),
            sum: AtomicU64::new(0.0_f64.to_bits()),
        }
    }

    /// The series 1, 2, 5, 10, 20, 50 … up to `most`: vLLM's buckets for lengths.
    pub(crate) fn one_two_five(most: u32) -> Self {
        let mut bounds = Vec::new();
        let mut decade = 1.0;
        'series: loop {
            for mantissa in [1.0, 2.0, 5.0] {
                let bound = mantissa * decade;
                if bound > f64::from(most) {
                    break 'series;
                }
                bounds.push(bound);
            }
            decade *= 10.0;
        }
        Self::new(&bounds)
    }

    pub(crate) fn record(&self, value: f64) {
        let bucket = self.bounds.partition_point(|&bound| bound < value);
        if let Some(count) = self.counts.get(bucket) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        let add = |bits| Some((f64::from_bits(bits) + value).to_bits());
        let _ = self.sum.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add);
    }

    /// Bounds, counts per bucket (one more than bounds), sum.
    pub(crate) fn read(&self) -> (&[f64], Vec<u64>, f64) {
        let counts = self.counts.iter().map(|count| count.load(Ordering::Relaxed)).collect();
        (&self.bounds, counts, f64::from_bits(self.sum.load(Ordering::Relaxed)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_counted_under_the_first_bound_that_is_not_below_it() {
        let histogram = Histogram::new(&[0.5, 1.0]);
        for value in [0.0, 0.5, 0.75, 1.0, 1.5] {
            histogram.record(value);
        }
        assert_eq!(histogram.read(), (&[0.5, 1.0][..], vec![2, 2, 1], 3.75));
    }

    #[test]
    fn lengths_have_the_series_of_vllm() {
        assert_eq!(
            Histogram::one_two_five(2048).read().0,
            [1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 2000.0]
        );
        assert!(Histogram::one_two_five(0).read().0.is_empty());
    }

    #[test]
    fn recorders_do_not_lose_each_others_values() {
        let histogram = Histogram::new(&[1.0]);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..1000).for_each(|_| histogram.record(1.0)));
            }
        });
        assert_eq!(histogram.read().1, [4000, 0]);
        assert!((histogram.read().2 - 4000.0).abs() < f64::EPSILON);
    }
}
