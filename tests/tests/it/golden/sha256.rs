//! SHA-256 (FIPS 180-4), for the digests in manifests: too little to link a crate for.

/// The digest in hexadecimal.
pub(super) fn sha256(message: &[u8]) -> String {
    let primes = primes();
    // The first 32 bits of the fractions of roots of the first primes: of cube roots for the rounds, of square roots for the
    // state that hashing starts from. Double precision has 52 bits, enough for these.
    let rounds: [u32; 64] = std::array::from_fn(|i| fraction(primes[i].cbrt()));
    let mut state: [u32; 8] = std::array::from_fn(|i| fraction(primes[i].sqrt()));
    let mut padded = message.to_vec();
    padded.push(0x80);
    padded.resize((padded.len() + 8).next_multiple_of(64) - 8, 0);
    padded.extend((message.len() as u64 * 8).to_be_bytes());
    for block in padded.as_chunks::<64>().0 {
        compress(&mut state, block, &rounds);
    }
    state.iter().map(|word| format!("{word:08x}")).collect()
}

fn compress(state: &mut [u32; 8], block: &[u8; 64], rounds: &[u32; 64]) {
    let mut schedule = [0_u32; 64];
    for (word, bytes) in schedule.iter_mut().zip(block.as_chunks().0) {
        *word = u32::from_be_bytes(*bytes);
    }
    for i in 16..64 {
        let (near, far) = (schedule[i - 2], schedule[i - 15]);
        let small1 = near.rotate_right(17) ^ near.rotate_right(19) ^ (near >> 10);
        let small0 = far.rotate_right(7) ^ far.rotate_right(18) ^ (far >> 3);
        let sum = schedule[i - 16].wrapping_add(schedule[i - 7]);
        schedule[i] = sum.wrapping_add(small0).wrapping_add(small1);
    }
    let [mut a, mut b, mut c, mut d, mut e, mut f, mut g, mut h] = *state;
    for (word, constant) in schedule.iter().zip(rounds) {
        let big1 = e.rotate_right(6) ^ e.rotate_right(11) ^ e.rotate_right(25);
        let choice = (e & f) ^ (!e & g);
        let one = [big1, choice, *constant, *word]
            .into_iter()
            .fold(h, u32::wrapping_add);
        let big0 = a.rotate_right(2) ^ a.rotate_right(13) ^ a.rotate_right(22);
        let majority = (a & b) ^ (a & c) ^ (b & c);
        let two = big0.wrapping_add(majority);
        (h, g, f, e) = (g, f, e, d.wrapping_add(one));
        (d, c, b, a) = (c, b, a, one.wrapping_add(two));
    }
    for (state, worked) in state.iter_mut().zip([a, b, c, d, e, f, g, h]) {
        *state = state.wrapping_add(worked);
    }
}

fn fraction(root: f64) -> u32 {
    (root.fract() * 2_f64.powi(32)) as u32
}

fn primes() -> Vec<f64> {
    let is_prime = |n: &u32| {
        (2..*n)
            .take_while(|d| d * d <= *n)
            .all(|d| !n.is_multiple_of(d))
    };
    (2..).filter(is_prime).take(64).map(f64::from).collect()
}

#[test]
fn digests_are_those_of_the_standard() {
    let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    assert_eq!(
        (sha256(b"").as_str(), sha256(b"abc").as_str()),
        (empty, abc)
    );
}
