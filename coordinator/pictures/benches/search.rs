//! How long a library of ten thousand records takes to answer.

use std::hint::black_box;
use std::time::Duration;

use bytes::Bytes;
use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use inkstone_pictures::library::{Details, Entry, Library, LibraryOptions};
use inkstone_pictures::{PictureSource, Search};
use tokio::runtime::Runtime;

const RECORDS: u32 = 10_000;

/// One pixel of this colour, as BMP.
fn pixel(number: u32) -> Bytes {
    let [red, green, blue, _] = number.to_le_bytes();
    let mut file = b"BM".to_vec();
    for word in [58_u32, 0, 54, 40, 1, 1] {
        file.extend_from_slice(&word.to_le_bytes());
    }
    file.extend_from_slice(&[1, 0, 24, 0]);
    for word in [0_u32, 4, 0, 0, 0, 0] {
        file.extend_from_slice(&word.to_le_bytes());
    }
    file.extend_from_slice(&[red, green, blue, 0]);
    file.into()
}

/// Captions as people write them, in one language or the other.
fn caption(number: u32) -> String {
    let pick = |list: &[&'static str], step: u32| list[(number / step) as usize % list.len()];
    let object = pick(
        &[
            "apple", "dog", "cat", "bicycle", "boat", "house", "tree", "teapot", "lantern",
            "bridge", "horse", "clock",
        ],
        1,
    );
    let colour = pick(
        &["red", "blue", "green", "black", "white", "golden", "brown"],
        5,
    );
    let place = pick(
        &[
            "on a wooden table",
            "by the sea",
            "in the rain",
            "under an old tree",
            "in front of a window",
            "on a mountain path",
        ],
        11,
    );
    let chinese_object = pick(
        &[
            "苹果",
            "小狗",
            "猫",
            "自行车",
            "小船",
            "房子",
            "大树",
            "茶壶",
            "灯笼",
            "石桥",
            "马",
            "时钟",
        ],
        1,
    );
    let chinese_place = pick(
        &[
            "放在木桌上",
            "在海边",
            "在雨中",
            "在老树下",
            "在窗前",
            "在山路上",
        ],
        7,
    );
    if number.is_multiple_of(2) {
        format!("a {colour} {object} {place}, number {number}")
    } else {
        format!("一个{chinese_object}{chinese_place}，编号{number}")
    }
}

fn entries() -> Vec<Entry> {
    let entry = |number| Entry {
        data: pixel(number),
        details: Details {
            caption: caption(number),
            ..Details::default()
        },
    };
    (0..RECORDS).map(entry).collect()
}

fn wanted(caption: &str, exclude: Vec<String>) -> Search {
    Search {
        caption: caption.to_owned(),
        exclude,
        max_pictures: 4,
    }
}

fn search(criterion: &mut Criterion) {
    let runtime = Runtime::new().expect("a runtime");
    let library = runtime
        .block_on(Library::in_memory("bench", entries()))
        .expect("a library");
    let excluded = runtime
        .block_on(library.find(&Search {
            max_pictures: 500,
            ..wanted("a dog and an apple", Vec::new())
        }))
        .expect("hits");
    let excluded: Vec<_> = excluded.into_iter().map(|hit| hit.record.index).collect();
    assert_eq!(excluded.len(), 500);
    let mut group = criterion.benchmark_group("ten thousand records");
    for (name, search) in [
        (
            "English caption",
            wanted("a brown dog sleeping under an old tree", Vec::new()),
        ),
        (
            "Chinese caption",
            wanted("雨中的石桥旁边停着一辆自行车", Vec::new()),
        ),
        ("500 excluded", wanted("a dog and an apple", excluded)),
        ("a word in half of all", wanted("number", Vec::new())),
    ] {
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                runtime
                    .block_on(library.find(black_box(&search)))
                    .expect("hits")
            })
        });
    }
    let four = wanted("a brown dog sleeping under an old tree", Vec::new());
    group.bench_function("with the four pictures", |bencher| {
        bencher.iter(|| {
            runtime
                .block_on(PictureSource::search(&library, black_box(&four)))
                .expect("pictures")
        });
    });
    group.finish();
}

fn rebuild(criterion: &mut Criterion) {
    let runtime = Runtime::new().expect("a runtime");
    let folder = tempfile::tempdir().expect("a folder");
    let place = folder
        .path()
        .to_str()
        .expect("a path of plain characters")
        .to_owned();
    let open = |place: String| async move {
        Library::open(
            &place,
            LibraryOptions {
                create: true,
                ..LibraryOptions::default()
            },
        )
        .await
    };
    // In batches, as an import writes them. Made at once they would be one.
    runtime.block_on(async {
        let library = open(place.clone()).await.expect("a library");
        let mut entries = entries();
        while !entries.is_empty() {
            let rest = entries.split_off(entries.len().min(500));
            library.add(entries).await.expect("added");
            entries = rest;
        }
    });
    let mut group = criterion.benchmark_group("open a folder of ten thousand");
    group
        .sample_size(10)
        .measurement_time(Duration::from_secs(20));
    group.bench_function("with its index", |bencher| {
        bencher.iter(|| runtime.block_on(open(place.clone())).expect("a library"));
    });
    group.bench_function("from its records alone", |bencher| {
        let remove = || std::fs::remove_dir_all(folder.path().join("index")).expect("removed");
        bencher.iter_batched(
            remove,
            |()| runtime.block_on(open(place.clone())).expect("a library"),
            BatchSize::PerIteration,
        );
    });
    group.finish();
}

criterion_group!(benches, search, rebuild);
criterion_main!(benches);
