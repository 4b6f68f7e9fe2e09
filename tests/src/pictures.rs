//! Pictures for tests, made of nothing.

/// A picture of stripes, different for each `seed`, of one size: 24-bit BMP.
pub fn stripes(seed: usize) -> Vec<u8> {
    let side = 28_usize;
    let row_len = (side * 3).next_multiple_of(4);
    let size = 54 + row_len * side;
    let mut file = Vec::with_capacity(size);
    file.extend(b"BM");
    for number in [size, 0, 54, 40, side, side] {
        file.extend((number as u32).to_le_bytes());
    }
    file.extend([1, 0, 24, 0]);
    file.extend([0; 24]);
    for y in 0..side {
        let pixel = |x: usize| [x * (seed + 3), y * 7 + seed * 31, (x ^ y) * 5];
        let row = (0..side).flat_map(pixel).map(|value| value as u8);
        file.extend(row);
        file.extend(vec![0; row_len - side * 3]);
    }
    file
}
