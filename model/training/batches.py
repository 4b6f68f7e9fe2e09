"""From samples to tensors: a shared frame, token ids with holes for picture rows, and labels."""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from model import PICTURE_ID, VisionConfig
from tokenizer_stage import Tokenizer
from world.samples import END, SYSTEM_CHAT, SYSTEM_COMPOSER, Answer, Sample, Seen, strip, system_block

IGNORED = -100
SEARCHING = 5  # tokens at an answer's beginning that look for what it is about
FRAMES = {"chat": system_block(SYSTEM_CHAT), "composer": system_block(SYSTEM_COMPOSER), "none": ""}


@dataclass
class Search:
    """Positions of one row that say an answer, and those of the picture rows they must find."""

    row: int
    at: list[int]
    among: list[int]
    kind: int  # 0: a question's, 1: a choice's


@dataclass
class Batch:
    frame: Tensor  # [1, S]: BOS and the system block, the same for every row
    ids: Tensor  # [B, T], right-padded with 2
    labels: Tensor  # [B, T]: the next token where it is learnt
    pixels: Tensor | None  # uint8 [n, side, side, 3] in the order of the holes
    skills: list[str]
    searches: list[Search] = field(default_factory=list)  # positions count from the frame's end


def encode(sample: Sample, tokenizer: Tokenizer, vision: VisionConfig, bos_again: bool = False):
    """(ids, learnt flags, pictures, searches) of one sample without its frame. Ends with `[145]\\n</s>`."""
    ids: list[int] = []
    starts: list[int] = []
    searches: list[Search] = []
    learnt: list[bool] = []
    pictures: list[np.ndarray] = []
    parts = strip(sample)
    for index, part in enumerate(parts):
        if isinstance(part, Seen):
            pictures.append(part.pixels)
            starts.append(len(ids))
            ids += [PICTURE_ID] * vision.rows
            learnt += [False] * vision.rows
            continue
        answer = isinstance(part, Answer)
        new = tokenizer.encode(part.text)
        if answer:
            new = new + [tokenizer.end]
        elif bos_again and index and isinstance(parts[index - 1], Seen):
            new = [tokenizer.BOS] + new
        if answer and part.looks:
            chooses = part.text.startswith(": ")  # whose letter follows the colon
            at = [len(ids)] if chooses else [len(ids) - 1 + k for k in range(min(len(new), SEARCHING))]
            among = [starts[number] + vision.patch_of(x, y) for number, x, y in part.looks]
            searches.append(Search(0, at, among, int(chooses)))
        ids += new
        learnt += [answer] * len(new)
        if answer:
            tail = tokenizer.encode("\n") + ([tokenizer.EOS] if index == len(parts) - 1 else [])
            ids += tail
            learnt += [index == len(parts) - 1] * len(tail)
    return ids, learnt, pictures, searches


def frame_ids(tokenizer: Tokenizer, frame: str) -> list[int]:
    return [tokenizer.BOS] + tokenizer.encode(FRAMES[frame])


def collate(encoded: list, frame: list[int], skills: list[str]) -> Batch:
    longest = max(len(ids) for ids, *_ in encoded)
    ids = torch.full((len(encoded), longest), Tokenizer.EOS)
    labels = torch.full((len(encoded), longest), IGNORED)
    pictures, searches = [], []
    for row, (own, learnt, shown, found) in enumerate(encoded):
        ids[row, : len(own)] = torch.tensor(own)
        targets = torch.tensor(own[1:])
        targets[~torch.tensor(learnt[1:])] = IGNORED
        labels[row, : len(own) - 1] = targets
        pictures += shown
        searches += [replace(search, row=row) for search in found]
    pixels = torch.from_numpy(np.stack(pictures)) if pictures else None
    return Batch(torch.tensor([frame]), ids, labels, pixels, skills, searches)


def stream(draw, tokenizer: Tokenizer, vision: VisionConfig, rng: random.Random, budget: int, frames):
    """Endless batches of about `budget` positions; rows of a batch are of like length.

    `draw` gives (skill, sample); `frames` gives the shares of the system blocks.
    """
    while True:
        bos_again = rng.random() < 0.1
        group = []
        while sum(len(e[0]) for _, e in group) < 4 * budget:
            skill, sample = draw()
            group.append((skill, encode(sample, tokenizer, vision, bos_again)))
        group.sort(key=lambda pair: len(pair[1][0]))
        batches, current = [], []
        for pair in group:
            if current and len(pair[1][0]) * (len(current) + 1) > budget * 1.15:
                batches.append(current)
                current = []
            current.append(pair)
        rng.shuffle(batches)
        for pairs in batches:
            shares = frames()
            frame = rng.choices(list(shares), weights=list(shares.values()))[0]
            yield collate([e for _, e in pairs], frame_ids(tokenizer, frame), [s for s, _ in pairs])
