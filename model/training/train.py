"""The whole training, stage by stage: `python train.py --work FOLDER` (hours) or `--smoke` (under a minute).

Stages, each resumable and each with its checkpoint in the work folder:
  pool       draws the pictures
  tokenizer  trains tokenizer.model
  tower      teaches the tower alone (`tower_stage`)
  language   base weights on text only: told scenes, articles, places, captions, edits
  see        projector, Partial LoRA and, more gently, the base: first short samples with one picture, then
             several pictures, turns and composition; it takes over the tower's checkpoints, should `tower` still run
  features   what the finished tower gives for every picture of the pool, so that it need not run in the last stage
  all        goes on with all skills at once
  export     the public format in FOLDER/checkpoint
`tower` and `language` do not need each other and may run at the same time in two processes.
"""

from __future__ import annotations

import argparse
import os
import random
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

import batches
import pool
import tower_stage
import trainer
from export import export
from model import Config, XComposer2
from tokenizer_stage import Tokenizer
from tokenizer_stage import train as train_tokenizer
from whitening import Whitening
from world import samples

VOCABULARY = 2048
BLIND = 0.07  # of the batches with pictures: see `trainer.loss_of`
STAGES = ("pool", "tokenizer", "tower", "language", "see", "features", "all", "export")


@dataclass
class Plan:
    """How much of everything. Seconds are wall clock; with `steps` the clock is not looked at."""

    work: Path
    seed: int = 1
    processes: int = 2
    scenes: int = 64  # chunks
    crowds: int = 24
    chunk: int = pool.CHUNK
    steps: int | None = None
    positions: int = 3000  # of a batch
    compiled: bool = True  # layers compiled by torch.compile: a minute at the start, 1.7 times as fast after it
    seconds: tuple = (("tower", 3000.0), ("language", 3000.0), ("see", 2400.0), ("all", 4800.0))

    def of(self, stage: str) -> float:
        return dict(self.seconds)[stage]


def smoke_plan(work: Path) -> Plan:
    return Plan(work, processes=1, scenes=1, crowds=1, chunk=64, steps=8, positions=300, compiled=False)


# ------------------------------------------------------------------- stages


def draw_pools(plan: Plan) -> None:
    for name, count, crowd in (("scenes", plan.scenes, False), ("crowds", plan.crowds, True)):
        folder = plan.work / name
        folder.mkdir(parents=True, exist_ok=True)
        for number in range(count):
            if not (folder / f"{number:05}.npy").exists():
                pool.draw_chunk(folder, plan.seed, number, plan.chunk, crowd)


def make_tokenizer(plan: Plan) -> None:
    count = 6000 if plan.steps is None else 2500
    train_tokenizer(pool.Pool(plan.work / "scenes"), plan.work / "tokenizer.model", VOCABULARY, plan.seed, count)


def language_stage(plan: Plan) -> trainer.Stage:
    return trainer.Stage("language", plan.of("language"), 2.5e-3, {"base": 1.0}, plan.steps)


def see_stage(plan: Plan) -> trainer.Stage:
    parts = {"projector": 1.0, "plora": 1.0, "base": 0.8}
    return trainer.Stage("see", plan.of("see"), 4e-3, parts, plan.steps, warm_up=30, blind_share=BLIND)


def last_stage(plan: Plan) -> trainer.Stage:
    parts = {"projector": 1.0, "plora": 1.0, "base": 0.9}
    return trainer.Stage("all", plan.of("all"), 2.6e-3, parts, plan.steps, warm_up=40, blind_share=BLIND)


def frames_at(stage: str, share: float) -> dict[str, float]:
    """Shares of the system blocks: rare while they would only cost time, common in the end."""
    if stage == "see" and share > 0.7:
        return {"chat": 0.5, "composer": 0.1, "none": 0.4}
    if stage == "all":
        return {"chat": 0.35, "composer": 0.05, "none": 0.6}
    return {"chat": 0.08, "composer": 0.02, "none": 0.9}


def start_network(plan: Plan, stage: str) -> XComposer2:
    """The network as the stage before left it, or this one when it was stopped."""
    torch.manual_seed(plan.seed)
    network = XComposer2(Config(vocab_size=VOCABULARY))
    if stage in ("see", "features", "all"):
        order = {"see": ("see", "language"), "features": ("see",), "all": ("all", "see")}[stage]
        before = next(plan.work / f"{name}.pt" for name in order if (plan.work / f"{name}.pt").exists())
        network.load_state_dict(torch.load(before)["network"])
        network.tower.load_state_dict(torch.load(plan.work / "tower.pt")["tower"])
    return network


def train_stage(rank: int, world: int, plan: Plan, name: str) -> None:
    torch.set_num_threads(1)
    if world > 1:
        port = 29517 + STAGES.index(name)
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        dist.init_process_group("gloo", rank=rank, world_size=world)
    network = start_network(plan, name)
    if plan.compiled:
        trainer.compile_layers(network)
    if name == "tower":
        crowds, way = pool.Pool(plan.work / "crowds"), trainer.Way(plan.of(name), plan.steps, plan.work)
        tower_stage.run(network, crowds, way, random.Random(f"tower {plan.seed} {rank}"), plan.work / "tower.pt")
        return
    if name == "features":
        pool.write_features(plan.work / "scenes", network.tower, rank, world)
        return
    stage = {"language": language_stage, "see": see_stage, "all": last_stage}[name](plan)
    rng = random.Random(f"{name} {plan.seed} {rank}")
    tokenizer = Tokenizer(plan.work / "tokenizer.model")
    way = trainer.Way(stage.seconds, stage.steps, plan.work)
    if name == "language":
        draw = lambda: samples.text_sample(rng)
    else:
        scenes = pool.Pool(plan.work / "scenes")
        some = random.Random(f"whitening {plan.seed}")
        Whitening(network, torch.stack([torch.from_numpy(scenes.sample(some)[1].copy()) for _ in range(192)])).begin(network)
        if name == "all":
            scenes = pool.Pool(plan.work / "scenes", network.tower)
        pictures = samples.Pictures(scenes, rng)
        draw = lambda: samples.picture_sample(pictures, rng, way.share) if name == "see" else samples.any_sample(pictures, rng, way.share)
    frames = lambda: frames_at(name, way.share)
    stream = batches.stream(draw, tokenizer, network.config.vision, rng, plan.positions, frames)
    follow = plan.work / "tower.pt" if name == "see" else None  # the last stage has its features already
    trainer.run(network, stream, stage, way, plan.work, follow=follow)


def run_stage(plan: Plan, name: str) -> None:
    began = time.time()
    if name == "pool":
        draw_pools(plan)
    elif name == "tokenizer":
        make_tokenizer(plan)
    elif name == "export":
        network = start_network(plan, "language")
        network.load_state_dict(torch.load(plan.work / "all.pt")["network"])
        export(network, plan.work / "tokenizer.model", plan.work / "checkpoint")
    elif plan.processes == 1:
        train_stage(0, 1, plan, name)
    else:
        mp.spawn(train_stage, (plan.processes, plan, name), nprocs=plan.processes)
    print(f"{name}: {time.time() - began:.1f} s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("/tmp/inkstone-training"))
    parser.add_argument("--stages", nargs="*", choices=STAGES, default=STAGES)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--seconds", nargs="*", default=[], help="STAGE=SECONDS")
    parser.add_argument("--smoke", action="store_true", help="a few steps of every stage")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.smoke:
        plan = smoke_plan(arguments.work)
    else:
        seconds = dict(Plan(arguments.work).seconds) | {k: float(v) for k, v in (s.split("=") for s in arguments.seconds)}
        plan = Plan(arguments.work, arguments.seed, arguments.processes, seconds=tuple(seconds.items()))
    plan.work.mkdir(parents=True, exist_ok=True)
    for name in arguments.stages:
        run_stage(plan, name)


if __name__ == "__main__":
    main()
