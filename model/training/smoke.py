"""The smoke test: a few steps of every stage, an export, and a look at what came out. Under a minute.

Checks that the exported folder has the public inventory, that it loads, that an answer can be generated, and
that the kept keys and values give what one plain pass gives. `python smoke.py [FOLDER]` keeps the folder, whose
`checkpoint/` and `cases.json` / `expected.safetensors` another implementation can be compared with.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from PIL import Image

HERE = Path(__file__).parent


def run(*command: object) -> None:
    subprocess.run([sys.executable, *map(str, command)], cwd=HERE, check=True)


def write_cases(folder: Path) -> None:
    """One prompt of text and one with a picture, as ids, for `compare.py`."""
    from tokenizer_stage import Tokenizer
    from world.draw import draw_picture
    from world.samples import BEGIN, END
    from world.scene import draw_scene
    import random

    tokenizer = Tokenizer(folder / "checkpoint" / "tokenizer.model")
    draw_picture(draw_scene(random.Random(5))).save(folder / "scene.png")
    start = [1, *tokenizer.encode(f"{BEGIN}user\n")]
    tail = tokenizer.encode(f"Describe the picture.{END}\n{BEGIN}assistant\n")
    cases = [
        {"name": "text", "ids": start + tail, "pictures": []},
        {"name": "picture", "ids": start + [-1] * 64 + tail, "pictures": ["scene.png"]},
    ]
    (folder / "cases.json").write_text(json.dumps(cases))


def check(folder: Path) -> None:
    from safetensors.torch import load_file

    from generate import answer_batch
    from model import load
    from tokenizer_stage import MARKERS, Tokenizer
    from world.draw import model_pixels
    from world.samples import Said, Seen, ask

    names = set(load_file(folder / "checkpoint" / "model.safetensors"))
    config = json.loads((folder / "checkpoint" / "config.json").read_text())
    wanted = 17 * config["num_hidden_layers"] + 16 * config["vision_config"]["num_hidden_layers"] + 3 + 5 + 4
    assert len(names) == wanted, f"wanted {wanted} tensors, found {len(names)}"
    network, tokenizer = load(folder / "checkpoint"), Tokenizer(folder / "checkpoint" / "tokenizer.model")
    assert tokenizer.end == tokenizer.size - 2 and tokenizer.size == config["vocab_size"] and MARKERS == 147
    expected = load_file(folder / "expected.safetensors")
    assert all(torch.isfinite(t).all() for t in expected.values() if t.is_floating_point())
    pixels = model_pixels(Image.open(folder / "scene.png").convert("RGB"))
    prompt = ask(Seen(pixels), Said("Describe the picture."))
    given = answer_batch(network, tokenizer, [prompt, ask(Said("x" * 40))], "none")[0]
    plain = expected["picture.greedy"].tolist()
    plain = plain[: next((k for k, t in enumerate(plain) if t in (2, tokenizer.end)), len(plain))]
    assert given.startswith(tokenizer.decode(plain)[:20]), f"kept keys and values gave {given!r}, one pass {tokenizer.decode(plain)!r}"


def main() -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(sys.argv[1] if len(sys.argv) > 1 else temporary)
        run("train.py", "--smoke", "--work", folder)
        write_cases(folder)
        run("compare.py", folder / "checkpoint", folder / "cases.json", folder / "expected.safetensors")
        check(folder)
    print("smoke: 1 passed, 0 failed")


if __name__ == "__main__":
    main()
