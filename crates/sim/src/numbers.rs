//! Means and percentiles, of what was simulated and of what was measured.

/// The mean; 0 of nothing.
#[must_use]
#[allow(clippy::cast_precision_loss, reason = "a mean")]
pub fn mean(values: &[f64]) -> f64 {
    if values.is_empty() { 0.0 } else { values.iter().sum::<f64>() / values.len() as f64 }
}

/// The standard deviation of all values, not of a sample; 0 of nothing.
#[must_use]
pub fn deviation(values: &[f64]) -> f64 {
    let mean_value = mean(values);
    let squares: Vec<f64> = values.iter().map(|value| (value - mean_value).powi(2)).collect();
    mean(&squares).sqrt()
}

/// The percentile `percent`, interpolated between neighbours as NumPy and vLLM do; 0 of nothing.
#[must_use]
pub fn percentile(values: &[f64], percent: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    percentile_of_sorted(&sorted, percent)
}

/// The same of values that ascend.
#[must_use]
#[allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a place in a list"
)]
pub fn percentile_of_sorted(sorted: &[f64], percent: f64) -> f64 {
    let Some(last) = sorted.len().checked_sub(1) else { return 0.0 };
    let place = last as f64 * percent.clamp(0.0, 100.0) / 100.0;
    let below = place.floor() as usize;
    let (low, high) = (sorted[below], sorted[(below + 1).min(last)]);
    low + (high - low) * place.fract()
}

/// The 50th percentile.
#[must_use]
pub fn median(values: &[f64]) -> f64 {
    percentile(values, 50.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_numpys() {
        // numpy.percentile([4, 1, 3, 2], p); numpy.std
        let values = [4.0, 1.0, 3.0, 2.0];
        for (percent, expected) in
            [(0.0, 1.0), (50.0, 2.5), (90.0, 3.7), (99.0, 3.97), (100.0, 4.0)]
        {
            assert!((percentile(&values, percent) - expected).abs() < 1e-12, "{percent}");
        }
        assert!((deviation(&values) - 1.118_033_988_749_895).abs() < 1e-12);
        assert!(percentile(&[], 50.0).abs() < f64::EPSILON);
    }
}
