//! The tensors that a model must have, by name, shape and kind, from its config and what was detected (spec 6.2), and
//! what to make of a name that is not among them.

use inkstone_interface::config::ModelConfig;
use inkstone_interface::description::PartialLoraDescription;

use super::Shape;

const TOWER: &str = "vit.vision_tower.vision_model";
pub(crate) const POSITION_EMBEDDING: &str =
    "vit.vision_tower.vision_model.embeddings.position_embedding.weight";
pub(crate) const GLOBAL_SEPARATOR: &str = "plora_glb_GN";
pub(crate) const ROW_SEPARATOR: &str = "plora_sub_GN";
const TASK_ADAPTERS: [&str; 3] = ["lora_sft", "lora_dpo", "lora_web"];
const QUANTISED: [&str; 4] = ["qweight", "qzeros", "scales", "g_idx"];

/// The five linears of a decoder layer. Their values are the checkpoint's names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum LinearKind {
    Wqkv,
    Wo,
    W1,
    W3,
    W2,
}

impl LinearKind {
    pub const ALL: [Self; 5] = [Self::Wqkv, Self::Wo, Self::W1, Self::W3, Self::W2];

    /// The name inside a layer, such as `attention.wqkv`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Wqkv => "attention.wqkv",
            Self::Wo => "attention.wo",
            Self::W1 => "feed_forward.w1",
            Self::W3 => "feed_forward.w3",
            Self::W2 => "feed_forward.w2",
        }
    }

    /// `[out, in]` of the base matrix.
    pub fn shape(self, config: &ModelConfig) -> [usize; 2] {
        let (hidden, inner) = (config.hidden_size, config.intermediate_size);
        let heads = config.num_attention_heads + 2 * config.num_key_value_heads;
        match self {
            Self::Wqkv => [heads * config.head_dim(), hidden],
            Self::Wo => [hidden, hidden],
            Self::W1 | Self::W3 => [inner, hidden],
            Self::W2 => [hidden, inner],
        }
    }

    fn rank(self, plora: &PartialLoraDescription) -> usize {
        match self {
            Self::Wqkv => plora.wqkv.rank,
            Self::Wo => plora.wo.rank,
            Self::W1 => plora.w1.rank,
            Self::W3 => plora.w3.rank,
            Self::W2 => plora.w2.rank,
        }
    }
}

/// What a tensor is for. Decides how it is split over ranks (`shard.rs`) and which role loads it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum TensorKind {
    TokEmbeddings,
    /// `attention_norm`, `ffn_norm` and the final norm.
    Norm,
    Linear(LinearKind),
    PloraA(LinearKind),
    PloraB(LinearKind),
    Output,
    Projector,
    /// `plora_glb_GN` and `plora_sub_GN`, which take a place between picture features.
    Separator,
    /// The vision tower.
    Tower,
}

impl TensorKind {
    /// Whether vision workers load it; all else is for ranks of the language model.
    pub fn is_vision(self) -> bool {
        matches!(self, Self::Separator | Self::Tower)
    }

    /// The kind of the tensor `name`, or nothing when the network has none of that name.
    pub fn of(name: &str) -> Option<Self> {
        match name {
            "model.tok_embeddings.weight" => return Some(Self::TokEmbeddings),
            "model.norm.weight" => return Some(Self::Norm),
            "output.weight" => return Some(Self::Output),
            GLOBAL_SEPARATOR | ROW_SEPARATOR => return Some(Self::Separator),
            _ if name.starts_with("vision_proj.") => return Some(Self::Projector),
            _ if name.starts_with("vit.") => return Some(Self::Tower),
            _ => {}
        }
        let (_layer, rest) = name.strip_prefix("model.layers.")?.split_once('.')?;
        if matches!(rest, "attention_norm.weight" | "ffn_norm.weight") {
            return Some(Self::Norm);
        }
        let linear = LinearKind::ALL
            .into_iter()
            .find(|linear| rest.starts_with(linear.name()))?;
        match &rest[linear.name().len()..] {
            ".weight" => Some(Self::Linear(linear)),
            ".Plora_A.weight" => Some(Self::PloraA(linear)),
            ".Plora_B.weight" => Some(Self::PloraB(linear)),
            _ => None,
        }
    }
}

/// A tensor that must be there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExpectedTensor {
    pub name: String,
    pub shape: Shape,
    pub kind: TensorKind,
}

/// What the inventory needs besides the config: all of it is told by tensors.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Structure {
    /// 4KHD and 2.5: separators, and a projector over 2 x 2 patches.
    pub is_hd: bool,
    /// Rows of `position_embedding`: the patches of a picture or tile, and one.
    pub position_rows: usize,
    pub partial_lora: PartialLoraDescription,
}

/// Every tensor of the model, in the order of the network.
pub fn inventory(config: &ModelConfig, structure: &Structure) -> Vec<ExpectedTensor> {
    let mut list = List(Vec::new());
    let hidden = config.hidden_size;
    list.add(
        "model.tok_embeddings.weight",
        &[config.vocab_size, hidden],
        TensorKind::TokEmbeddings,
    );
    for layer in 0..config.num_hidden_layers {
        list.add_decoder_layer(layer, config, &structure.partial_lora);
    }
    list.add("model.norm.weight", &[hidden], TensorKind::Norm);
    list.add(
        "output.weight",
        &[config.vocab_size, hidden],
        TensorKind::Output,
    );
    list.add_tower(config, structure.position_rows);
    let tower_width = config.vision().hidden_size;
    let feature_width = if structure.is_hd {
        4 * tower_width
    } else {
        tower_width
    };
    if structure.is_hd {
        list.add(
            GLOBAL_SEPARATOR,
            &[1, 1, feature_width],
            TensorKind::Separator,
        );
        list.add(
            ROW_SEPARATOR,
            &[1, 1, 1, feature_width],
            TensorKind::Separator,
        );
    }
    list.add_linear(
        "vision_proj.0",
        hidden,
        feature_width,
        TensorKind::Projector,
    );
    list.add_linear("vision_proj.2", hidden, hidden, TensorKind::Projector);
    list.0
}

struct List(Vec<ExpectedTensor>);

impl List {
    fn add(&mut self, name: &str, shape: &[usize], kind: TensorKind) {
        self.0.push(ExpectedTensor {
            name: name.to_owned(),
            shape: shape.into(),
            kind,
        });
    }

    fn add_decoder_layer(
        &mut self,
        layer: usize,
        config: &ModelConfig,
        plora: &PartialLoraDescription,
    ) {
        let hidden = config.hidden_size;
        let prefix = format!("model.layers.{layer}");
        for norm in ["attention_norm", "ffn_norm"] {
            self.add(
                &format!("{prefix}.{norm}.weight"),
                &[hidden],
                TensorKind::Norm,
            );
        }
        for linear in LinearKind::ALL {
            let (name, [outputs, inputs], rank) =
                (linear.name(), linear.shape(config), linear.rank(plora));
            self.add(
                &format!("{prefix}.{name}.weight"),
                &[outputs, inputs],
                TensorKind::Linear(linear),
            );
            self.add(
                &format!("{prefix}.{name}.Plora_A.weight"),
                &[rank, inputs],
                TensorKind::PloraA(linear),
            );
            self.add(
                &format!("{prefix}.{name}.Plora_B.weight"),
                &[outputs, rank],
                TensorKind::PloraB(linear),
            );
        }
    }

    fn add_tower(&mut self, config: &ModelConfig, position_rows: usize) {
        let vision = config.vision();
        let (width, inner, patch) = (
            vision.hidden_size,
            vision.intermediate_size,
            vision.patch_size as usize,
        );
        let kind = TensorKind::Tower;
        self.add(
            &format!("{TOWER}.embeddings.class_embedding"),
            &[width],
            kind,
        );
        self.add(
            &format!("{TOWER}.embeddings.patch_embedding.weight"),
            &[width, 3, patch, patch],
            kind,
        );
        self.add(POSITION_EMBEDDING, &[position_rows, width], kind);
        self.add_norm(&format!("{TOWER}.pre_layrnorm"), width);
        for layer in 0..vision.num_hidden_layers {
            let prefix = format!("{TOWER}.encoder.layers.{layer}");
            for linear in ["q_proj", "k_proj", "v_proj", "out_proj"] {
                self.add_linear(&format!("{prefix}.self_attn.{linear}"), width, width, kind);
            }
            self.add_norm(&format!("{prefix}.layer_norm1"), width);
            self.add_norm(&format!("{prefix}.layer_norm2"), width);
            self.add_linear(&format!("{prefix}.mlp.fc1"), inner, width, kind);
            self.add_linear(&format!("{prefix}.mlp.fc2"), width, inner, kind);
        }
    }

    fn add_linear(&mut self, prefix: &str, outputs: usize, inputs: usize, kind: TensorKind) {
        self.add(&format!("{prefix}.weight"), &[outputs, inputs], kind);
        self.add(&format!("{prefix}.bias"), &[outputs], kind);
    }

    fn add_norm(&mut self, prefix: &str, width: usize) {
        self.add(&format!("{prefix}.weight"), &[width], TensorKind::Tower);
        self.add(&format!("{prefix}.bias"), &[width], TensorKind::Tower);
    }
}

/// What a tensor outside the inventory is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unexpected {
    /// Left by other tools and of no effect.
    Ignored,
    /// An adapter of release 2.5 for its writing and web modes; base mode does without.
    TaskAdapter,
    /// A packed weight.
    Quantised,
    Extra,
}

impl Unexpected {
    pub(crate) fn classify(name: &str) -> Self {
        let ignored = name.contains(".post_layernorm.")
            || name.ends_with(".position_ids")
            || name.ends_with(".inv_freq");
        let is_adapter = |part: &str| {
            TASK_ADAPTERS
                .into_iter()
                .any(|adapter| part.starts_with(adapter))
        };
        let last = name.rsplit('.').next().unwrap_or(name);
        if ignored {
            Self::Ignored
        } else if name.starts_with("model.layers.") && name.split('.').any(is_adapter) {
            Self::TaskAdapter
        } else if QUANTISED.contains(&last) {
            Self::Quantised
        } else {
            Self::Extra
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_outside_the_network_are_told_apart() {
        let wqkv = "model.layers.0.attention.wqkv";
        let tower = "vit.vision_tower.vision_model";
        for (name, wanted) in [
            (format!("{tower}.post_layernorm.bias"), Unexpected::Ignored),
            (
                format!("{tower}.embeddings.position_ids"),
                Unexpected::Ignored,
            ),
            (
                "model.layers.0.attention.rotary_emb.inv_freq".to_owned(),
                Unexpected::Ignored,
            ),
            (format!("{wqkv}.lora_sft_A.weight"), Unexpected::TaskAdapter),
            (format!("{wqkv}.lora_web_B.weight"), Unexpected::TaskAdapter),
            (format!("{wqkv}.linear.qweight"), Unexpected::Quantised),
            (format!("{wqkv}.scales"), Unexpected::Quantised),
            (format!("{wqkv}.Plora_C.weight"), Unexpected::Extra),
            ("lora_sft_A".to_owned(), Unexpected::Extra),
        ] {
            assert_eq!(Unexpected::classify(&name), wanted, "{name}");
        }
    }

    #[test]
    fn kinds_follow_from_names() {
        for (name, wanted) in [
            (
                "model.layers.31.feed_forward.w2.Plora_B.weight",
                Some(TensorKind::PloraB(LinearKind::W2)),
            ),
            (
                "model.layers.0.attention.wo.weight",
                Some(TensorKind::Linear(LinearKind::Wo)),
            ),
            ("model.layers.0.ffn_norm.weight", Some(TensorKind::Norm)),
            ("vision_proj.2.bias", Some(TensorKind::Projector)),
            ("plora_sub_GN", Some(TensorKind::Separator)),
            ("model.layers.0.attention.wo.bias", None),
            ("model.layers", None),
        ] {
            assert_eq!(TensorKind::of(name), wanted, "{name}");
        }
    }
}
