"""Where an answer has to look: the centres of the things that a question or a paragraph names."""

from __future__ import annotations

import re

from .language import LANGUAGES, plain
from .scene import COLOURS, SHAPES, Scene

Look = tuple[int, float, float]  # the picture's number within the sample, and a point in pixels


def _said(words: str, text: str) -> bool:
    words = plain(words)
    if words[0].isascii():
        return re.search(rf"\b{words}(?:s|es)?\b", text) is not None
    return words in text


def _test_of(text: str):
    """What a thing must be to be named by the text: of a kind, or of a shape or a colour where only that is said."""
    for language in LANGUAGES.values():
        colours = [c for c in COLOURS if _said(language.texts["colours"][c], text)]
        shapes = [s for s in SHAPES if _said(language.texts["shapes"][s], text)]
        if colours and shapes:
            return lambda t: _said(language.kind(*t.kind), text)
        if shapes:
            return lambda t: t.shape in shapes
        if colours:
            return lambda t: t.colour in colours
    return lambda t: False


def named(scenes: list[tuple[int, Scene]], text: str) -> tuple[Look, ...]:
    """The named things of scenes that are (number of the picture, scene)."""
    test = _test_of(plain(text))
    return tuple((number, t.x, t.y) for number, scene in scenes for t in scene.things if test(t))


def of_kind(number: int, scene: Scene, kind: tuple[str, str]) -> tuple[Look, ...]:
    return tuple((number, t.x, t.y) for t in scene.things if t.kind == kind)
