//! Writes pictures of the world's scenes into a folder, to be looked at: `draw_scenes FOLDER SEED COUNT`.

use std::{env, fs, path::PathBuf};

use inkstone_world::{Lot, draw_picture, draw_scene};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [folder, seed, count] = arguments.as_slice() else {
        return Err("usage: draw_scenes FOLDER SEED COUNT".into());
    };
    let (seed, count) = (seed.parse()?, count.parse()?);
    fs::create_dir_all(folder)?;
    for index in 0..count {
        let scene = draw_scene(&mut Lot::new(seed, "pictures", index));
        let ending = scene.look.jpeg_quality.map_or("png", |_| "jpg");
        let file = PathBuf::from(folder).join(format!("{index:04}.{ending}"));
        fs::write(file, draw_picture(&scene))?;
    }
    Ok(())
}
