"""What can be asked about one scene and about several, with the one right answer.

Every function returns (question, answer) with `|` marks, or None where the scene cannot carry it.
"""

from __future__ import annotations

import random

from .language import Language, capital, spell
from .scene import COLOURS, GRID, SHAPES, SIZES, Scene, Thing


def describe(scene: Scene, language: Language) -> str:
    wording = language.texts["describe"]
    cells, rows = language.texts["cells"], language.texts["rows"]
    items = [
        wording["item"].format(np=language.np(t.size, t.colour, t.shape), cell=cells[t.cell]) for t in scene.things
    ]
    count = len(items)
    listed = language.join(items) if language.code == "en" else language.join(items, last="|，")
    sentences = [wording["shape" if count == 1 else "shapes"].format(n=language.number(count), list=listed)]
    if count > 1:
        first, last = scene.things[0], scene.things[-1]
        name = "relation_row" if first.row != last.row else "relation_column"
        a, b = (language.sized(t.size, t.colour, t.shape) for t in (first, last))
        sentences.append(wording[name].format(a=a, b=b))
    if scene.word:
        sentences.append(wording["word"].format(word=spell(scene.word.text), row=rows[scene.word.row]))
    return language.space(*sentences)


def describe_turn(scene, language, rng):
    return rng.choice(language.texts["describe"]["asks"]), describe(scene, language)


def _ask(language: Language, rng: random.Random, name: str, **facts) -> str:
    return rng.choice(language.texts["ask"][name]).format(**facts)


def _count(language: Language, count: int) -> str:
    answer = language.texts["answer"]
    if count == 0:
        return answer["count_none"]
    return answer["count_one"] if count == 1 else answer["count"].format(n=language.number(count))


def unique(scene: Scene) -> list[Thing]:
    """Things whose colour and shape together name them."""
    kinds = [t.kind for t in scene.things]
    return [t for t in scene.things if kinds.count(t.kind) == 1]


def kind_of(language: Language, thing: Thing) -> str:
    return language.kind(thing.colour, thing.shape)


def ask_colour(scene, language, rng):
    answer, cells = language.texts["answer"]["colour"], language.texts["cells"]
    lone = [t for t in scene.things if scene.count(shape=t.shape) == 1]
    if lone and rng.random() < 0.6:
        thing = rng.choice(lone)
        question = _ask(language, rng, "colour_of_shape", shape=language.texts["shapes"][thing.shape])
    else:
        thing = rng.choice(scene.things)
        question = _ask(language, rng, "colour_of_cell", cell=cells[thing.cell])
    return question, answer.format(colour=language.texts["colours"][thing.colour])


def ask_shape(scene, language, rng):
    lone = [t for t in scene.things if scene.count(colour=t.colour) == 1]
    if not lone:
        return None
    thing = rng.choice(lone)
    question = _ask(language, rng, "shape_of_colour", colour=language.texts["colours"][thing.colour])
    return question, language.texts["answer"]["shape"].format(shape=language.texts["shapes"][thing.shape])


def ask_what(scene, language, rng):
    held = {t.cell: t for t in scene.things}
    empty = [c for c in range(GRID * GRID) if c not in held and (not scene.word or c // GRID != scene.word.row)]
    cell = rng.choice(empty) if empty and rng.random() < 0.15 else rng.choice(list(held))
    question = _ask(language, rng, "what_is_at", cell=language.texts["cells"][cell])
    if cell not in held:
        return question, language.texts["answer"]["nothing"]
    thing = held[cell]
    words = language.np(thing.size, thing.colour, thing.shape)
    return question, language.texts["answer"]["what"].format(np=capital(words))


def ask_where(scene, language, rng):
    if not unique(scene):
        return None
    thing = rng.choice(unique(scene))
    question = _ask(language, rng, "where", kind=kind_of(language, thing))
    return question, language.texts["answer"]["where"].format(cell=language.texts["cells"][thing.cell])


def ask_size(scene, language, rng):
    if not unique(scene):
        return None
    thing = rng.choice(unique(scene))
    question = _ask(language, rng, "size", kind=kind_of(language, thing))
    return question, language.texts["answer"]["size"].format(size=language.texts["sizes"][thing.size])


def ask_count(scene, language, rng):
    roll = rng.random()
    if roll < 0.34:
        return _ask(language, rng, "count"), _count(language, len(scene.things))
    present = rng.choice(scene.things)
    if roll < 0.67:
        colour = present.colour if rng.random() < 0.75 else rng.choice(COLOURS)
        question = _ask(language, rng, "count_colour", colour=language.texts["colours"][colour])
        return question, _count(language, scene.count(colour=colour))
    shape = present.shape if rng.random() < 0.75 else rng.choice(SHAPES)
    return _ask(language, rng, "count_shape", shapes=language.shapes(shape)), _count(language, scene.count(shape=shape))


def ask_compare(scene, language, rng):
    pairs = [(a, b) for a in unique(scene) for b in unique(scene) if SIZES.index(a.size) > SIZES.index(b.size)]
    if not pairs:
        return None
    large, small = rng.choice(pairs)
    name, right = ("larger", large) if rng.random() < 0.6 else ("smaller", small)
    a, b = (large, small) if rng.random() < 0.5 else (small, large)
    question = _ask(language, rng, name, a=kind_of(language, a), b=kind_of(language, b))
    return question, language.texts["answer"]["which"].format(kind=kind_of(language, right))


def ask_yes_no(scene, language, rng):
    answers = language.texts["answer"]
    lone = unique(scene)
    if len(lone) >= 2 and rng.random() < 0.5:
        a, b = rng.sample(lone, 2)
        name = "above" if a.row != b.row and (a.column == b.column or rng.random() < 0.5) else "left"
        if name == "left" and a.column == b.column:
            return None
        true = a.row < b.row if name == "above" else a.column < b.column
        question = _ask(language, rng, name, a=kind_of(language, a), b=kind_of(language, b))
        return question, answers["yes" if true else "no"]
    thing = rng.choice(scene.things)
    colour, shape = thing.kind
    if rng.random() < 0.5:
        if rng.random() < 0.5:
            colour = rng.choice(COLOURS)
        else:
            shape = rng.choice(SHAPES)
    true = scene.count(shape, colour) > 0
    return _ask(language, rng, "exists", kind=language.kind(colour, shape)), answers["yes" if true else "no"]


def ask_read(scene, language, rng):
    question = _ask(language, rng, "read")
    if not scene.word:
        return question, language.texts["answer"]["no_word"]
    return question, language.texts["answer"]["read"].format(word=spell(scene.word.text))


def ask_where_word(scene, language, rng):
    if not scene.word:
        return None
    return _ask(language, rng, "where_word"), language.texts["answer"]["where"].format(cell=language.texts["rows"][scene.word.row])


QUESTIONS = {
    "colour": ask_colour,
    "shape": ask_shape,
    "what": ask_what,
    "where": ask_where,
    "size": ask_size,
    "count": ask_count,
    "compare": ask_compare,
    "yes_no": ask_yes_no,
    "read": ask_read,
    "where_word": ask_where_word,
}
# Reading is asked for more often where there is something to read: see `any_question`.
_KINDS = [k for k in QUESTIONS if k != "read"]


def any_question(scene, language, rng, kinds=None) -> tuple[str, str, str]:
    """(kind, question, answer)."""
    while True:
        if kinds:
            kind = rng.choice(kinds)
        else:
            kind = "read" if rng.random() < (0.30 if scene.word else 0.03) else rng.choice(_KINDS)
        turn = QUESTIONS[kind](scene, language, rng)
        if turn:
            return (kind, *turn)


def follow_up(scene, language, rng) -> list[tuple[str, str]] | None:
    """A question about a thing, then one that calls it `it`."""
    if not unique(scene):
        return None
    thing = rng.choice(unique(scene))
    follow, answer, texts = language.texts["follow"], language.texts["answer"], language.texts
    facts = {
        "where": answer["where"].format(cell=texts["cells"][thing.cell]),
        "size": answer["size"].format(size=texts["sizes"][thing.size]),
    }
    first, second = rng.sample(list(facts), 2)
    question = _ask(language, rng, first, kind=kind_of(language, thing))
    return [(question, facts[first]), (follow[second], facts[second])]


# ------------------------------------------------------------ several pictures


def shown(scene: Scene, language: Language) -> str:
    items = [language.np(t.size, t.colour, t.shape) for t in scene.things]
    if scene.word:
        items.append(language.texts["pictures"]["with_word"].format(word=spell(scene.word.text)))
    return language.join(items)


def ask_pictures(scenes: list[Scene], language: Language, rng: random.Random) -> tuple[str, str, str]:
    """(kind, question, answer) about two or three pictures called Image1, Image2, ..."""
    wording = language.texts["pictures"]
    number = rng.randrange(len(scenes))
    name = str(number + 1)
    roll = rng.random()
    if roll < 0.30:
        return "what_is_in", rng.choice(wording["what_is_in"]).format(i=name), wording["shows"].format(i=name, list=shown(scenes[number], language))
    if roll < 0.50:
        held = [{t.kind for t in s.things} for s in scenes]
        lone = sorted(k for k in held[number] if sum(k in h for h in held) == 1)
        if lone:
            question = rng.choice(wording["which_shows"]).format(kind=language.kind(*rng.choice(lone)))
            return "which_shows", question, wording["image"].format(i=name)
    if roll < 0.65:
        counts = [len(s.things) for s in scenes]
        most = [i for i, c in enumerate(counts) if c == max(counts)]
        if len(most) == 1 or len(set(counts)) == 1:
            answer = wording["image"].format(i=most[0] + 1) if len(most) == 1 else wording["same"]
            return "more", rng.choice(wording["more"]), answer
    if roll < 0.75 and len(scenes) == 2:
        shape = rng.choice(scenes[0].things + scenes[1].things).shape
        true = all(s.count(shape=shape) for s in scenes)
        return "both", rng.choice(wording["both"]).format(shape=language.texts["shapes"][shape]), language.texts["answer"]["yes" if true else "no"]
    kind, question, answer = any_question(scenes[number], language, rng)
    return kind, wording["in_image"].format(i=name, question=question), answer
