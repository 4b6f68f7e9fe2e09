//! Rules of `config.json`: what must be there, what is refused, and that nothing is made up.

use serde_json::{Value, json};

use super::*;

fn vl_7b() -> Value {
    json!({
        "architectures": ["InternLMXComposer2ForCausalLM"],
        "auto_map": {"AutoConfig": "configuration_internlm_xcomposer2.InternLMXcomposer2Config"},
        "bias": false, "bos_token_id": 1, "eos_token_id": 2, "hidden_act": "silu", "hidden_size": 4096,
        "img_size": 490, "initializer_range": 0.02, "intermediate_size": 14336, "max_length": 4096,
        "max_position_embeddings": 32768, "model_type": "internlmxcomposer2", "num_attention_heads": 32,
        "num_hidden_layers": 32, "num_key_value_heads": 8, "pad_token_id": 2, "rms_norm_eps": 1e-05,
        "rope_scaling": {"factor": 1.0, "type": "dynamic"}, "rope_theta": 1000000, "tie_word_embeddings": false,
        "torch_dtype": "bfloat16", "transformers_version": "4.33.1", "use_cache": false, "vocab_size": 92544
    })
}

fn vl_7b_with(key: &str, value: Value) -> Result<ModelConfig, ConfigError> {
    let mut config = vl_7b();
    config[key] = value;
    ModelConfig::from_json(&config.to_string())
}

#[track_caller]
fn assert_refused(key: &str, value: Value, message: &str) {
    let error = vl_7b_with(key, value)
        .expect_err("the config should be refused")
        .to_string();
    assert!(
        error.contains(message),
        "wanted an error with {message:?}, found {error:?}"
    );
}

#[test]
fn official_config_is_read_by_its_keys() {
    let config = ModelConfig::from_json(&vl_7b().to_string()).unwrap();
    assert_eq!(
        (
            config.vocab_size,
            config.hidden_size,
            config.intermediate_size
        ),
        (92544, 4096, 14336)
    );
    assert_eq!(
        (
            config.num_hidden_layers,
            config.num_attention_heads,
            config.num_key_value_heads
        ),
        (32, 32, 8)
    );
    assert_eq!((config.head_dim(), config.num_query_groups()), (128, 4));
    assert_eq!((config.rms_norm_eps, config.rope_theta), (1e-5, 1e6));
    assert_eq!(
        config.rope_scaling,
        Some(RopeScaling {
            kind: RopeScalingKind::Dynamic,
            factor: 1.0
        })
    );
    assert_eq!((config.img_size, config.max_length), (Some(490), 4096));
}

#[test]
fn absent_vision_config_means_clip_vit_l_14() {
    let config = ModelConfig::from_json(&vl_7b().to_string()).unwrap();
    let vision = config.vision();
    assert_eq!(vision, VisionConfig::CLIP_VIT_L_14);
    assert_eq!(
        (
            vision.hidden_size,
            vision.num_hidden_layers,
            vision.head_dim()
        ),
        (1024, 24, 64)
    );
}

#[test]
fn missing_required_keys_are_all_named_with_the_file() {
    for key in REQUIRED_KEYS {
        let mut config = vl_7b();
        config.as_object_mut().unwrap().remove(key);
        let error = ModelConfig::from_json(&config.to_string())
            .unwrap_err()
            .to_string();
        assert_eq!(error, format!("config.json lacks required keys: {key}"));
    }
    let error = ModelConfig::from_json("{}").unwrap_err().to_string();
    assert!(error.contains("hidden_size, intermediate_size"), "{error}");
}

#[test]
fn null_rope_scaling_means_none() {
    assert_eq!(
        vl_7b_with("rope_scaling", Value::Null)
            .unwrap()
            .rope_scaling,
        None
    );
    let linear = vl_7b_with("rope_scaling", json!({"type": "linear", "factor": 4.0})).unwrap();
    assert_eq!(linear.rope_scaling.unwrap().kind, RopeScalingKind::Linear);
}

#[test]
fn settings_the_network_does_not_have_are_refused() {
    assert_refused(
        "bias",
        json!(true),
        "bias true is not supported, wanted false",
    );
    assert_refused(
        "tie_word_embeddings",
        json!(true),
        "tie_word_embeddings true is not supported",
    );
    assert_refused(
        "hidden_act",
        json!("gelu"),
        "hidden_act gelu is not supported, wanted silu",
    );
    assert_refused(
        "rope_scaling",
        json!({"type": "yarn", "factor": 2.0}),
        "rope_scaling.type yarn is not supported",
    );
    assert_refused(
        "rope_scaling",
        json!({"factor": 2.0}),
        "lacks required keys: rope_scaling.type",
    );
}

#[test]
fn sizes_that_cannot_work_are_refused() {
    assert_refused("hidden_size", json!(0), "hidden_size must be from 1 to");
    assert_refused(
        "hidden_size",
        json!(u64::MAX),
        "hidden_size must be from 1 to",
    );
    assert_refused("hidden_size", json!(-1), "cannot parse config.json");
    assert_refused("hidden_size", json!("4096"), "cannot parse config.json");
    assert_refused(
        "num_attention_heads",
        json!(33),
        "num_attention_heads 33 must divide hidden_size 4096",
    );
    assert_refused(
        "num_key_value_heads",
        json!(5),
        "num_key_value_heads 5 must divide num_attention_heads 32",
    );
    assert_refused(
        "hidden_size",
        json!(32),
        "head size (hidden_size / num_attention_heads) must be even",
    );
    assert_refused(
        "eos_token_id",
        json!(92544),
        "eos_token_id must be below vocab_size 92544, found 92544",
    );
    assert_refused(
        "rms_norm_eps",
        json!(0.0),
        "rms_norm_eps must be between 0 and 1",
    );
    assert_refused(
        "rope_theta",
        json!(-1.0),
        "rope_theta must be finite and at least 1",
    );
    assert_refused(
        "rope_scaling",
        json!({"type": "dynamic", "factor": 0.5}),
        "rope_scaling.factor must be",
    );
    assert_refused(
        "max_length",
        json!(1u64 << 40),
        "max_length must be from 1 to",
    );
}

#[test]
fn incomplete_or_impossible_vision_config_is_refused() {
    assert_refused("vision_config", json!({"hidden_size": 64}), "missing field");
    let mut vision = serde_json::to_value(VisionConfig::CLIP_VIT_L_14).unwrap();
    vision["num_attention_heads"] = json!(3);
    assert_refused(
        "vision_config",
        vision,
        "vision_config.num_attention_heads 3 must divide hidden_size 1024",
    );
}

#[test]
fn config_survives_a_round_trip() {
    let config = vl_7b_with(
        "vision_config",
        serde_json::to_value(VisionConfig::CLIP_VIT_L_14).unwrap(),
    )
    .unwrap();
    let json = serde_json::to_string(&config).unwrap();
    assert_eq!(ModelConfig::from_json(&json).unwrap(), config);
    assert_eq!(serde_json::from_str::<ModelConfig>(&json).unwrap(), config);
}

#[test]
fn absent_file_is_named() {
    let error = ModelConfig::read(Path::new("/nonexistent"))
        .unwrap_err()
        .to_string();
    assert!(
        error.starts_with("cannot read /nonexistent/config.json"),
        "{error}"
    );
}
