"""Attention taught where to look.

To find the one thing that is red and a circle is what most skills wait for, and the answer alone teaches it slowly: one token
says whether a few among hundreds of picture rows were found. The drawn scene tells which rows those are, so one attention
head of a layer is taught directly, the one that does it best already.
"""

from __future__ import annotations

import torch
from torch import Tensor

from batches import Search

LAYERS = (3, 4)  # the last ones: before them, the positions that search gather what they search for
CHOOSING = 8.0  # how decidedly the best head is the one that is taught


def found(queries: list[Tensor], keys: list[Tensor], searches: list[Search], start: int) -> tuple[Tensor, Tensor]:
    """log of the attention that each searching position gives to the rows it must find [N, layers, heads]; each one's kind [N].

    Queries [B, H, T, d] and keys [B, kv, start + T, d] of the searching layers, rotated; `start`: the frame's length.
    """
    flat = [(s, at) for s in searches for at in s.at]
    rows = torch.tensor([s.row for s, _ in flat])
    ats = torch.tensor([at for _, at in flat])
    length = keys[0].shape[2]
    wanted = torch.zeros(len(flat), length, dtype=torch.bool)
    for index, (search, _) in enumerate(flat):
        wanted[index, [start + key for key in search.among]] = True
    later = torch.arange(length)[None] > (start + ats)[:, None]
    logs = []
    for q, k in zip(queries, keys):
        heads, kv, width = q.shape[1], k.shape[1], q.shape[3]
        asked = q[rows, :, ats].float().view(len(flat), kv, heads // kv, width)
        parts = []
        for row in rows.unique():  # keys of a row are not copied for each position
            own = (rows == row).nonzero().squeeze(1)
            parts.append((own, torch.einsum("nkgd,kld->nkgl", asked[own], k[row].float()).flatten(1, 2)))
        order = torch.cat([own for own, _ in parts])
        scores = torch.cat([score for _, score in parts])[order.argsort()] * width**-0.5
        scores = scores.masked_fill(later[:, None], -1e9)
        logs.append(scores.masked_fill(~wanted[:, None], -1e9).logsumexp(-1) - scores.logsumexp(-1))
    return torch.stack(logs, 1), torch.tensor([s.kind for s, _ in flat])


def loss_of(logs: Tensor, kinds: Tensor) -> tuple[Tensor, dict[int, float]]:
    """The mean over kinds and layers of how far the best head is from finding, and how much the last layer's finds."""
    losses, shares = [], {}
    for kind in kinds.unique().tolist():
        mine = logs[kinds == kind]
        mean = mine.clamp(min=-12).mean(0)
        teach = (mean.detach() * CHOOSING).softmax(-1)
        losses.append(-(teach * mean).sum(-1).mean())
        shares[kind] = mine[:, -1, int(mean[-1].argmax())].exp().mean().item()
    return torch.stack(losses).mean(), shares
