"""One training stage of the whole network: batches in, checkpoints out, by the clock.

Stages are limited by time, because the machine is shared; `steps` limits the smoke run. Several processes
may train together (one thread each does better on a shared machine than threads that wait for each other):
every one draws its own batches, and every few steps all go on from the mean of their weights.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.distributed as dist
import torch.nn.functional as F

import searching
from batches import IGNORED, Batch
from model import XComposer2
from optimizer import Optimizers, clip

PAUSE = "pause"  # a file of this name in the work folder stops all stages until it is gone
SEARCH_WEIGHT = 0.1  # of the searching loss beside the cross entropy
TOGETHER = 8  # steps between two averagings of the processes' weights


@dataclass
class Stage:
    name: str
    seconds: float
    lr: float
    parts: dict[str, float]  # parameter name prefix -> share of the learning rate; absent: frozen
    steps: int | None = None
    warm_up: int = 100
    last_factor: float = 0.02
    frozen_share: float = 0.0  # for this first share of the stage, `late` parts stay frozen
    late: tuple[str, ...] = field(default_factory=tuple)
    blind_share: float = 0.0  # of the batches: Partial LoRA off and pictures swapped, so that nothing is seen without it


def part_of(name: str) -> str:
    """Which part a parameter belongs to: tower, projector, plora or base."""
    if name.startswith("vit."):
        return "tower"
    if name.startswith("vision_proj."):
        return "projector"
    return "plora" if ".Plora_" in name else "base"


def loss_of(network: XComposer2, batch: Batch, blind: bool = False):
    """Mean cross entropy over learnt tokens, whether each was the most likely one, and how much of what it must find it finds.

    What is found by attention is a part of the loss (`searching`).

    `blind`: without Partial LoRA, and with the pictures dealt out wrongly. The base is trained beside Partial LoRA and
    would else learn to read picture rows by itself; so it learns that without Partial LoRA they say nothing.
    """
    network.partial_lora = not blind
    pictures = network.see(batch.pixels) if batch.pixels is not None else None
    if blind and pictures is not None:
        pictures = pictures.detach().roll(1, 0)
    _, past = network.hidden(batch.frame)
    start, length = batch.frame.shape[1], batch.ids.shape[1]
    mask = torch.ones(length, start + length, dtype=torch.bool).tril(start)
    positions = torch.arange(start, start + length)
    queries: list[torch.Tensor] = []
    hidden, own = network.hidden(batch.ids, pictures, positions, mask, past, queries)
    wanted = batch.labels.reshape(-1)
    rows = (wanted != IGNORED).nonzero().squeeze(1)
    logits = network.output(hidden.reshape(-1, hidden.shape[-1]).index_select(0, rows)).float()
    wanted = wanted[rows]
    loss, found = F.cross_entropy(logits, wanted), {}
    if batch.searches and not blind:
        layers = searching.LAYERS
        keys = [torch.cat((past[n][0].expand(len(batch.ids), -1, -1, -1), own[n][0]), 2) for n in layers]
        logs, kinds = searching.found([queries[n] for n in layers], keys, batch.searches, start)
        search, found = searching.loss_of(logs, kinds)
        loss = loss + SEARCH_WEIGHT * search
    return loss, logits.argmax(-1) == wanted, found


def compile_layers(network: XComposer2) -> None:
    """The layers' small operations fused; lengths stay free, so that few shapes are compiled."""
    torch._dynamo.config.recompile_limit = 64
    for layer in network.model.layers:
        layer.forward = torch.compile(layer.forward, dynamic=True)
    for layer in network.tower.encoder["layers"]:
        layer.forward = torch.compile(layer.forward, dynamic=True)


def average_weights(parameters: list) -> None:
    """Every process goes on from the mean of all. Done every few steps: waiting for each other costs most."""
    if not dist.is_initialized():
        return
    flat = torch.cat([p.detach().reshape(-1) for p in parameters])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    for parameter, piece in zip(parameters, flat.split([p.numel() for p in parameters])):
        parameter.data.copy_(piece.view_as(parameter))


def agreed(value: float) -> float:
    """The first process's clock, so that all stop at the same step."""
    if not dist.is_initialized():
        return value
    box = torch.tensor([value], dtype=torch.float64)
    dist.broadcast(box, 0)
    return box.item()


def save(network: XComposer2, path: Path, **more) -> None:
    partial = path.with_suffix(".part")
    tensors = network.state_dict()
    if network.whitening is not None:
        tensors = network.whitening.folded(tensors)
    torch.save({"network": tensors, **more}, partial)
    os.replace(partial, path)


class TowerFollower:
    """Takes over the tower's newest checkpoint while another process still teaches it."""

    def __init__(self, network: XComposer2, path: Path):
        self.network, self.path, self.taken = network, path, path.stat().st_mtime

    def look(self) -> None:
        if self.path.stat().st_mtime > self.taken:
            self.taken = self.path.stat().st_mtime
            self.network.tower.load_state_dict(torch.load(self.path)["tower"])


class Way:
    """How far a stage has come: by the time spent in steps, or by the steps of a smoke run.

    Time in which the process was stopped or paused is not counted: no step counts for more than `LONGEST_STEP`.
    """

    LONGEST_STEP = 20.0  # seconds

    def __init__(self, seconds: float, steps: int | None, work: Path):
        self.seconds, self.steps, self.pause = seconds, steps, work / PAUSE
        self.spent, self.done, self.last = 0.0, 0, time.time()

    def wait_while_paused(self) -> None:
        while self.pause.exists():
            time.sleep(1)

    def step(self) -> None:
        now = time.time()
        self.spent += min(now - self.last, self.LONGEST_STEP)
        self.done, self.last = self.done + 1, now

    @property
    def share(self) -> float:
        return self.spent / self.seconds if self.steps is None else self.done / self.steps


def run(network: XComposer2, batches, stage: Stage, way: Way, folder: Path, every: int = 100, follow: Path | None = None) -> None:
    follower = TowerFollower(network, follow) if follow else None
    named = list(network.named_parameters())
    for name, parameter in named:
        parameter.requires_grad_(part_of(name) in stage.parts)
    groups = [([(n, p) for n, p in named if part_of(n) == part], share) for part, share in stage.parts.items()]
    optimizers = Optimizers(groups, stage.lr)
    trained = [p for _, p in named if p.requires_grad]
    leader = not dist.is_initialized() or dist.get_rank() == 0
    step = 0
    right: dict[str, float] = {}
    searched: dict[int, float] = {}
    smooth, tokens = None, 0
    while True:
        way.wait_while_paused()
        share = way.share
        if step % TOGETHER == 0:
            average_weights(trained)
            if agreed(share) >= 1:
                break
        share = min(share, 1.0)
        if follower and step % 20 == 0:
            follower.look()
        batch = next(batches)
        blind = batch.pixels is not None and torch.rand(()).item() < stage.blind_share
        with torch.autocast("cpu", torch.bfloat16):
            loss, hits, found = loss_of(network, batch, blind)
        loss.backward()
        norm = clip(trained)
        if share < stage.frozen_share:
            for name, parameter in named:
                if part_of(name) in stage.late:
                    parameter.grad = None
        factor = min(1.0, (step + 1) / stage.warm_up) * max(stage.last_factor, 1 - share)
        optimizers.step(factor)
        step += 1
        way.step()
        tokens += batch.ids.numel()
        if not blind:
            smooth = loss.item() if smooth is None else 0.98 * smooth + 0.02 * loss.item()
        for what, value in found.items():
            searched[what] = 0.98 * searched.get(what, value) + 0.02 * value
        hit, kind = hits.float().mean().item(), "blind" if blind else "token"
        right[kind] = hit if kind not in right else 0.98 * right[kind] + 0.02 * hit
        if leader and step % 25 == 0:
            print(f"{stage.name} {step} {way.spent:.0f}s {share:.0%} loss {smooth or 0:.4f} token {right.get('token', 0):.4f} blind {right.get('blind', 0):.4f} found {searched.get(0, 0):.3f} {searched.get(1, 0):.3f} norm {norm:.2f} {tokens / way.spent:.0f} pos/s", flush=True)
        if leader and step % every == 0:
            save(network, folder / f"{stage.name}.pt", step=step)
    if leader:
        save(network, folder / f"{stage.name}.pt", step=step)
        print(f"{stage.name} done after {step} steps", flush=True)
