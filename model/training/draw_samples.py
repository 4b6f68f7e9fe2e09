"""Draws the handful of sample pictures that ship with the checkpoint, each with its true description.

`python draw_samples.py FOLDER [--checkpoint C]`: pictures of 336 x 336 and `descriptions.json`; with a checkpoint,
seeds are skipped until it describes the picture rightly, so that a newcomer's first picture is an honest success.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import random
from pathlib import Path

from world.draw import draw_picture, model_pixels
from world.language import LANGUAGES, plain
from world.questions import describe
from world.samples import Said, Seen, ask
from world.scene import draw_scene

COUNT, SIDE = 6, 336


def draw(seed: int):
    rng = random.Random(f"sample {seed}")
    scene = draw_scene(rng, word=seed % 2 == 0)
    scene = dataclasses.replace(scene, look=dataclasses.replace(scene.look, file_side=SIDE))
    return scene, draw_picture(scene)


def describer(checkpoint: Path | None):
    if checkpoint is None:
        return lambda pixels, language: None
    from generate import answer_batch
    from model import load
    from tokenizer_stage import Tokenizer

    network, tokenizer = load(checkpoint), Tokenizer(checkpoint / "tokenizer.model")

    def answer(pixels, language) -> str:
        question = plain(language.texts["describe"]["asks"][0])
        return answer_batch(network, tokenizer, [ask(Seen(pixels), Said(question))], "chat")[0]

    return answer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--checkpoint", type=Path)
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    answer, kept, seed = describer(arguments.checkpoint), {}, 0
    while len(kept) < COUNT and seed < 300:
        scene, picture = draw(seed)
        seed += 1
        true = {code: plain(describe(scene, language)) for code, language in LANGUAGES.items()}
        if len(scene.things) < 2:
            continue
        if any(answer(model_pixels(picture), LANGUAGES[c]) not in (None, true[c]) for c in true):
            continue
        name = f"scene-{len(kept) + 1}.{'jpg' if len(kept) % 3 == 2 else 'png'}"
        picture.save(arguments.folder / name, **({"quality": 90} if name.endswith("jpg") else {}))
        kept[name] = true
    (arguments.folder / "descriptions.json").write_text(json.dumps(kept, indent=2, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
