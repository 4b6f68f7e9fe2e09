//! How fast pictures are prepared, each step beside a peer or a limit measured in the same run.
//!
//! `cargo bench -p inkstone-model --bench vision`
#![expect(clippy::print_stdout, reason = "a bench prints its table")]

use std::hint::black_box;
use std::io::Cursor;
use std::time::{Duration, Instant};

use image::codecs::jpeg::JpegEncoder;
use image::imageops::{self, FilterType};
use image::{ExtendedColorType, RgbImage};
use inkstone_interface::config::VisionConfig;
use inkstone_interface::picture_geometry::PictureGeometry;
use inkstone_model::checkpoint::Checkpoint;
use inkstone_model::clip::VisionModel;
use inkstone_model::clip::preprocess::resample::{Filter, resample};
use inkstone_model::clip::preprocess::{DecodeLimits, RgbPicture, decode_picture, prepare};
use inkstone_model::device::Device;
use inkstone_model::load_options::LoadOptions;
use inkstone_model::ops::full_attention::full_attention;
use inkstone_model::ops::linear::linear;
use inkstone_model::synthesize::{Preset, SynthesizeOptions, synthesize};
use inkstone_model::tensor::{DType, Tensor};

/// A picture as phones take them: 12 megapixels.
const WIDTH: u32 = 4000;
const HEIGHT: u32 = 3000;
/// What the 2.0 chat release takes.
const SIDE: u32 = 490;

fn main() {
    let photo = photo();
    let jpeg = encode_jpeg(&photo);
    println!(
        "vision: {WIDTH} x {HEIGHT} photo, JPEG of {} KB, best of several runs\n",
        jpeg.len() / 1000
    );
    println!("{:<58} {:>9}", "step", "ms");
    decoding(&jpeg);
    resampling(&photo);
    preparing(&photo);
    println!();
    attending();
    encoding();
}

fn decoding(jpeg: &[u8]) {
    row("decode to RGB (threads: 1)", || {
        decode_picture(jpeg, &DecodeLimits::default()).expect("a picture")
    });
    row("  peer: image crate, decode to RGB", || {
        image::load_from_memory(jpeg)
            .expect("a picture")
            .into_rgb8()
    });
}

fn resampling(photo: &RgbPicture) {
    let name = |who: &str, threads: usize| format!("{who} to {SIDE} x {SIDE} (threads: {threads})");
    for threads in [1, rayon::current_num_threads()] {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .expect("threads");
        row(&name("bicubic, as Pillow", threads), || {
            pool.install(|| resample(photo, SIDE, SIDE, Filter::Bicubic))
        });
    }
    let as_image =
        RgbImage::from_raw(WIDTH, HEIGHT, photo.pixels().to_vec()).expect("as many bytes");
    row(&name("  peer: image crate, CatmullRom", 1), || {
        imageops::resize(&as_image, SIDE, SIDE, FilterType::CatmullRom)
    });
    row(&name("  peer: fast_image_resize, CatmullRom", 1), || {
        peer_resize(photo)
    });
}

fn peer_resize(photo: &RgbPicture) -> Vec<u8> {
    use fast_image_resize::images::{Image, ImageRef};
    use fast_image_resize::{FilterType, PixelType, ResizeAlg, ResizeOptions, Resizer};
    let source =
        ImageRef::new(WIDTH, HEIGHT, photo.pixels(), PixelType::U8x3).expect("as many bytes");
    let mut target = Image::new(SIDE, SIDE, PixelType::U8x3);
    let options = ResizeOptions::new().resize_alg(ResizeAlg::Convolution(FilterType::CatmullRom));
    Resizer::new()
        .resize(&source, &mut target, &options)
        .expect("a resized picture");
    target.into_vec()
}

fn preparing(photo: &RgbPicture) {
    let cases = [
        ("prepare, 2.0 at 490", PictureGeometry::square(SIDE), 1),
        ("prepare, 4KHD in 25 tiles", PictureGeometry::four_khd(), 25),
        ("prepare, 4KHD in 55 tiles", PictureGeometry::four_khd(), 55),
        ("prepare, 2.5 in 24 tiles", PictureGeometry::xc2d5(), 24),
    ];
    for (name, geometry, hd_num) in cases {
        let name = format!("{name} (threads: {})", rayon::current_num_threads());
        row(&name, || {
            prepare(photo, &geometry, hd_num).expect("a layout")
        });
    }
}

/// Encodes on the `quarter` preset, and the tower's ops at the sizes of the releases. The limit is our own linear layer:
/// nothing in the tower can be faster than its matrix products.
fn encoding() {
    let folder = tempfile::tempdir().expect("a folder");
    for dtype in [DType::F32, DType::BF16] {
        let dir = folder.path().join(format!("{dtype:?}"));
        let options = SynthesizeOptions {
            dtype,
            ..SynthesizeOptions::default()
        };
        synthesize(Preset::Quarter, 1, &dir, options, &|_| ()).expect("a model folder");
        let checkpoint = Checkpoint::open(&dir).expect("a checkpoint");
        encode_with(&checkpoint, dtype);
    }
}

fn encode_with(checkpoint: &Checkpoint, dtype: DType) {
    let device = Device::cpu(rayon::current_num_threads());
    let options = LoadOptions {
        device: device.clone(),
        dtype: None,
    };
    let model = VisionModel::load(checkpoint, &options, &|_| ()).expect("a vision model");
    let config = checkpoint.config().vision();
    let picture = RgbPicture::filled(640, 480, [90, 120, 30]);
    let prepared = prepare(&picture, model.geometry(), 1).expect("a layout");
    let num_rows = 1 + model.geometry().patches_per_tile();
    let limit = linear_gflops(
        &device,
        dtype,
        num_rows,
        config.hidden_size,
        config.intermediate_size,
    );
    for batch in [1, 4] {
        let pictures = vec![&prepared; batch];
        let took = best_of(|| model.encode(&pictures).expect("features"));
        let gflops = batch as f64 * tower_flop(&config, num_rows) / took.as_secs_f64() / 1e9;
        println!(
            "encode {batch} at {SIDE}, quarter, {dtype:?}: {:.1} ms each, {gflops:.0} GFLOP/s, {:.2} of linear's {limit:.0}",
            took.as_secs_f64() * 1e3 / batch as f64,
            gflops / limit,
        );
    }
}

/// What one square takes: two for every product of the linears and of attention.
fn tower_flop(config: &VisionConfig, num_rows: usize) -> f64 {
    let (rows, width, inner) = (
        num_rows as f64,
        config.hidden_size as f64,
        config.intermediate_size as f64,
    );
    let patch = f64::from(3 * config.patch_size * config.patch_size);
    let layer = rows * (4.0 * width * width + 2.0 * width * inner) + 2.0 * rows * rows * width;
    2.0 * ((rows - 1.0) * patch * width + config.num_hidden_layers as f64 * layer)
}

/// The rate of the widest linear of a tower.
fn linear_gflops(device: &Device, dtype: DType, rows: usize, inputs: usize, outputs: usize) -> f64 {
    let x = tensor(device, &[rows, inputs]);
    let weight = tensor(device, &[outputs, inputs])
        .to_dtype(dtype)
        .expect("rounded weights");
    let took = best_of(|| linear(&x, &weight, None).expect("a product"));
    2.0 * (rows * inputs * outputs) as f64 / took.as_secs_f64() / 1e9
}

/// Full attention at the sizes of the releases, beside the linear layer of the same tower.
fn attending() {
    let device = Device::cpu(rayon::current_num_threads());
    for side in [336, 490, 560] {
        let (len, width, num_heads) = (1 + (side / 14) * (side / 14), 1024, 16);
        let qkv = tensor(&device, &[len, 3 * width]);
        let took = best_of(|| full_attention(&qkv, len, num_heads).expect("attended rows"));
        let gflops = 4.0 * (len * len * width) as f64 / took.as_secs_f64() / 1e9;
        let limit = linear_gflops(&device, DType::F32, len, width, 4 * width);
        println!(
            "attention of {len} rows, {num_heads} heads: {:.1} ms, {gflops:.0} GFLOP/s, {:.2} of linear's {limit:.0} in f32",
            took.as_secs_f64() * 1e3,
            gflops / limit,
        );
    }
}

fn tensor(device: &Device, shape: &[usize]) -> Tensor {
    let values: Vec<f32> = (0..shape.iter().product())
        .map(|i: usize| (i as f32 * 0.37).sin() * 0.1)
        .collect();
    Tensor::from_f32(device, shape, &values).expect("as many values")
}

/// Times `work` and prints a row.
fn row<T>(name: &str, work: impl FnMut() -> T) {
    println!("{name:<58} {:>9.1}", best_of(work).as_secs_f64() * 1e3);
}

/// The shortest of several runs over about a second and a half.
fn best_of<T>(mut work: impl FnMut() -> T) -> Duration {
    black_box(work());
    let (start, mut best) = (Instant::now(), Duration::MAX);
    while start.elapsed() < Duration::from_millis(1500) {
        let now = Instant::now();
        black_box(work());
        best = best.min(now.elapsed());
    }
    best
}

/// Smooth shades with edges and a little noise, so that it compresses as a photo does.
fn photo() -> RgbPicture {
    let mut state = 1_u32;
    let mut pixels = Vec::with_capacity((WIDTH * HEIGHT * 3) as usize);
    for y in 0..HEIGHT {
        for x in 0..WIDTH {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let noise = (state >> 28) as f32;
            let (u, v) = (x as f32 * 0.004, y as f32 * 0.005);
            let edge = if (u.sin() + v.cos()).fract() > 0.5 {
                60.0
            } else {
                0.0
            };
            for phase in [0.0, 1.0, 2.0_f32] {
                let shade = 90.0 + 50.0 * (u + phase).sin() + 40.0 * (v * 1.3 + phase).cos();
                pixels.push((shade + edge + noise).clamp(0.0, 255.0) as u8);
            }
        }
    }
    RgbPicture::new(WIDTH, HEIGHT, pixels)
}

fn encode_jpeg(photo: &RgbPicture) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    JpegEncoder::new_with_quality(&mut bytes, 90)
        .encode(photo.pixels(), WIDTH, HEIGHT, ExtendedColorType::Rgb8)
        .expect("an encoder");
    bytes.into_inner()
}
