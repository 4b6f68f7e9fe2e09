"""English and Chinese for the same facts; the wording is `texts.json`, shared with other programs.

In Chinese wording `|` stands between words, for the tokenizer's training only; `plain` removes it.
"""

from __future__ import annotations

import json
import random
from pathlib import Path

TEXTS = json.loads((Path(__file__).parent / "texts.json").read_text())


def spell(word: str) -> str:
    """A printed word, each character by itself."""
    return f"|{'|'.join(word)}|"


def plain(text: str) -> str:
    return text.replace("|", "")


class Language:
    def __init__(self, code: str):
        self.code = code
        self.texts = TEXTS[code]
        self.bar = "|" if code == "zh" else " "

    def number(self, count: int) -> str:
        return self.texts["numbers"][count]

    def kind(self, colour: str, shape: str) -> str:
        """`red circle`: how a question names a thing."""
        return f"{self.texts['colours'][colour]}{self.bar}{self.texts['shapes'][shape]}"

    def sized(self, size: str | None, colour: str, shape: str) -> str:
        kind = self.kind(colour, shape)
        return f"{self.texts['sizes'][size]}{self.bar}{kind}" if size else kind

    def np(self, size: str | None, colour: str, shape: str) -> str:
        """`a large red circle`: how a thing is brought up."""
        sized = self.sized(size, colour, shape)
        if self.code == "zh":
            return f"一|个|{sized}"
        return f"{'an' if sized[0] in 'aeiou' else 'a'} {sized}"

    def shapes(self, shape: str) -> str:
        return self.texts["shapes"][shape] + self.texts["plural"]

    def join(self, items: list[str], last: str | None = None) -> str:
        comma, conjunction = (", ", " and ") if self.code == "en" else ("|、", "|和|")
        if last:
            comma = conjunction = last
        return items[0] if len(items) == 1 else comma.join(items[:-1]) + conjunction + items[-1]

    def space(self, *sentences: str) -> str:
        return (" " if self.code == "en" else "").join(s for s in sentences if s)


LANGUAGES = {code: Language(code) for code in TEXTS}


def any_language(rng: random.Random) -> Language:
    return LANGUAGES[rng.choice(("en", "zh"))]


def capital(text: str) -> str:
    return text[:1].upper() + text[1:]
