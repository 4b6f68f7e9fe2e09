//! Rotary embedding against the f64 formula and the reference's tables.

use super::*;
use crate::goldens::Goldens;

fn span(num_rows: usize, start: usize, base: f64) -> RotarySpan {
    RotarySpan {
        num_rows,
        start,
        base,
        divisor: 1.0,
    }
}

#[test]
fn query_and_key_heads_turn_and_value_heads_stay() {
    let layout = QkvLayout {
        num_kv_heads: 2,
        group: 3,
        head_dim: 12,
    };
    let spans = [span(2, 5, 10_000.0), span(3, 900, 500.0)];
    let positions = [
        (5, 10_000.0),
        (6, 10_000.0),
        (900, 500.0),
        (901, 500.0),
        (902, 500.0f64),
    ];
    let values: Vec<f32> = (0..5 * layout.width())
        .map(|i| (i as f32 * 0.37).sin())
        .collect();
    let device = Device::cpu(2);
    let mut qkv = Tensor::from_f32(&device, &[5, layout.width()], &values).unwrap();
    let angles = RotaryAngles::new(&device, layout.head_dim, &spans).unwrap();
    angles.rotate(&mut qkv, &layout).unwrap();

    let heads = values.chunks(12).zip(qkv.as_f32().unwrap().chunks(12));
    for (index, (before, after)) in heads.enumerate() {
        let (position, base) = positions[index / 10];
        if index % 5 == 4 {
            assert_eq!(before, after, "value head {index}");
            continue;
        }
        for m in 0..6 {
            let angle = f64::from(position) * base.powf(-(m as f64) / 6.0);
            let (low, high) = (f64::from(before[m]), f64::from(before[m + 6]));
            let wanted_low = low * angle.cos() - high * angle.sin();
            let wanted_high = high * angle.cos() + low * angle.sin();
            assert!(
                (f64::from(after[m]) - wanted_low).abs() < 2e-4,
                "head {index}, pair {m}"
            );
            assert!((f64::from(after[m + 6]) - wanted_high).abs() < 2e-4);
        }
    }
}

#[test]
fn tables_are_the_reference_s_at_far_positions() {
    let Some(goldens) = Goldens::open("xc2-rope-tiny") else {
        return;
    };
    let check = |prefix: &str, positions: &[usize], base: f64| {
        let spans: Vec<_> = positions
            .iter()
            .map(|&start| span(1, start, base))
            .collect();
        let angles = RotaryAngles::new(&Device::cpu(1), 128, &spans).unwrap();
        for (name, table) in [("cos", angles.tables().0), ("sin", angles.tables().1)] {
            let (_, wanted) = goldens.f32(&format!("{prefix}.{name}"));
            let rows = wanted.chunks(128).zip(table.as_f32().unwrap().chunks(64));
            for ((wanted, found), position) in rows.zip(positions) {
                let allowed = 2e-6 + 2e-7 * *position as f32;
                for (wanted, found) in wanted.iter().zip(found) {
                    assert!(
                        (wanted - found).abs() <= allowed,
                        "{prefix}.{name} at {position}"
                    );
                }
            }
        }
    };
    let positions = goldens.ids("table.positions");
    let mut positions: Vec<usize> = positions.into_iter().map(|p| p as usize).collect();
    check("table", &positions, 1e6);
    positions.push(39_999);
    check(
        "table.dynamic1",
        &positions,
        1e6 * (40_000.0f64 / 32_768.0).powf(128.0 / 126.0),
    );
}
