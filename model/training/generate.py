"""Greedy answers for many prompts at once, with kept keys and values. Used by the evaluation."""

from __future__ import annotations

import numpy as np
import torch

from batches import encode, frame_ids
from model import XComposer2
from tokenizer_stage import Tokenizer
from world.samples import Answer, Sample, Said, Seen

MOST_TOKENS = 260


@torch.no_grad()
def answer_batch(network: XComposer2, tokenizer: Tokenizer, prompts: list[Sample], frame: str) -> list[str]:
    """The greedy answer to each prompt (a sample that ends in a `Said`)."""
    encoded = [encode(p, tokenizer, network.config.vision) for p in prompts]
    lengths = torch.tensor([len(e[0]) for e in encoded])
    count, longest = len(prompts), int(lengths.max())
    ids = torch.full((count, longest), Tokenizer.EOS)
    for row, (own, *_) in enumerate(encoded):
        ids[row, : len(own)] = torch.tensor(own)
    shown = [p for _, _, pictures, _ in encoded for p in pictures]
    pictures = None
    if shown:
        pictures = torch.cat([network.see(torch.from_numpy(np.stack(shown[k : k + 64]))) for k in range(0, len(shown), 64)])
    start_ids = torch.tensor([frame_ids(tokenizer, frame)])
    _, past = network.hidden(start_ids)
    start = start_ids.shape[1]
    mask = torch.ones(longest, start + longest, dtype=torch.bool).tril(start)
    hidden, own = network.hidden(ids, pictures, torch.arange(start, start + longest), mask, past)
    cache = [tuple(torch.cat((p.expand(count, -1, -1, -1), n), 2) for p, n in zip(a, b)) for a, b in zip(past, own)]
    usable = torch.arange(start + longest)[None] < start + lengths[:, None]
    hidden = hidden[torch.arange(count), lengths - 1]
    made: list[list[int]] = [[] for _ in prompts]
    going = torch.ones(count, dtype=torch.bool)
    for step in range(MOST_TOKENS):
        following = network.output(hidden).float().argmax(-1)
        going &= (following != Tokenizer.EOS) & (following != tokenizer.end)
        if not going.any():
            break
        for row in going.nonzero().squeeze(1).tolist():
            made[row].append(int(following[row]))
        usable = torch.cat((usable, torch.ones(count, 1, dtype=torch.bool)), 1)
        positions = (start + lengths + step)[:, None]
        hidden, own = network.hidden(following[:, None], None, positions, usable[:, None], cache)
        cache = [tuple(torch.cat(pair, 2) for pair in zip(kept, new)) for kept, new in zip(cache, own)]
        hidden = hidden[:, 0]
    return [tokenizer.decode(m) for m in made]


def converse(network, tokenizer, samples: list[Sample], frame: str, size: int = 48) -> list[list[tuple[str, str]]]:
    """For each sample its turns as (wanted, given); later turns stand on the model's own earlier answers."""
    given: list[list[str]] = [[] for _ in samples]
    wanted = [[p.text.replace("|", "") for p in s if isinstance(p, Answer)] for s in samples]
    for number in range(max(len(w) for w in wanted)):
        open_rows = [k for k, w in enumerate(wanted) if len(w) > number]
        prompts = {k: _prompt(samples[k], given[k]) for k in open_rows}
        order = sorted(open_rows, key=lambda k: sum(1000 if isinstance(p, Seen) else len(p.text) for p in prompts[k]))
        for first in range(0, len(order), size):
            batch = order[first : first + size]
            for k, text in zip(batch, answer_batch(network, tokenizer, [prompts[k] for k in batch], frame)):
                given[k].append(text)
    return [list(zip(w, g)) for w, g in zip(wanted, given)]


def _prompt(sample: Sample, given: list[str]) -> Sample:
    """The sample up to its next answer, earlier answers being the model's."""
    prompt, used = [], 0
    for part in sample:
        if not isinstance(part, Answer):
            prompt.append(part)
        elif used == len(given):
            return prompt
        else:
            prompt.append(Said(f"{given[used]}[UNUSED_TOKEN_145]\n"))
            used += 1
    return prompt
