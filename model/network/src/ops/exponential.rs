//! The exponential function as a few multiplications and additions without a branch, so that loops over it become
//! vector code; the library's is a call for every element. Softmax and the activations use it.

/// e to the power `x`, within two units of the last place. Below -87.3 it gives the smallest normal number instead of
/// yet smaller ones, above 88.3 a number near the largest instead of infinity; what is not a number stays so.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    /// Adding it leaves the nearest integer in the lowest bits of a number between -2^22 and 2^22.
    const ROUND: f32 = 12_582_912.0;
    /// The logarithm of two in two parts, the first short enough that an exponent times it is exact.
    const LN_2: [f32; 2] = [0.693_359_4, -2.121_944_4e-4];
    let within = x.clamp(-87.3, 88.3);
    let shifted = within.mul_add(std::f32::consts::LOG2_E, ROUND);
    let power = shifted - ROUND;
    let rest = power.mul_add(-LN_2[1], power.mul_add(-LN_2[0], within));
    let power_of_two = f32::from_bits((shifted.to_bits() << 23).wrapping_add(1.0_f32.to_bits()));
    series(rest) * power_of_two
}

/// The exponential series for at most half the logarithm of two either way: seven terms leave less than 1e-8.
#[inline(always)]
fn series(x: f32) -> f32 {
    const INVERSE_FACTORIALS: [f32; 6] =
        [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0];
    let mut sum = 1.0 / 5040.0;
    for factor in INVERSE_FACTORIALS {
        sum = x.mul_add(sum, factor);
    }
    x.mul_add(sum, 1.0)
}

#[cfg(test)]
mod tests {
    use super::exp;

    #[test]
    fn differs_from_the_true_value_by_two_units_of_the_last_place_at_most() {
        for step in -870_000..=880_000 {
            let x = step as f32 * 1e-4;
            let wanted = f64::from(x).exp();
            let error = (f64::from(exp(x)) - wanted).abs() / wanted;
            assert!(
                error <= 2.0 * f64::from(f32::EPSILON),
                "exp({x}): {error:e}"
            );
        }
    }

    #[test]
    fn far_ends_stay_finite_and_nan_stays_nan() {
        assert_eq!(exp(0.0), 1.0);
        assert!(exp(f32::NEG_INFINITY) < 2e-38);
        assert!(exp(f32::INFINITY).is_finite());
        assert!(exp(f32::NAN).is_nan());
    }
}
