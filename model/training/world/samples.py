"""Training samples: what the model is shown and what it must say, in the official prompt formats.

A sample is a list of parts: `Said` text that is given, `Seen` pixels, and `Answer` text that is learnt.
The frame (BOS and an optional system block) is not part of a sample, so that a batch can share it.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

import numpy as np

from . import articles, questions
from .draw import draw_picture, model_pixels
from .language import any_language, plain
from .looks import named, of_kind
from .scene import COLOURS, SHAPES, Scene, draw_scene, draw_text

BEGIN, END = "[UNUSED_TOKEN_146]", "[UNUSED_TOKEN_145]"
SYSTEM_CHAT = (
    "You are an AI assistant whose name is InternLM-XComposer (浦语·灵笔).\n"
    "- InternLM-XComposer (浦语·灵笔) is a multi-modality conversational language model that is developed by Shanghai AI Laboratory (上海人工智能实验室). It is designed to be helpful, honest, and harmless.\n"
    "- InternLM-XComposer (浦语·灵笔) can understand and communicate fluently in the language chosen by the user such as English and 中文.\n"
    "- InternLM-XComposer (浦语·灵笔) is capable of comprehending and articulating responses effectively based on the provided image."
)
SYSTEM_COMPOSER = "\n".join(SYSTEM_CHAT.replace("multi-modality ", "").split("\n")[:3])


def system_block(text: str) -> str:
    return f"{BEGIN}system\n{text}{END}\n"


@dataclass(frozen=True)
class Said:
    text: str


@dataclass(frozen=True)
class Seen:
    pixels: np.ndarray


@dataclass(frozen=True)
class Answer:
    text: str
    looks: tuple = ()  # where to look for it: see `world.looks`


Sample = list


class Pictures:
    """Pictures on demand: any scene, or one that shows a given thing."""

    def __init__(self, pool, rng: random.Random):
        self.pool, self.rng = pool, rng
        self.by_kind: dict[tuple[str, str], list[tuple[int, int]]] = {}
        for number, scenes in pool.scenes.items():
            for index, scene in enumerate(scenes):
                for kind in {t.kind for t in scene.things}:
                    self.by_kind.setdefault(kind, []).append((number, index))

    def any(self) -> tuple[Scene, np.ndarray]:
        return self.pool.sample(self.rng)

    def showing(self, item) -> tuple[Scene, np.ndarray]:
        size, colour, shape = item
        known = self.by_kind.get((colour, shape), [])
        for _ in range(40 if known else 0):
            number, index = self.rng.choice(known)
            scene = self.pool.scenes[number][index]
            if size is None or any(t.kind == (colour, shape) and t.size == size for t in scene.things):
                return scene, self.pool.pixels[number][index]
        while True:  # a pool too small to have one
            scene = draw_scene(self.rng, kinds=[(colour, shape)])
            if size in (None, scene.things[0].size):
                return scene, self.pool.look(model_pixels(draw_picture(scene)))

    def not_showing(self, item, like: bool) -> tuple[Scene, np.ndarray]:
        """A picture without the thing; `like`: with one of the same colour or shape."""
        _, colour, shape = item
        while True:
            if like:
                near = (colour, self.rng.choice(SHAPES)) if self.rng.random() < 0.5 else (self.rng.choice(COLOURS), shape)
                scene, pixels = self.showing((None, *near))
            else:
                scene, pixels = self.any()
            if scene.count(shape, colour) == 0:
                return scene, pixels


def user(*parts) -> Sample:
    return [Said(f"{BEGIN}user\n"), *parts]


def ask(*parts, prefill: str = "") -> Sample:
    """A user turn of the given parts, and the opened assistant turn."""
    return [*user(*parts), Said(f"{END}\n{BEGIN}assistant\n{prefill}")]


def turn(question: str) -> Said:
    return Said(f"{BEGIN}user\n{question}{END}\n{BEGIN}assistant\n")


# ---------------------------------------------------------------------- chat


def opening(question: str, pixels: np.ndarray, rng: random.Random) -> Sample:
    """The first turn, with the picture before, after, or outside the question."""
    roll = rng.random()
    if roll < 0.78:
        return ask(Seen(pixels), Said(question))
    if roll < 0.88:
        return ask(Said(question), Seen(pixels))
    return [Seen(pixels), *ask(Said(question))]


def scene_turns(scene: Scene, rng: random.Random, count: int) -> list[tuple[str, str]]:
    """Turns that do not ask the same twice; a description, where there is one, mostly comes last."""
    language = any_language(rng)
    turns: list[tuple[str, str]] = []
    asked: set[str] = set()
    for _ in range(4 * count):
        if len(turns) >= count:
            break
        if rng.random() < 0.1:
            language = any_language(rng)
        follow = questions.follow_up(scene, language, rng) if rng.random() < 0.08 else None
        if follow:
            turns += follow
            continue
        kind, question, answer = questions.any_question(scene, language, rng)
        key = kind if kind in ("read", "where_word") else question
        if key not in asked:
            asked.add(key)
            turns.append((question, answer))
    if rng.random() < 0.55:
        described = questions.describe_turn(scene, language, rng)
        turns.insert(0 if rng.random() < 0.5 else len(turns), described)
    return turns


def chat(pictures: Pictures, rng: random.Random, count: int = 5) -> Sample:
    scene, pixels = pictures.any()
    turns = scene_turns(scene, rng, rng.randint(max(1, count - 2), count + 1))
    (first, answer), *rest = turns
    seen = [(0, scene)]
    sample = opening(first, pixels, rng) + [Answer(answer, named(seen, first))]
    for question, answer in rest:
        sample += [turn(question), Answer(answer, named(seen, question))]
    return sample


DRILLED = ("where", "where", "what", "what", "size", "size", *["yes_no"] * 5, *["count"] * 4, "compare", "compare", "colour", "shape", "read")


def drill(pictures: Pictures, rng: random.Random, count: int = 14) -> Sample:
    """Many questions about one picture, none twice."""
    scene, pixels = pictures.any()
    language = any_language(rng)
    turns: dict[str, str] = {}
    for _ in range(2 * count):
        _, question, answer = questions.any_question(scene, language, rng, DRILLED)
        turns.setdefault(question, answer)
        if len(turns) == count:
            break
    (first, answer), *rest = turns.items()
    seen = [(0, scene)]
    sample = opening(first, pixels, rng) + [Answer(answer, named(seen, first))]
    for question, answer in rest:
        sample += [turn(question), Answer(answer, named(seen, question))]
    return sample


def several(pictures: Pictures, rng: random.Random, count: int | None = None, turns: int = 3) -> Sample:
    """Two or three pictures in one prompt."""
    count = count or rng.choice((2, 2, 3))
    shown = [pictures.any() for _ in range(count)]
    scenes = [s for s, _ in shown]
    language = any_language(rng)
    parts: Sample = []
    for number, (_, pixels) in enumerate(shown):
        parts += [Said(f"Image{number + 1} "), Seen(pixels), Said("; ")]
    asked = list(dict(questions.ask_pictures(scenes, language, rng)[1:] for _ in range(turns)).items())
    answered = lambda question, answer: Answer(answer, named(_asked_about(scenes, question), question))
    sample = ask(*parts, Said(asked[0][0])) + [answered(*asked[0])]
    for question, answer in asked[1:]:
        sample += [turn(question), answered(question, answer)]
    return sample


def _asked_about(scenes: list[Scene], question: str) -> list[tuple[int, Scene]]:
    numbered = list(enumerate(scenes))
    return [(n, s) for n, s in numbered if f"Image{n + 1}" in question] or numbered


def lone_kinds(scenes: list[Scene], number: int) -> list[tuple[str, str]]:
    """(colour, shape) that this scene shows and no other does."""
    others = {t.kind for s in scenes[:number] + scenes[number + 1 :] for t in s.things}
    return sorted({t.kind for t in scenes[number].things} - others)


def context_of(kind: tuple[str, str], language, rng: random.Random) -> str:
    text = articles.seen(language, (None, *kind), rng.randrange(6))
    return f"根据|给定|上下文|和|候选|图像|，选择|合适|的|配图|：{text}\n"


def choose_again(number: int, kind: tuple[str, str], looks: tuple, language, rng: random.Random) -> Sample:
    """Another choice among candidates that an earlier turn has shown."""
    return ask(Said(context_of(kind, language, rng)), prefill=CHOICE_PREFILL) + [Answer(f": {'ABCD'[number]}", looks)]


def match(pictures: Pictures, rng: random.Random, turns: int = 10) -> Sample:
    """Two to four pictures, and again and again a thing that only one of them shows: which one?

    Asked as a question about numbered pictures, or as the choice among lettered candidates.
    """
    count = rng.choice((2, 2, 3, 3, 4))
    shown = [pictures.any() for _ in range(count)]
    asked = [(number, kind) for number in range(count) for kind in lone_kinds([s for s, _ in shown], number)]
    if not asked:
        return match(pictures, rng, turns)
    rng.shuffle(asked)
    lettered = rng.random() < 0.5
    parts: Sample = []
    for number, (_, pixels) in enumerate(shown):
        parts += [Said(f"{'ABCD'[number]}." if lettered else f"Image{number + 1} "), Seen(pixels)]
        parts.append(Said("; " if not lettered else "\n" if number + 1 < count else ""))
    sample: Sample = []
    for number, kind in asked[:turns]:
        language, looks = any_language(rng), of_kind(number, shown[number][0], kind)
        if lettered and sample:
            opened = choose_again(number, kind, looks, language, rng)
        elif lettered:
            given = [Said(context_of(kind, language, rng)), Said("候选|图像|包括|: "), *parts]
            opened = ask(*given, prefill=CHOICE_PREFILL) + [Answer(f": {'ABCD'[number]}", looks)]
        else:
            wording = language.texts["pictures"]
            question = Said(rng.choice(wording["which_shows"]).format(kind=language.kind(*kind)))
            opened = ask(*([] if sample else parts), question) + [Answer(wording["image"].format(i=number + 1), looks)]
        sample += opened
    return sample


def told(scene: Scene, rng: random.Random, count: int = 4) -> Sample:
    """The same questions about a scene that is only told in words."""
    language = any_language(rng)
    texts = language.texts
    items = [texts["describe"]["item"].format(np=language.np(t.size, t.colour, t.shape), cell=texts["cells"][t.cell]) for t in scene.things]
    if scene.word:
        word = texts["pictures"]["with_word"].format(word=questions.spell(scene.word.text))
        items.append(texts["describe"]["item"].format(np=word, cell=texts["rows"][scene.word.row]))
    turns = scene_turns(scene, rng, count)
    first = texts["told"].format(list=language.join(items), question=turns[0][0])
    sample = ask(Said(first)) + [Answer(turns[0][1])]
    for question, answer in turns[1:]:
        sample += [turn(question), Answer(answer)]
    return sample


# --------------------------------------------------------------- composition


def article_answer(article: articles.Article) -> Answer:
    return Answer("\n".join(article.segments))


def compose(rng: random.Random, style: str | None = None) -> Sample:
    request, article = articles.any_request(rng, style)
    return ask(Said(request)) + [article_answer(article)]


def compose_pictures(pictures: Pictures, rng: random.Random, count: int | None = None) -> Sample:
    shown = [pictures.any() for _ in range(count or rng.choice((1, 1, 2)))]
    request, article = articles.picture_request([s for s, _ in shown], rng)
    parts: Sample = []
    for number, (_, pixels) in enumerate(shown):
        parts += [Seen(pixels), Said(" " if number + 1 < len(shown) else request)]
    return ask(*parts) + [article_answer(article)]


def lines(segments: list[str], last: int | None = None) -> str:
    shown = segments if last is None else segments[: last + 1]
    return "".join(f"<Seg{k}> {s}\n" for k, s in enumerate(shown))


PLACES_PREFILL, CAPTION_PREFILL, CHOICE_PREFILL = "适合|插入|图像|的|行|是", "标题|是|\"", "最|合适|的|图|是"


def fitting(article: articles.Article, count: int | None) -> list[int]:
    """Segments after which a picture fits: those that show a thing; then, if more are wanted, the first others."""
    visual = article.visual
    if count is None:
        return visual
    others = [k for k in range(1, len(article.segments)) if k not in visual]
    return sorted((visual + others)[:count])


def places(rng: random.Random, pictures: Pictures | None = None) -> Sample:
    article = articles.any_article(rng)
    count = None
    uploads: Sample = []
    if pictures is not None:
        count = rng.randint(1, 2)
        for _ in range(count):
            uploads += [Seen(pictures.any()[1]), Said(" ")]
    full = lines(article.segments)
    sample: Sample = []
    counts = [count] if pictures is not None else rng.sample((None, *range(1, articles.MOST_PARAGRAPHS + 1)), rng.choice((1, 1, 5)))
    for wanted in counts:  # the official prompt; now and then more counts are asked for the same article
        prompt = "" if sample else f"给定|文章|\"{full}\" "
        prompt += f"根据|上述|文章|，选择|适合|插入|图像|的|{'' if wanted is None else wanted}|行"
        answer = "，".join(f"<Seg{k}>" for k in fitting(article, wanted)) + "。"
        sample += ask(*uploads, Said(prompt), prefill=PLACES_PREFILL) + [Answer(answer)]
        uploads = []
    return sample


def caption_text(article: articles.Article, segment: int) -> str:
    """What the paragraph shows; the place of the article where it shows nothing."""
    item = article.items[segment - 1]
    return articles.caption(article.language, item) if item else articles.place(article.language, article.topic)


def captions(rng: random.Random) -> Sample:
    article = articles.any_article(rng)
    last = len(article.segments) - 1
    wanted = sorted(rng.sample(range(1, last + 1), rng.randint(1, min(3, last))))
    wanted = [k for k in wanted if article.items[k - 1] or rng.random() < 0.4] or article.visual[:1]
    past = ""
    for index, segment in enumerate(wanted[:-1]):
        lead = "现在" if index == 0 else ""
        past += f"{lead}|<Seg{segment}>|后|插入|图像|对应|的|标题|是|\"{caption_text(article, segment)}\"， "
    past = past[:-2] + "。" if past else ""
    segment = wanted[-1]
    prompt = f"给定|文章|\"{lines(article.segments, segment + 1)}\" {past}给出|适合|在|<Seg{segment}>|后|插入|的|图像|对应|的|标题|。"
    return ask(Said(prompt), prefill=CAPTION_PREFILL) + [Answer(f"{caption_text(article, segment)}\"")]


def choice(pictures: Pictures, rng: random.Random, candidates: int | None = None, again: int = 0) -> Sample:
    """One step of choosing: earlier pictures stand in the text, the candidates follow it. `again`: more choices among them."""
    while True:
        article = articles.any_article(rng)
        if article.visual:
            break
    where = sorted(rng.sample(article.visual, min(len(article.visual), rng.choice((1, 1, 1, 2)))))
    parts: Sample = [Said("根据|给定|上下文|和|候选|图像|，选择|合适|的|配图|：")]
    start = 0
    for segment in where:
        text = "".join(f"{s}\n" for s in article.segments[start : segment + 1])
        parts.append(Said(text))
        start = segment + 1
        if segment != where[-1]:
            parts.append(Seen(pictures.showing(article.items[segment - 1])[1]))
    item = article.items[where[-1] - 1]
    count = candidates or rng.choice((2, 2, 3, 4))
    right = rng.randrange(count)
    parts.append(Said("候选|图像|包括|: "))
    scenes, before = [], sum(isinstance(p, Seen) for p in parts)
    for number in range(count):
        scene, pixels = pictures.showing(item) if number == right else pictures.not_showing(item, like=rng.random() < 0.6)
        scenes.append(scene)
        parts += [Said(f"{'ABCD'[number]}."), Seen(pixels)]
        if number + 1 < count:
            parts.append(Said("\n"))
    looks = of_kind(before + right, scenes[right], item[1:])
    sample = ask(*parts, prefill=CHOICE_PREFILL) + [Answer(f": {'ABCD'[right]}", looks)]
    asked = [(number, kind) for number in range(count) for kind in lone_kinds(scenes, number)]
    for number, kind in rng.sample(asked, min(again, len(asked))):
        looks = of_kind(before + number, scenes[number], kind)
        sample += choose_again(number, kind, looks, any_language(rng), rng)
    return sample


def edit(rng: random.Random, operation: str | None = None) -> Sample:
    _, prompt, answer = articles.any_edit(rng, operation)
    return ask(Said(prompt)) + [Answer(answer)]


def echo(rng: random.Random) -> Sample:
    """Say it again, in the same or the other language: nothing teaches copying faster."""
    language, other = any_language(rng), any_language(rng)
    items = [articles.any_item(rng) for _ in range(rng.randint(2, 7))]
    said, answer = (each.join([each.np(*i) for i in items]) for each in (language, other))
    if rng.random() < 0.3:
        said = answer = questions.spell(draw_text(rng, letters=0.5))
    ask_for = {"en": ("Repeat in English: {}", "用|英文|重复|：{}"), "zh": ("Repeat in Chinese: {}", "用|中文|重复|：{}")}
    question = ask_for[other.code][language.code == "zh"].format(said)
    return ask(Said(question)) + [Answer(answer)]


# -------------------------------------------------------------------- mixing


TEXT = {"echo": 0.12, "told": 0.22, "compose": 0.20, "places": 0.12, "caption": 0.14, "edit": 0.20}
# What the seeing stage draws, by how far it has come: first short samples that teach looking and copying.
SEEING = (
    (0.20, {"echo": 0.24, "chat": 0.42, "told": 0.07, "compose": 0.07, "places": 0.05, "caption": 0.06, "edit": 0.09}),
    (0.50, {"echo": 0.03, "chat": 0.50, "several": 0.10, "choice": 0.09, "compose": 0.07, "compose_pictures": 0.03, "places": 0.06, "caption": 0.06, "edit": 0.06}),
    (1.01, {"chat": 0.44, "several": 0.13, "choice": 0.13, "compose": 0.08, "compose_pictures": 0.04, "places": 0.05, "places_pictures": 0.01, "caption": 0.06, "edit": 0.06}),
)
# What the last stage draws: everything, those skills most that are learnt slowest.
EVERYTHING = {"chat": 0.34, "drill": 0.12, "match": 0.04, "several": 0.20, "choice": 0.10, "compose": 0.07, "compose_pictures": 0.04, "places": 0.04, "places_pictures": 0.01, "caption": 0.02, "edit": 0.02}
# At its beginning: to find the one thing that is red and a circle is what most skills wait for, and many questions about one
# picture, or many about which of several it is in, teach it fastest.
DRILL = {"drill": 0.28, "match": 0.30, "chat": 0.08, "several": 0.08, "choice": 0.03, "compose": 0.08, "compose_pictures": 0.02, "places": 0.07, "caption": 0.05, "edit": 0.02}
DRILL_SHARE = 0.36


def named_sample(name: str, rng: random.Random, pictures: Pictures | None, turns: int = 4) -> Sample:
    if name == "chat":
        return chat(pictures, rng, turns)
    if name == "several":
        return several(pictures, rng, turns=5)
    if name == "drill":
        return drill(pictures, rng)
    if name == "match":
        return match(pictures, rng)
    if name == "choice":
        return choice(pictures, rng, again=2)
    if name == "compose_pictures":
        return compose_pictures(pictures, rng)
    if name == "places_pictures":
        return places(rng, pictures)
    if name == "told":
        return told(draw_scene(rng), rng, min(turns, 3))
    return {"echo": echo, "compose": compose, "places": places, "caption": captions, "edit": edit}[name](rng)


def by_lot(shares: dict[str, float], rng: random.Random) -> str:
    return rng.choices(list(shares), weights=list(shares.values()))[0]


def text_sample(rng: random.Random) -> tuple[str, Sample]:
    """The language stage: (skill, sample) without pictures."""
    name = by_lot(TEXT, rng)
    return name, named_sample(name, rng, None)


def picture_sample(pictures: Pictures, rng: random.Random, share: float) -> tuple[str, Sample]:
    """The seeing stage at `share` of its way."""
    shares = next(mix for end, mix in SEEING if min(share, 1.0) < end)
    name = by_lot(shares, rng)
    return name, named_sample(name, rng, pictures, turns=2 if share < SEEING[0][0] else 5)


def any_sample(pictures: Pictures, rng: random.Random, share: float) -> tuple[str, Sample]:
    """The last stage at `share` of its way."""
    name = by_lot(DRILL if share < DRILL_SHARE else EVERYTHING, rng)
    return name, named_sample(name, rng, pictures, turns=7)


def spoken(sample: Sample) -> str:
    """All text of a sample with its word marks, for the tokenizer's training."""
    return "".join(p.text for p in sample if not isinstance(p, Seen))


def strip(sample: Sample) -> Sample:
    """Without word marks; given texts that touch are joined, as a server would tokenize them."""
    joined: Sample = []
    for part in sample:
        if isinstance(part, Said) and joined and isinstance(joined[-1], Said):
            joined[-1] = Said(joined[-1].text + plain(part.text))
        else:
            joined.append(part if isinstance(part, Seen) else replace(part, text=plain(part.text)))
    return joined
