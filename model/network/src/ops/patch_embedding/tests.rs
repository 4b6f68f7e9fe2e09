use super::patch_embedding;
use crate::{device::Device, tensor::Tensor};

fn numbers(count: usize, step: f32) -> Vec<f32> {
    (0..count).map(|i| (i as f32 * step).sin()).collect()
}

#[test]
fn every_patch_is_the_convolution_at_its_place() {
    let device = Device::cpu(2);
    let (num_squares, side, patch, width) = (3, 6, 2, 5);
    let across = side / patch;
    let pixels = numbers(num_squares * 3 * side * side, 0.7);
    let weight = numbers(width * 3 * patch * patch, 1.3);
    let class = numbers(width, 2.1);
    let positions = numbers((1 + across * across) * width, 0.9);
    let tensor =
        |shape: &[usize], values: &[f32]| Tensor::from_f32(&device, shape, values).unwrap();
    let rows = patch_embedding(
        &tensor(&[num_squares, 3, side, side], &pixels),
        &tensor(&[width, 3 * patch * patch], &weight),
        &tensor(&[width], &class),
        &tensor(&[1 + across * across, width], &positions),
    )
    .unwrap();
    let per_square = 1 + across * across;
    for (index, found) in rows.as_f32().unwrap().iter().enumerate() {
        let (square, place, unit) = (
            index / width / per_square,
            index / width % per_square,
            index % width,
        );
        let mut wanted = positions[place * width + unit];
        if place == 0 {
            wanted += class[unit];
        } else {
            let (top, left) = ((place - 1) / across * patch, (place - 1) % across * patch);
            for channel in 0..3 {
                for (y, x) in (0..patch * patch).map(|i| (i / patch, i % patch)) {
                    let pixel = pixels[((square * 3 + channel) * side + top + y) * side + left + x];
                    wanted += pixel * weight[((unit * 3 + channel) * patch + y) * patch + x];
                }
            }
        }
        assert!(
            (found - wanted).abs() < 1e-5,
            "[{index}] {found} against {wanted}"
        );
    }
}

#[test]
fn squares_of_another_size_than_the_position_table_are_an_error() {
    let device = Device::cpu(1);
    let zeros = |shape: &[usize]| {
        Tensor::from_f32(&device, shape, &vec![0.0; shape.iter().product()]).unwrap()
    };
    let embed = |side: usize| {
        patch_embedding(
            &zeros(&[1, 3, side, side]),
            &zeros(&[4, 12]),
            &zeros(&[4]),
            &zeros(&[10, 4]),
        )
    };
    assert!(embed(6).is_ok());
    assert!(embed(8).unwrap_err().to_string().contains("10 positions"));
}
