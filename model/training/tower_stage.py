"""Stage 1 of seeing: the tower alone, taught by direct answers (its stand-in for CLIP's pretraining).

Heads that are thrown away afterwards read, from the patch under a thing's centre, its shape, colour and
size, and from the patch under a word's centre its up to four characters; every patch also says whether
it holds a centre or a character. That puts into single picture rows what the language model must find there.
"""

from __future__ import annotations

import os
import random
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from model import ClipTower, VisionConfig, normalise
from optimizer import Optimizers, clip
from trainer import TOGETHER, Way, agreed, average_weights
from world.scene import COLOURS, DIGITS, LETTERS, SHAPES, SIZES

CHARACTERS = DIGITS + LETTERS
SLOTS = 4
NOTHING, THING, WORD = range(3)
# Columns of the target table of one patch; -100 where a head is not asked.
COLUMNS = ("kind", "shape", "colour", "size", "character") + tuple(f"slot{k}" for k in range(SLOTS))
CLASSES = {"kind": 3, "shape": len(SHAPES), "colour": len(COLOURS), "size": len(SIZES), "character": len(CHARACTERS) + 1}
CLASSES |= {f"slot{k}": len(CHARACTERS) + 1 for k in range(SLOTS)}
WEIGHTS = {"shape": 2.0, "character": 2.0}


def targets(things, words, centres, config: VisionConfig) -> Tensor:
    """[rows, columns] of class numbers."""
    table = torch.full((config.rows, len(COLUMNS)), -100)
    table[:, 0] = NOTHING
    table[:, 4] = 0
    for thing in things:
        row = table[config.patch_of(thing.x, thing.y)]
        row[0] = THING
        row[1], row[2] = SHAPES.index(thing.shape), COLOURS.index(thing.colour)
        row[3] = SIZES.index(thing.size)
    for word, places in zip(words, centres):
        for character, (x, y) in zip(word.text, places):
            table[config.patch_of(x, y), 4] = CHARACTERS.index(character) + 1
        middle = [sum(axis) / len(places) for axis in zip(*places)]
        row = table[config.patch_of(*middle)]
        row[0] = WORD
        for k in range(SLOTS):
            row[5 + k] = CHARACTERS.index(word.text[k]) + 1 if k < len(word.text) else 0
    return table


def balanced(given: Tensor, wanted: Tensor, rare: bool) -> Tensor:
    """Cross entropy; with `rare`, patches that hold something count as much in sum as half of all others."""
    each = F.cross_entropy(given, wanted, reduction="none")
    if not rare:
        return each.mean()
    something = wanted != 0
    return each[something].sum() / something.sum().clamp(min=1) + 2 * each[~something].mean()


class TowerTeacher(nn.Module):
    def __init__(self, tower: ClipTower, config: VisionConfig):
        super().__init__()
        self.tower = tower
        self.norm = nn.LayerNorm(config.hidden_size)
        self.heads = nn.Linear(config.hidden_size, sum(CLASSES.values()))

    def forward(self, pixels: Tensor, table: Tensor) -> tuple[Tensor, dict[str, float]]:
        """The weighted loss, and each head's share of right answers."""
        features = self.norm(self.tower(normalise(pixels)))
        answers = self.heads(features).float().split(list(CLASSES.values()), -1)
        loss, right = 0.0, {}
        for index, name in enumerate(COLUMNS):
            wanted, given = table[..., index].reshape(-1), answers[index].flatten(0, 1)
            asked = wanted != -100
            wanted, given = wanted[asked], given[asked]
            if len(wanted) == 0:
                continue
            loss = loss + WEIGHTS.get(name, 1.0) * balanced(given, wanted, name in ("kind", "character"))
            hit = (given.argmax(-1) == wanted).float()
            if name in ("kind", "character"):
                hit = hit[wanted != 0]
            right[name] = hit.mean().item() if len(hit) else 1.0
        return loss, right


def lesson_batch(crowds, rng: random.Random, count: int, config: VisionConfig) -> tuple[Tensor, Tensor]:
    tables, pictures = [], []
    for _ in range(count):
        (things, words, centres), pixels = crowds.sample(rng)
        tables.append(targets(things, words, centres, config))
        pictures.append(pixels)
    return torch.from_numpy(np.stack(pictures)), torch.stack(tables)


def run(network, crowds, way: Way, rng: random.Random, path: Path, size: int = 48, lr: float = 2e-3) -> None:
    """Trains `network.tower` as far as `way` goes and writes it to `path`; goes on from there if it exists.

    Several processes may do so together, as in `trainer`.
    """
    config = network.config.vision
    teacher = TowerTeacher(network.tower, config)
    if path.exists():
        teacher.load_state_dict(torch.load(path)["teacher"])
    optimizers = Optimizers([(list(teacher.named_parameters()), 1.0)], lr)
    trained = list(teacher.parameters())
    leader = not dist.is_initialized() or dist.get_rank() == 0
    step = 0
    smooth: dict[str, float] = {}
    while True:
        way.wait_while_paused()
        share = way.share
        if step % TOGETHER == 0:
            average_weights(trained)
            if agreed(share) >= 1:
                break
        share = min(share, 1.0)
        with torch.autocast("cpu", torch.bfloat16):
            loss, right = teacher(*lesson_batch(crowds, rng, size, config))
        loss.backward()
        clip(trained)
        optimizers.step(min(1.0, (step + 1) / 100) * max(0.02, 1 - share))
        step += 1
        way.step()
        for name, value in {"loss": loss.item(), **right}.items():
            smooth[name] = 0.97 * smooth.get(name, value) + 0.03 * value
        if leader and step % 25 == 0:
            print(f"tower {step} {way.spent:.0f}s {share:.0%}", *(f"{k} {v:.3f}" for k, v in smooth.items()), flush=True)
        if leader and step % 100 == 0:
            _save(network, teacher, path)
    if leader:
        _save(network, teacher, path)


def _save(network, teacher: TowerTeacher, path: Path) -> None:
    partial = path.with_suffix(".part")
    torch.save({"tower": network.tower.state_dict(), "teacher": teacher.state_dict()}, partial)
    os.replace(partial, path)
