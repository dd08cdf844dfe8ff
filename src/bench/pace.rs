//! When requests are sent.

use anyhow::{Result, ensure};
use folio_sim::Random;

use super::args::{DataArgs, DatasetName, PaceArgs};
use super::dataset::Request;

/// What times are drawn for, see [`super::dataset::PROMPTS`].
const ARRIVALS: u64 = 1;

/// Sets the arrival of every request, unless a trace has done so. The times between arrivals are gamma distributed with mean `1 / rate` and shape
/// `burstiness`, stretched so that all of them take as long as the rate says, as in vLLM.
#[allow(clippy::cast_precision_loss, reason = "a number of requests")]
pub(crate) fn spread(requests: &mut [Request], pace: &PaceArgs, data: &DataArgs) -> Result<()> {
    let PaceArgs { request_rate: rate, burstiness } = *pace;
    ensure!(rate > 0.0, "--request-rate {rate} is not above 0");
    ensure!(burstiness > 0.0, "--burstiness {burstiness} is not above 0");
    if rate.is_infinite() || data.dataset_name == DatasetName::TimedTrace {
        return Ok(());
    }
    let mut random = Random::new(data.dataset_seed, ARRIVALS);
    let mut at = 0.0;
    for request in &mut *requests {
        at += if burstiness.is_infinite() { 1.0 } else { random.gamma(burstiness) };
        request.arrival_s = at;
    }
    let total = requests.len() as f64 / rate;
    for request in requests {
        request.arrival_s *= total / at.max(f64::MIN_POSITIVE);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arrivals(rate: f64, burstiness: f64) -> Vec<f64> {
        let request = Request { ids: vec![1], text: None, output_len: 1, arrival_s: 0.0 };
        let mut requests = vec![request; 400];
        let pace = PaceArgs { request_rate: rate, burstiness };
        spread(&mut requests, &pace, &DataArgs::default()).unwrap();
        requests.iter().map(|request| request.arrival_s).collect()
    }

    #[test]
    fn requests_come_in_order_at_the_rate() {
        for burstiness in [0.5, 1.0, f64::INFINITY] {
            let at = arrivals(8.0, burstiness);
            assert!(at.is_sorted());
            assert!((at[399] - 50.0).abs() < 1e-9);
        }
        assert!(arrivals(f64::INFINITY, 1.0).iter().all(|at| *at == 0.0));
    }

    #[test]
    fn less_is_burstier() {
        let spread = |burstiness| {
            let at = arrivals(1.0, burstiness);
            at.windows(2).map(|pair| (pair[1] - pair[0] - 1.0).powi(2)).sum::<f64>() / 399.0
        };
        assert!(spread(0.25) > 2.0 * spread(1.0));
        assert!(spread(f64::INFINITY) < 1e-9);
    }

    #[test]
    fn rates_that_mean_nothing_are_refused() {
        for (rate, burstiness) in [(0.0, 1.0), (-1.0, 1.0), (f64::NAN, 1.0), (1.0, 0.0)] {
            let pace = PaceArgs { request_rate: rate, burstiness };
            assert!(spread(&mut [], &pace, &DataArgs::default()).is_err());
        }
    }
}
