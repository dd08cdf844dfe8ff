//! exp, tanh and erf on sixteen lanes, by polynomials, so that they are the same bits on every CPU.
//!
//! The coefficients are minimax fits (weighted least squares on Chebyshev points, reweighted until the error is level) made
//! for these intervals. Errors against f64, measured by the tests at the end: exp 1.0 ulp, tanh and erf 1.5 ulp.

// Each coefficient is written with one digit more than an f32 holds, as the fit gave it.
#![expect(clippy::excessive_precision, reason = "coefficients as fitted")]

use crate::lanes::Lanes;

/// Below ln 2^-126 the result of [`exp`] is zero.
const EXP_LOWEST: f32 = -87.336_54;
/// Beyond it every n rounds to 128, which makes infinity.
const EXP_HIGHEST: f32 = 89.0;

/// e^x. Zero below -87.33 (instead of a subnormal), infinity above 88.37, NaN for NaN.
#[inline(always)]
pub(crate) fn exp<L: Lanes>(l: L, x: L::V) -> L::V {
    let lowest = l.splat(EXP_LOWEST);
    let clamped = l.min(l.splat(EXP_HIGHEST), l.max(lowest, x));
    let n = l.round(l.mul(clamped, l.splat(std::f32::consts::LOG2_E)));
    // r = x - n ln 2 in [-0.347, 0.347]; ln 2 in two parts, the first exactly the nearest f32.
    let r = l.fma(n, l.splat(-0.693_147_182), clamped);
    let r = l.fma(n, l.splat(1.904_654_30e-9), r);
    // e^r = 1 + r + r^2 P(r)
    let p = l.fma(l.splat(0.001_381_493_08), r, l.splat(0.008_368_767_73));
    let p = l.fma(p, r, l.splat(0.041_668_388_5));
    let p = l.fma(p, r, l.splat(0.166_665_202));
    let p = l.fma(p, r, l.splat(0.499_999_934));
    let y = l.add(l.splat(1.0), l.fma(l.mul(r, r), p, r));
    l.select_gt(lowest, x, l.splat(0.0), l.mul(y, l.pow2(n)))
}

/// Hyperbolic tangent.
#[inline(always)]
pub(crate) fn tanh<L: Lanes>(l: L, x: L::V) -> L::V {
    let t = l.abs(x);
    let u = l.mul(x, x);
    let p = l.fma(l.splat(-0.005_705_393_95), u, l.splat(0.020_639_441_4));
    let p = l.fma(p, u, l.splat(-0.053_739_816_4));
    let p = l.fma(p, u, l.splat(0.133_314_432));
    let p = l.fma(p, u, l.splat(-0.333_332_820));
    let small = l.fma(l.mul(x, u), p, x);
    let one = l.splat(1.0);
    let e = exp(l, l.add(t, t));
    let large = l.sub(one, l.div(l.splat(2.0), l.add(e, one)));
    l.select_gt(l.splat(0.625), t, small, l.copysign(large, x))
}

/// Gauss error function.
#[inline(always)]
pub(crate) fn erf<L: Lanes>(l: L, x: L::V) -> L::V {
    let t = l.abs(x);
    let u = l.mul(x, x);
    let p = l.fma(l.splat(8.513_217_83e-5), u, l.splat(-0.000_817_566_354));
    let p = l.fma(p, u, l.splat(0.005_203_860_99));
    let p = l.fma(p, u, l.splat(-0.026_860_509_0));
    let p = l.fma(p, u, l.splat(0.112_837_150));
    let p = l.fma(p, u, l.splat(-0.376_126_350));
    let p = l.fma(p, u, l.splat(0.128_379_167));
    let small = l.fma(x, p, x);
    // -ln(1 - erf(t)) on [0.9, 3.95]; beyond, erf is 1 in f32.
    let t2 = l.min(l.splat(3.95), t);
    let q = l.fma(l.splat(2.091_101_40e-5), t2, l.splat(-0.000_432_320_276));
    let q = l.fma(q, t2, l.splat(0.004_160_612_09));
    let q = l.fma(q, t2, l.splat(-0.025_091_722_7));
    let q = l.fma(q, t2, l.splat(0.108_236_968));
    let q = l.fma(q, t2, l.splat(0.633_386_332));
    let q = l.fma(q, t2, l.splat(1.129_495_31));
    let q = l.fma(q, t2, l.splat(-0.000_170_583_308));
    let large = l.sub(l.splat(1.0), exp(l, l.sub(l.splat(0.0), q)));
    l.select_gt(l.splat(0.9), t, small, l.copysign(large, x))
}

#[cfg(test)]
mod tests {
    use crate::isa::Isa;

    /// Distance in units of the last place of the reference's f32.
    fn ulps(got: f32, want: f64) -> f64 {
        #[expect(clippy::cast_possible_truncation, reason = "the nearest f32 is what is meant")]
        let near = want as f32;
        let ulp = f64::from(f32::from_bits(near.abs().to_bits() + 1)) - f64::from(near.abs());
        (f64::from(got) - want).abs() / ulp
    }

    fn sweep(from: f32, to: f32, steps: u16) -> Vec<f32> {
        let step = (to - from) / f32::from(steps);
        (0..=steps).map(|i| from + step * f32::from(i)).collect()
    }

    fn worst(x: &[f32], y: &[f32], f: impl Fn(f64) -> f64) -> (f64, f32) {
        let mut worst = (0.0, 0.0);
        for (&x, &y) in x.iter().zip(y) {
            let e = ulps(y, f(f64::from(x)));
            if e > worst.0 {
                worst = (e, x);
            }
        }
        worst
    }

    /// The error function by its Taylor series, and by its continued fraction where that converges better.
    fn erf64(x: f64) -> f64 {
        let t = x.abs();
        let value = if t < 2.5 {
            let (mut term, mut sum, mut n) = (t, t, 0.0);
            while term.abs() > 1e-18 {
                n += 1.0;
                term *= -t * t / n;
                sum += term / (2.0 * n + 1.0);
            }
            sum * std::f64::consts::FRAC_2_SQRT_PI
        } else {
            let fraction = (1..=120).rev().fold(t, |f, k| t + f64::from(k) / 2.0 / f);
            1.0 - (-t * t).exp() / (fraction * std::f64::consts::PI.sqrt())
        };
        value.copysign(x)
    }

    #[test]
    fn exp_is_within_its_error() {
        let x = [sweep(-87.3, 88.3, 60_000), sweep(-1.0, 1.0, 60_000)].concat();
        let mut y = x.clone();
        Isa::detect().exp_all(&mut y);
        let (error, at) = worst(&x, &y, f64::exp);
        assert!(error <= 1.0, "{error} ulp at {at}");
        let mut special =
            [f32::NEG_INFINITY, -1e30, -88.0, f32::INFINITY, 1e30, 89.5, 0.0, -0.0, f32::NAN];
        Isa::detect().exp_all(&mut special);
        assert_eq!(special[..3], [0.0; 3]);
        assert_eq!(special[3..6], [f32::INFINITY; 3]);
        assert_eq!(special[6..8], [1.0; 2]);
        assert!(special[8].is_nan());
    }

    #[test]
    fn tanh_is_within_its_error() {
        let x = [sweep(-12.0, 12.0, 60_000), sweep(-0.7, 0.7, 60_000), vec![-1e30, 1e30]].concat();
        let mut y = x.clone();
        Isa::detect().tanh_all(&mut y);
        let (error, at) = worst(&x, &y, f64::tanh);
        assert!(error <= 1.5, "{error} ulp at {at}");
        let mut nan = [f32::NAN];
        Isa::detect().tanh_all(&mut nan);
        assert!(nan[0].is_nan());
    }

    #[test]
    fn erf_is_within_its_error() {
        let x = [sweep(-6.0, 6.0, 60_000), sweep(-1.0, 1.0, 60_000), vec![-1e30, 1e30]].concat();
        let mut y = x.clone();
        Isa::detect().erf_all(&mut y);
        let (error, at) = worst(&x, &y, |x| if x.abs() > 7.0 { x.signum() } else { erf64(x) });
        assert!(error <= 1.5, "{error} ulp at {at}");
        let mut nan = [f32::NAN];
        Isa::detect().erf_all(&mut nan);
        assert!(nan[0].is_nan());
    }

    #[test]
    fn every_instruction_set_gives_the_same_bits() {
        let special =
            [f32::NEG_INFINITY, f32::INFINITY, -0.0, 0.0, 1e-40, -1e-40, 88.4, -87.4, 0.625, 0.9];
        let x = [sweep(-95.0, 95.0, 20_000), sweep(-1.5, 1.5, 20_000), special.to_vec()].concat();
        let functions: [fn(Isa, &mut [f32]); 3] =
            [|i, x| i.exp_all(x), |i, x| i.tanh_all(x), |i, x| i.erf_all(x)];
        for f in functions {
            let mut expected = x.clone();
            f(Isa::all_available()[0], &mut expected);
            for isa in Isa::all_available() {
                let mut got = x.clone();
                f(isa, &mut got);
                let differs =
                    expected.iter().zip(&got).position(|(a, b)| a.to_bits() != b.to_bits());
                assert_eq!(differs.map(|i| (x[i], expected[i], got[i])), None, "{isa}");
            }
        }
    }
}
