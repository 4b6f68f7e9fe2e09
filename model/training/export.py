"""Writes a checkpoint folder in the public format: config, generation and tokenizer settings, tokenizer, tensors."""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file

from model import Config, XComposer2

CLASS = "InternLMXComposer2ForCausalLM"


def config_json(config: Config, dtype: str) -> dict:
    return {
        "architectures": [CLASS],
        "attn_implementation": "eager",
        "auto_map": {
            "AutoConfig": "configuration_internlm_xcomposer2.InternLMXcomposer2Config",
            "AutoModel": f"modeling_internlm_xcomposer2.{CLASS}",
            "AutoModelForCausalLM": f"modeling_internlm_xcomposer2.{CLASS}",
        },
        "bias": False,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "hidden_act": "silu",
        "img_size": config.vision.image_size,
        "initializer_range": 0.02,
        "max_length": 4096,
        "max_position_embeddings": 32768,
        "model_type": "internlmxcomposer2",
        "pad_token_id": 2,
        "rope_scaling": {"factor": 1.0, "type": "dynamic"},
        "tie_word_embeddings": False,
        "torch_dtype": dtype,
        "transformers_version": "4.33.1",
        "use_cache": False,
        **config.to_json(),
    }


GENERATION = {"_from_model_config": True, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2, "max_length": 4096, "use_cache": False, "transformers_version": "4.33.1"}
TOKENIZER = {
    "auto_map": {"AutoTokenizer": ["tokenization_internlm_xcomposer2.InternLMXComposer2Tokenizer", None]},
    "bos_token": "<s>",
    "clean_up_tokenization_spaces": False,
    "eos_token": "</s>",
    "pad_token": "</s>",
    "tokenizer_class": "InternLMXComposer2Tokenizer",
    "unk_token": "<unk>",
}


def export(network: XComposer2, tokenizer_model: Path, folder: Path, dtype: str = "bfloat16") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    kind = getattr(torch, dtype)
    tensors = {name: tensor.detach().to(kind).contiguous() for name, tensor in network.state_dict().items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    for name, content in (
        ("config.json", config_json(network.config, dtype)),
        ("generation_config.json", GENERATION),
        ("tokenizer_config.json", TOKENIZER),
    ):
        text = json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False)
        (folder / name).write_text(text + "\n")
    if tokenizer_model.resolve() != (folder / "tokenizer.model").resolve():
        shutil.copyfile(tokenizer_model, folder / "tokenizer.model")


def restore(path: Path) -> XComposer2:
    """A network from one of the trainer's own checkpoints."""
    tensors = torch.load(path, map_location="cpu")["network"]
    network = XComposer2(Config(vocab_size=tensors["output.weight"].shape[0]))
    network.load_state_dict(tensors)
    return network.eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("trained", type=Path, help="a .pt file of the trainer")
    parser.add_argument("tokenizer", type=Path)
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    export(restore(arguments.trained), arguments.tokenizer, arguments.folder)


if __name__ == "__main__":
    main()
