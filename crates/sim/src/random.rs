//! Random numbers from a seed: the same everywhere, for ever, so that a seed in a report means something.

/// The generator splitmix64.
#[derive(Clone, Debug)]
pub struct Random(u64);

/// One round of splitmix64: every bit of the result depends on every bit of `z`.
pub(crate) fn scramble(mut z: u64) -> u64 {
    z = z.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A number in `(0, 1)` from random bits.
#[allow(clippy::cast_precision_loss, reason = "53 bits are kept, which an f64 holds exactly")]
pub(crate) fn unit(bits: u64) -> f64 {
    ((bits >> 11) as f64 + 0.5) / (1u64 << 53) as f64
}

impl Random {
    /// Two purposes with one seed get independent numbers.
    #[must_use]
    pub fn new(seed: u64, purpose: u64) -> Self {
        Self(scramble(seed ^ scramble(purpose)))
    }

    /// 64 random bits.
    pub fn bits(&mut self) -> u64 {
        let bits = scramble(self.0);
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        bits
    }

    /// Uniform in `(0, 1)`.
    pub fn uniform(&mut self) -> f64 {
        unit(self.bits())
    }

    /// Uniform in `0..n`; 0 if `n` is 0.
    pub fn below(&mut self, n: usize) -> usize {
        match u64::try_from(n) {
            Ok(n) if n > 0 => usize::try_from(self.bits() % n).unwrap_or(0),
            _ => 0,
        }
    }

    /// Exponential with mean 1.
    pub fn exponential(&mut self) -> f64 {
        -self.uniform().ln()
    }

    /// Normal with mean 0 and deviation 1.
    pub fn normal(&mut self) -> f64 {
        let radius = (2.0 * self.exponential()).sqrt();
        radius * (std::f64::consts::TAU * self.uniform()).cos()
    }

    /// Gamma with mean 1 and shape `k` above 0, by Marsaglia and Tsang: its coefficient of variation is `1 / sqrt(k)`.
    pub fn gamma(&mut self, k: f64) -> f64 {
        if k < 1.0 {
            let boost = self.uniform().powf(1.0 / k);
            return self.gamma(k + 1.0) * boost * (k + 1.0) / k;
        }
        let d = k - 1.0 / 3.0;
        let c = 1.0 / (9.0 * d).sqrt();
        loop {
            let x = self.normal();
            let v = (1.0 + c * x).powi(3);
            if v > 0.0 && self.uniform().ln() < 0.5 * x * x + d - d * v + d * v.ln() {
                return d * v / k;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_those_that_are_promised() {
        let moments = |mut draw: Box<dyn FnMut() -> f64>| {
            let all: Vec<f64> = (0..40_000).map(|_| draw()).collect();
            let mean = all.iter().sum::<f64>() / 40_000.0;
            let variance = all.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / 40_000.0;
            (mean, variance)
        };
        let near = |(mean, variance): (f64, f64), m: f64, v: f64| {
            assert!((mean - m).abs() < 0.03 && (variance - v).abs() < 0.08, "{mean} {variance}");
        };
        let mut random = Random::new(7, 1);
        near(moments(Box::new(move || random.exponential())), 1.0, 1.0);
        let mut random = Random::new(7, 2);
        near(moments(Box::new(move || random.normal())), 0.0, 1.0);
        for k in [0.5, 1.0, 4.0] {
            let mut random = Random::new(7, 3);
            near(moments(Box::new(move || random.gamma(k))), 1.0, 1.0 / k);
        }
    }
}
