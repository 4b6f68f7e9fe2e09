"""The projector's input, evened out while it is trained.

The tower's features differ in size by direction: colour is loud, place in the picture is quiet, and a projector learns
the loud ones first. During training the features are therefore centred and whitened before the first
projector linear, whose weights are kept in those terms; `folded` gives the plain weights of the public format.
"""

from __future__ import annotations

import torch
from torch import Tensor

from model import XComposer2, normalise

FLOOR = 0.02  # of the mean variance: directions below it are noise


class Whitening:
    def __init__(self, network: XComposer2, pixels: Tensor):
        """From the features of some pictures (uint8 [n, side, side, 3])."""
        with torch.no_grad():
            rows = torch.cat([network.tower(normalise(p)) for p in pixels.split(32)]).flatten(0, 1).double()
        self.mean = rows.mean(0).float()
        spread, axes = torch.linalg.eigh(torch.cov(rows.T))
        spread = spread.clamp(min=0) + FLOOR * spread.mean()
        self.forth = (axes * spread.rsqrt()) @ axes.T
        self.back = ((axes * spread.sqrt()) @ axes.T).float()
        self.forth = self.forth.float()

    def __call__(self, features: Tensor) -> Tensor:
        return (features.float() - self.mean) @ self.forth

    def begin(self, network: XComposer2) -> None:
        """Puts the first projector linear in whitened terms; what it computes stays the same."""
        first = network.vision_proj[0]
        with torch.no_grad():
            first.bias += first.weight @ self.mean
            first.weight.copy_(first.weight @ self.back)
        network.whitening = self

    def folded(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """A state with the first projector linear in plain terms."""
        weight = tensors["vision_proj.0.weight"] @ self.forth
        bias = tensors["vision_proj.0.bias"] - weight @ self.mean
        return {**tensors, "vision_proj.0.weight": weight, "vision_proj.0.bias": bias}
