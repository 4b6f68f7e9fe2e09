"""A pool of drawn scenes on disk, so that every stage can look at a picture several times.

A chunk is fixed by the pool's seed and the chunk's number: `pixels.npy` (uint8 [n, side, side, 3]) and
`scenes.pkl` (the scenes with their characters' centres). `python pool.py FOLDER --chunks N` draws them.
"""

from __future__ import annotations

import argparse
import os
import pickle
import random
from pathlib import Path

import numpy as np

from world.draw import draw_parts, draw_picture, model_pixels
from world.scene import SIDE, draw_crowd, draw_scene

CHUNK = 2048


def draw_chunk(folder: Path, seed: int, number: int, count: int = CHUNK, crowd: bool = False) -> None:
    """`crowd`: the tower's lessons, stored as (things, words, character centres) instead of scenes."""
    rng = random.Random(f"{'crowd' if crowd else 'pool'} {seed} {number}")
    pixels = np.empty((count, SIDE, SIDE, 3), np.uint8)
    drawn = []
    for index in range(count):
        if crowd:
            things, words, look = draw_crowd(rng)
            picture, centres = draw_parts(things, words, look)
            drawn.append((things, words, centres))
        else:
            scene = draw_scene(rng)
            picture = draw_picture(scene)
            drawn.append(scene)
        pixels[index] = model_pixels(picture)
    with open(folder / f"{number:05}.pkl", "wb") as file:
        pickle.dump(drawn, file)
    partial = folder / f"{number:05}.part.npy"
    np.save(partial, pixels)
    os.replace(partial, folder / f"{number:05}.npy")  # the chunk exists once this name does


class Pool:
    """The chunks drawn so far; `refresh` picks up those that were finished meanwhile."""

    def __init__(self, folder: str | Path, tower=None):
        """`tower`: give what it makes of a picture (`write_features`) in place of the pixels."""
        self.folder, self.tail = Path(folder), ".features.npy" if tower else ".npy"
        self.look = (lambda pixels: features_of(tower, pixels[None])[0]) if tower else (lambda pixels: pixels)
        self.pixels: dict[int, np.ndarray] = {}
        self.scenes: dict[int, list] = {}
        self.refresh()

    def refresh(self) -> None:
        for path in sorted(self.folder.glob("[0-9]*.npy")):
            if not path.stem.isdigit() or int(path.stem) in self.pixels:
                continue
            number = int(path.stem)
            with open(path.with_suffix(".pkl"), "rb") as file:
                self.scenes[number] = pickle.load(file)
            self.pixels[number] = np.load(path.with_suffix(self.tail), mmap_mode="r")

    def __len__(self) -> int:
        return sum(len(s) for s in self.scenes.values())

    def sample(self, rng: random.Random) -> tuple[object, np.ndarray]:
        """(scene, pixels), or (things, words, centres) in place of the scene for a crowd."""
        number = rng.choice(list(self.pixels))
        index = rng.randrange(len(self.scenes[number]))
        return self.scenes[number][index], self.pixels[number][index]


def features_of(tower, pixels: np.ndarray) -> np.ndarray:
    """The tower's rows [count, rows, width] in float16."""
    import torch

    from model import normalise

    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        parts = [tower(normalise(torch.from_numpy(pixels[k : k + 64].copy()))) for k in range(0, len(pixels), 64)]
    return torch.cat(parts).half().numpy()


def write_features(folder: Path, tower, rank: int = 0, world: int = 1) -> None:
    """What the tower gives for the pictures of every chunk; chunks are shared out among processes."""
    for path in sorted(p for p in folder.glob("[0-9]*.npy") if p.stem.isdigit())[rank::world]:
        partial = path.with_suffix(".part.npy")
        np.save(partial, features_of(tower, np.load(path, mmap_mode="r")))
        os.replace(partial, path.with_suffix(".features.npy"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--chunks", type=int, default=40)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--count", type=int, default=CHUNK, help="pictures in a chunk")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--crowd", action="store_true")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    for number in range(arguments.first, arguments.first + arguments.chunks):
        draw_chunk(arguments.folder, arguments.seed, number, arguments.count, arguments.crowd)


if __name__ == "__main__":
    main()
