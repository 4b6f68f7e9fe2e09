"""Greedy accuracy per skill on fresh scenes. `python evaluate.py CHECKPOINT --seed S --count N` prints JSON.

An answer counts when it is right word for word, which is stricter than the skill asks for; for `compose`
and `edit` it counts when it follows the request (paragraphs, things, language). `--without-plora` and
`--swap-pictures` show that the pictures are used: accuracy must then fall to chance.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import tempfile
import time
from pathlib import Path

import torch

from generate import converse
from model import XComposer2, load
from pool import Pool, draw_chunk
from tokenizer_stage import Tokenizer
from world import questions, samples
from world.language import any_language
from world.scene import WORDS

SKILLS = ("describe", "question", "read", "two_pictures", "turns", "compose", "places", "caption", "choose_picture", "edit")
FRAME = {"describe": "chat", "question": "chat", "read": "chat", "two_pictures": "chat", "turns": "chat"}


def draw(skill: str, pictures: samples.Pictures, rng: random.Random) -> tuple[str, list]:
    """(label within the skill, sample)."""
    if skill in ("describe", "question", "read"):
        while True:
            scene, pixels = pictures.any()
            if skill != "read" or scene.word:
                break
        language = any_language(rng)
        if skill == "describe":
            label, (question, answer) = language.code, questions.describe_turn(scene, language, rng)
        elif skill == "read":
            text = scene.word.text
            label = "word" if text in WORDS else "number" if text.isdigit() else "letters"
            question, answer = questions.ask_read(scene, language, rng)
        else:
            label, question, answer = questions.any_question(scene, language, rng, [k for k in questions.QUESTIONS if k != "read"])
        return label, [*samples.ask(samples.Seen(pixels), samples.Said(question)), samples.Answer(answer)]
    if skill == "two_pictures":
        count = rng.choice((2, 3))
        return str(count), samples.several(pictures, rng, count, turns=1)
    if skill == "turns":
        return "", samples.chat(pictures, rng, 4)
    if skill == "compose":
        style = rng.choice(("title", "detailed", "outline", "plain", "pictures"))
        return style, samples.compose_pictures(pictures, rng) if style == "pictures" else samples.compose(rng, style)
    if skill == "choose_picture":
        count = rng.choice((2, 3, 4))
        return str(count), samples.choice(pictures, rng, count)
    if skill == "edit":
        operation = rng.choice(samples.articles.EDITS)
        return operation, samples.edit(rng, operation)
    return "", {"places": samples.places, "caption": samples.captions}[skill](rng)


_THINGS_EN = re.compile(r"an? (?:(?:small|medium|large) )?(?:red|orange|yellow|green|blue|purple|black|white) \w+")
_THINGS_ZH = re.compile(r"一个(?:小的|中等的|大的)?(?:红|橙|黄|绿|蓝|紫|黑|白)色(?:圆形|正方形|三角形|星形|十字形|圆环)")


def things(text: str) -> list[str]:
    return _THINGS_EN.findall(text) + _THINGS_ZH.findall(text)


def follows(wanted: str, given: str) -> bool:
    """The same number of paragraphs, each with the things (and so the language) that it should have."""
    wanted, given = wanted.split("\n"), given.strip().split("\n")
    chinese = lambda lines: any("\u4e00" <= c <= "\u9fff" for line in lines for c in line)
    return len(wanted) == len(given) and chinese(wanted) == chinese(given) and all(things(w) == things(g) for w, g in zip(wanted, given))


def judge(skill: str, wanted: str, given: str) -> bool:
    return follows(wanted, given) if skill in ("compose", "edit") else wanted.strip() == given.strip()


def evaluate(network: XComposer2, tokenizer: Tokenizer, seed: int, count: int, skills=SKILLS, swap: bool = False, show: int = 0) -> dict:
    with tempfile.TemporaryDirectory() as folder:
        draw_chunk(Path(folder), seed=-1 - seed, number=0, count=min(2048, max(400, count * 2)))
        pool = Pool(folder)
        figures = {}
        for skill in skills:
            rng = random.Random(f"evaluation {seed} {skill}")
            pictures = samples.Pictures(pool, rng)
            drawn = [draw(skill, pictures, rng) for _ in range(count)]
            if swap:
                drawn = [(label, [samples.Seen(pictures.any()[1]) if isinstance(p, samples.Seen) else p for p in s]) for label, s in drawn]
            began = time.time()
            results = converse(network, tokenizer, [s for _, s in drawn], FRAME.get(skill, "none"))
            by_label: dict[str, list[bool]] = {}
            shown = 0
            for (label, _), turns in zip(drawn, results):
                for wanted, given in turns:
                    right = judge(skill, wanted, given)
                    by_label.setdefault(label, []).append(right)
                    if not right and shown < show:
                        shown += 1
                        print(f"  {skill} {label}: wanted {wanted!r} given {given!r}", flush=True)
            every = [r for rights in by_label.values() for r in rights]
            figures[skill] = {"accuracy": round(sum(every) / len(every), 4), "count": len(every)}
            figures[skill]["by"] = {k: [round(sum(v) / len(v), 3), len(v)] for k, v in sorted(by_label.items())}
            figures[skill]["seconds"] = round(time.time() - began, 1)
            print(skill, json.dumps(figures[skill], ensure_ascii=False), flush=True)
        return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--skills", nargs="*", default=SKILLS)
    parser.add_argument("--without-plora", action="store_true")
    parser.add_argument("--swap-pictures", action="store_true")
    parser.add_argument("--show", type=int, default=0, help="wrong answers to print for each skill")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    network = load(arguments.checkpoint)
    if arguments.without_plora:
        for name, parameter in network.named_parameters():
            if "Plora_B" in name:
                parameter.data.zero_()
    tokenizer = Tokenizer(arguments.checkpoint / "tokenizer.model")
    figures = evaluate(network, tokenizer, arguments.seed, arguments.count, arguments.skills, arguments.swap_pictures, arguments.show)
    print(json.dumps({"seed": arguments.seed, "skills": figures}, ensure_ascii=False))


if __name__ == "__main__":
    main()
