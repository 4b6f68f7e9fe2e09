"""The composition half of the world: short templated articles, the requests for them, and the edits.

An article is a title and paragraphs. A paragraph either shows one thing (`seen`) or none (`unseen`);
the wording follows from the topic and the paragraph's number, so a request has one right answer.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from .language import Language, any_language
from .scene import COLOURS, SHAPES, SIZES, Scene, Thing

MOST_PARAGRAPHS = 6  # of an article that is worked on
MOST_ASKED = 5  # that a request asks for
Item = tuple  # (size or None, colour, shape)


@dataclass(frozen=True)
class Article:
    language: Language
    topic: int | None  # None: an article about pictures
    title: str
    paragraphs: tuple[str, ...]
    items: tuple[Item | None, ...]  # the thing each paragraph shows

    @property
    def segments(self) -> list[str]:
        return [self.title, *self.paragraphs]

    @property
    def visual(self) -> list[int]:
        """Segment numbers of the paragraphs that show a thing."""
        return [k + 1 for k, item in enumerate(self.items) if item]


def place(language: Language, topic: int, title: bool = False) -> str:
    words = language.texts["article"]["places"][topic]
    return " ".join(w if w == "the" else w[:1].upper() + w[1:] for w in words.split()) if title else words


def title_of(language: Language, topic: int, style: int) -> str:
    return language.texts["article"]["titles"][style].format(Place=place(language, topic, title=True))


def seen(language: Language, item: Item, style: int) -> str:
    wording = language.texts["article"]["seen"]
    return wording[style % len(wording)].format(np=language.np(*item))


def unseen(language: Language, style: int) -> str:
    wording = language.texts["article"]["unseen"]
    return wording[style % len(wording)]


def any_item(rng: random.Random, sized: float = 0.5) -> Item:
    return (rng.choice(SIZES) if rng.random() < sized else None, rng.choice(COLOURS), rng.choice(SHAPES))


def any_items(rng: random.Random, count: int) -> list[Item]:
    items: list[Item] = []
    while len(items) < count:
        item = any_item(rng)
        if all(item[1:] != other[1:] for other in items):
            items.append(item)
    return items


def usual_items(topic: int, count: int) -> list[Item]:
    """The things of a topic that a request does not name any for."""
    return [(None, COLOURS[(topic + 3 * k) % len(COLOURS)], SHAPES[(topic + k) % len(SHAPES)]) for k in range(count)]


def article(language: Language, topic: int | None, title: str, plan: list[Item | None]) -> Article:
    """`plan` says what each paragraph shows. The last one that shows nothing is the ending."""
    wording = language.texts["article"]
    start = topic if topic is not None else 0
    paragraphs = []
    for number, item in enumerate(plan):
        if item:
            text = seen(language, item, start + number)
        elif number == len(plan) - 1 and number > 0:
            text = wording["ending"]
        else:
            text = unseen(language, start + number)
        if number == 0:
            opening = wording["opening"].format(place=place(language, topic)) if topic is not None else wording["picture_opening"]
            text = language.space(opening, text)
        paragraphs.append(text)
    return Article(language, topic, title, tuple(paragraphs), tuple(plan))


def any_article(rng: random.Random, language: Language | None = None, mixed: bool = True) -> Article:
    """An article as input of the later steps: shown and unshown paragraphs in any order, any wording."""
    language = language or any_language(rng)
    topic = rng.randrange(10)
    count = rng.randint(2, MOST_PARAGRAPHS)
    shows = [rng.random() < 0.6 for _ in range(count)] if mixed else [True] * count
    if not any(shows):
        shows[rng.randrange(count)] = True
    items = iter(any_items(rng, sum(shows)))
    plan = [next(items) if s else None for s in shows]
    made = article(language, topic, title_of(language, topic, rng.randrange(3)), plan)
    if rng.random() < 0.5:
        return made
    texts = [seen(language, i, rng.randrange(6)) if i else unseen(language, rng.randrange(4)) for i in plan]
    return Article(language, topic, made.title, tuple(texts), tuple(plan))


# ------------------------------------------------------------------ requests


def _number(language: Language, count: int, rng: random.Random) -> str:
    return str(count) if rng.random() < 0.5 else language.number(count)


def any_request(rng: random.Random, style: str | None = None) -> tuple[str, Article]:
    """A request without pictures and the article it asks for."""
    language = any_language(rng)
    wording = language.texts["article"]
    style = style or rng.choice(("title", "detailed", "outline", "plain"))
    topic, count = rng.randrange(10), rng.randint(2, MOST_ASKED)
    title_style = 0
    answer_in = language
    facts = {"place": place(language, topic)}
    if style == "plain":
        items = usual_items(topic, count)
    else:
        items = any_items(rng, rng.randint(1, min(count, 4)))
    if style == "outline":
        items = any_items(rng, rng.randint(2, 4))
        count = len(items)
        facts["outline"] = "\n".join(f"{k + 1}. {language.np(*item)}" for k, item in enumerate(items))
    if style == "title":
        title_style = rng.randrange(3)
        facts["title"] = title_of(language, topic, title_style)
    if style == "detailed":
        answer_in = any_language(rng) if rng.random() < 0.5 else language
        said = wording["in_language"][answer_in.code]
        facts["in_language"] = said if answer_in is not language or rng.random() < 0.6 else ""
    facts |= {"n": _number(language, count, rng), "list": language.join([language.np(*i) for i in items])}
    request = rng.choice(wording["requests"][style]).format(**facts).rstrip()
    plan = list(items) + [None] * (count - len(items))
    return request, article(answer_in, topic, title_of(answer_in, topic, title_style), plan)


def item_of(thing: Thing) -> Item:
    return (thing.size, thing.colour, thing.shape)


def picture_request(scenes: list[Scene], rng: random.Random) -> tuple[str, Article]:
    """The things of all pictures in order, one a paragraph; then paragraphs that show nothing."""
    language = any_language(rng)
    wording = language.texts["article"]
    items = [item_of(t) for s in scenes for t in s.things]
    count = rng.randint(2, MOST_ASKED)
    items = items[:count]
    request = rng.choice(wording["requests"]["pictures"]).format(n=_number(language, count, rng))
    plan = items + [None] * (count - len(items))
    return request, article(language, None, wording["picture_title"], plan)


# --------------------------------------------------------------------- edits


def caption(language: Language, item: Item) -> str:
    return language.np(*item)


def any_paragraph(language: Language, rng: random.Random) -> tuple[str, Item | None, int]:
    """(text, thing, style)."""
    if rng.random() < 0.8:
        item, style = any_item(rng), rng.randrange(6)
        return seen(language, item, style), item, style
    style = rng.randrange(4)
    return unseen(language, style), None, style


EDITS = ("rewrite", "expand", "abbreviate", "insert_before", "insert_after")


def any_edit(rng: random.Random, operation: str | None = None) -> tuple[str, str, str]:
    """(operation, prompt, answer) with the official prompt strings."""
    operation = operation or rng.choice(EDITS)
    language = any_language(rng)
    wording = language.texts["article"]
    text, item, style = any_paragraph(language, rng)
    other = any_item(rng)
    material = rng.choice(language.texts["outline_asks"]).format(np=language.np(*other))
    also = wording["also"].format(np=language.np(*other))
    if operation in ("rewrite", "expand"):
        with_material = rng.random() < 0.6
        if operation == "rewrite":
            new = seen(language, item, style + 1) if item else unseen(language, style + 1)
        else:
            new = language.space(text, wording["more"][style % 3])
        answer = language.space(new, also if with_material else "")
        verb = "改写" if operation == "rewrite" else "扩写"
        return operation, f"{verb}|以下|段落|：{text}\n基于|以下|素材|：{material if with_material else ''}", answer
    if operation == "abbreviate":
        if rng.random() < 0.5:
            text = language.space(text, wording["more"][style % 3])
        elif rng.random() < 0.3:
            text = language.space(wording["opening"].format(place=place(language, rng.randrange(10))), text)
        short = wording["short_seen"].format(np=language.np(*item)) if item else wording["short_unseen"]
        return operation, f"缩写|以下|段落|：{text}", short
    neighbour = any_paragraph(language, rng)[0] if rng.random() < 0.85 else ""
    first, second = (neighbour, text) if operation == "insert_before" else (text, neighbour)
    answer = seen(language, other, COLOURS.index(other[1]))
    return operation, f"在|以下|两段|中|插入|一段|。\n第一段|：{first}\n第二段|：{second}\n插入|段|的|大纲|：{material}", answer

