//! Every form of the lanes does what its plain description says.

use half::{bf16, f16};

use super::{InstructionSet, Kernel, Lanes, MAX_LANES, Weight};

/// Runs `check` for every set that the machine has.
macro_rules! on_every_set {
    ($name:ident, |$lanes:ident| $check:block) => {
        #[test]
        fn $name() {
            struct Check;
            impl Kernel for Check {
                type Output = ();
                #[inline(always)]
                unsafe fn run<$lanes: Lanes>(self) $check
            }
            InstructionSet::all().for_each(|set| set.run(Check));
        }
    };
}

fn ramp() -> [f32; MAX_LANES] {
    std::array::from_fn(|lane| lane as f32 + 1.0)
}

/// # Safety
/// As for [`Lanes`].
#[inline(always)]
unsafe fn lanes_of<V: Lanes>(lanes: V) -> Vec<f32> {
    let mut stored = [0.0; MAX_LANES];
    // SAFETY: promised by the caller; no form has more lanes than `stored`.
    unsafe { lanes.store(stored.as_mut_ptr()) };
    stored[..V::COUNT].to_vec()
}

on_every_set!(add_product_is_that_of_each_lane, |V| {
    // SAFETY: the set is there, and the arrays have as many elements as any form reads.
    unsafe {
        let lanes = V::load_f32(ramp().as_ptr());
        let result = V::splat(0.5).add_product(lanes, V::splat(2.0));
        let wanted: Vec<f32> = ramp()[..V::COUNT]
            .iter()
            .map(|value| value * 2.0 + 0.5)
            .collect();
        assert_eq!(lanes_of(result), wanted);
    }
});

on_every_set!(partial_loads_fill_with_zero, |V| {
    let values = ramp().map(bf16::from_f32);
    for count in 0..V::COUNT {
        // SAFETY: as above.
        let loaded = unsafe { lanes_of(bf16::load_first::<V>(values.as_ptr(), count)) };
        assert!(
            loaded
                .iter()
                .enumerate()
                .all(|(lane, &value)| value == if lane < count { ramp()[lane] } else { 0.0 })
        );
    }
});

on_every_set!(transposed_store_turns_rows_to_columns, |V| {
    const STRIDE: usize = 20;
    let mut stored = [f32::NAN; STRIDE * MAX_LANES];
    // SAFETY: as above, and `stored` has room for as many rows of `STRIDE` as any form has lanes.
    unsafe {
        let rows = std::array::from_fn(|row| {
            V::load_f32(ramp().map(|value| value + 100.0 * row as f32).as_ptr())
        });
        V::store_transposed(&rows, stored.as_mut_ptr(), STRIDE);
    }
    for lane in 0..V::COUNT {
        for row in 0..V::COUNT {
            assert_eq!(
                stored[lane * STRIDE + row],
                lane as f32 + 1.0 + 100.0 * row as f32
            );
        }
        assert!(
            stored[lane * STRIDE + V::COUNT..(lane + 1) * STRIDE]
                .iter()
                .all(|value| value.is_nan())
        );
    }
});

on_every_set!(every_half_widens_to_its_value, |V| {
    for first in (0..=u16::MAX - 15).step_by(8) {
        let bits: [u16; MAX_LANES] = std::array::from_fn(|lane| first + lane as u16);
        let (halves, brains) = (bits.map(f16::from_bits), bits.map(bf16::from_bits));
        // SAFETY: as above.
        let (wide_halves, wide_brains) = unsafe {
            (
                lanes_of(V::load_f16(halves.as_ptr())),
                lanes_of(V::load_bf16(brains.as_ptr())),
            )
        };
        for lane in 0..V::COUNT {
            assert_same(wide_halves[lane], halves[lane].to_f32());
            assert_same(wide_brains[lane], brains[lane].to_f32());
        }
    }
});

/// Equal in bits, or both not a number.
fn assert_same(found: f32, wanted: f32) {
    assert!(
        found.to_bits() == wanted.to_bits() || found.is_nan() && wanted.is_nan(),
        "{found} against {wanted}"
    );
}
