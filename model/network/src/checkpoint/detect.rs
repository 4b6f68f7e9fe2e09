//! Which release a checkpoint is, told by its tensors and never by its name (spec section 1): separators, the rows of
//! the position table, and the ranks of the low-rank branches.

use std::path::Path;

use inkstone_interface::config::ModelConfig;
use inkstone_interface::description::{LowRank, PartialLoraDescription, Variant};
use inkstone_interface::picture_geometry::PictureGeometry;

use super::index::Weights;
use super::inventory::{
    GLOBAL_SEPARATOR, LinearKind, POSITION_EMBEDDING, ROW_SEPARATOR, Structure,
};
use super::{CheckpointError, Shape};

/// The rank that 4KHD gives `wqkv` beside 256 elsewhere. Its branch was trained with an alpha of 16 and the scale is
/// alpha over rank; in all other branches alpha is the rank.
const SCALED_RANK: usize = 8;

/// What the tensors tell.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Detected {
    pub(crate) variant: Variant,
    pub(crate) picture: PictureGeometry,
    pub(crate) structure: Structure,
}

pub(crate) fn detect(
    dir: &Path,
    config: &ModelConfig,
    weights: &Weights,
) -> Result<Detected, CheckpointError> {
    let found = Found { dir, weights };
    let is_hd = [GLOBAL_SEPARATOR, ROW_SEPARATOR]
        .iter()
        .any(|name| weights.tensors.contains_key(*name));
    let table = found.shape(POSITION_EMBEDDING, &[0, config.vision().hidden_size])?;
    let position_rows = table.0.first().copied().unwrap_or(0);
    let picture = geometry(&found, config, is_hd, position_rows)?;
    let variant = match picture.side {
        _ if !is_hd => Variant::Xc2,
        side if side == PictureGeometry::four_khd().side => Variant::Xc2FourKhd,
        _ => Variant::Xc2d5,
    };
    let partial_lora = partial_lora(&found, config)?;
    Ok(Detected {
        variant,
        picture,
        structure: Structure {
            is_hd,
            position_rows,
            partial_lora,
        },
    })
}

struct Found<'a> {
    dir: &'a Path,
    weights: &'a Weights,
}

impl Found<'_> {
    /// The shape of a tensor, which must have as many dimensions as `wanted`.
    fn shape(&self, name: &str, wanted: &[usize]) -> Result<&Shape, CheckpointError> {
        let wanted = Shape(wanted.to_vec());
        let Some((file, tensor)) = self.weights.tensors.get(name) else {
            return Err(CheckpointError::Missing {
                dir: self.dir.to_owned(),
                tensor: name.to_owned(),
                wanted,
                more: String::new(),
            });
        };
        if tensor.shape.0.len() == wanted.0.len() {
            return Ok(&tensor.shape);
        }
        Err(CheckpointError::WrongShape {
            file: self.weights.files[*file].name.clone(),
            tensor: name.to_owned(),
            wanted,
            found: tensor.shape.clone(),
        })
    }
}

/// Side and tiling of a picture from the number of rows of the position table.
fn geometry(
    found: &Found<'_>,
    config: &ModelConfig,
    is_hd: bool,
    rows: usize,
) -> Result<PictureGeometry, CheckpointError> {
    let bad = |reason: String| CheckpointError::BadGeometry {
        dir: found.dir.to_owned(),
        reason,
    };
    let patches = rows.saturating_sub(1);
    let across = patches.isqrt();
    let patch_size = config.vision().patch_size;
    let side = u32::try_from(across)
        .ok()
        .and_then(|across| across.checked_mul(patch_size));
    let Some(side) = side.filter(|&side| side > 0 && across * across == patches) else {
        return Err(bad(format!(
            "{POSITION_EMBEDDING} has {rows} rows, wanted one more than a square number"
        )));
    };
    let hd = [PictureGeometry::four_khd(), PictureGeometry::xc2d5()];
    let geometry = match hd
        .into_iter()
        .find(|hd| hd.side == side && hd.patch_size == patch_size)
    {
        Some(geometry) if is_hd => geometry,
        None if is_hd => {
            let reason = format!("it has separators, but a position table of {rows} rows");
            return Err(CheckpointError::UnknownVariant {
                file: found.dir.display().to_string(),
                reason,
            });
        }
        _ => PictureGeometry {
            side,
            patch_size,
            hd: None,
        },
    };
    if let (false, Some(img_size)) = (is_hd, config.img_size)
        && img_size != side
    {
        let reason = format!(
            "config.json says img_size {img_size}, but {POSITION_EMBEDDING} has {rows} rows, which is a picture of \
             {side} pixels"
        );
        return Err(bad(reason));
    }
    geometry
        .validate()
        .map_err(|error| bad(error.to_string()))?;
    Ok(geometry)
}

/// Ranks from the first layer; the inventory then holds every layer to them.
fn partial_lora(
    found: &Found<'_>,
    config: &ModelConfig,
) -> Result<PartialLoraDescription, CheckpointError> {
    let rank = |linear: LinearKind| {
        let name = format!("model.layers.0.{}.Plora_A.weight", linear.name());
        found
            .shape(&name, &[0, linear.shape(config)[1]])
            .map(|shape| shape.0[0])
    };
    let [wqkv, wo, w1, w3, w2] = LinearKind::ALL.map(rank);
    let (wqkv, wo, w1, w3, w2) = (wqkv?, wo?, w1?, w3?, w2?);
    if [wqkv, wo, w1, w3, w2].contains(&0) {
        let reason = "a Plora_A of layer 0 has no rows, wanted a rank of at least 1".to_owned();
        return Err(CheckpointError::BadGeometry {
            dir: found.dir.to_owned(),
            reason,
        });
    }
    let is_scaled = wqkv == SCALED_RANK && [wo, w1, w3, w2].iter().any(|&rank| rank != SCALED_RANK);
    let plain = |rank| LowRank { rank, scale: 1.0 };
    let wqkv = LowRank {
        rank: wqkv,
        scale: if is_scaled { 2.0 } else { 1.0 },
    };
    Ok(PartialLoraDescription {
        wqkv,
        wo: plain(wo),
        w1: plain(w1),
        w3: plain(w3),
        w2: plain(w2),
    })
}
