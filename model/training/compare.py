"""The second implementation, on call: runs given ids and pictures and writes what the network computes.

`python compare.py CHECKPOINT CASES.json OUT.safetensors`. CASES is a list of objects with `name`, `ids` (with -1
for each picture row, 64 in a row at 112 pixels; BOS is not added) and `pictures` (paths; squashed to the
square as serving does). Per case OUT holds `NAME.logits` [T, vocab] and, with pictures, `NAME.pixels` (the
tower's input), `NAME.vit` [n, rows, width] and `NAME.proj` [n, rows, hidden]; `NAME.greedy` has the first
32 greedy tokens. Everything is computed in float32.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file

from model import XComposer2, load, normalise
from world.draw import model_pixels

GREEDY = 32


@torch.no_grad()
def run_case(network: XComposer2, ids: list[int], pictures: list[np.ndarray]) -> dict[str, torch.Tensor]:
    out = {}
    projected = None
    if pictures:
        pixels = torch.from_numpy(np.stack(pictures))
        out["pixels"] = normalise(pixels)
        out["vit"] = network.tower(out["pixels"]).contiguous()
        out["proj"] = projected = network.vision_proj(out["vit"])
    row = torch.tensor([ids])
    hidden, _ = network.hidden(row, projected)
    out["logits"] = network.output(hidden)[0]
    tokens: list[int] = []
    while len(tokens) < GREEDY:
        hidden, _ = network.hidden(torch.tensor([ids + tokens]), projected)
        tokens.append(int(network.output(hidden[:, -1]).argmax()))
        if tokens[-1] == 2:
            break
    out["greedy"] = torch.tensor(tokens)
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("cases", type=Path)
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    network = load(arguments.checkpoint)
    tensors = {}
    for case in json.loads(arguments.cases.read_text()):
        pictures = [
            model_pixels(Image.open(arguments.cases.parent / p).convert("RGB"), network.config.vision.image_size)
            for p in case.get("pictures", [])
        ]
        for key, tensor in run_case(network, case["ids"], pictures).items():
            tensors[f"{case['name']}.{key}"] = tensor.contiguous()
    save_file(tensors, arguments.out)


if __name__ == "__main__":
    main()
