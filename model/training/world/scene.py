"""What a scene is, and how one is drawn by lot.

A scene is pure data: up to four coloured shapes in the cells of a 3 x 3 grid and at most one printed
word that has a row of the grid to itself. `draw.py` turns it into pixels and the text modules into
words; neither looks at the other, so this file alone says what is true in a picture.
All lengths are in units of the canonical 112-pixel side.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

SIDE = 112
GRID = 3
CELL = SIDE / GRID
MAX_OBJECTS = 4

SHAPES = ("circle", "square", "triangle", "star", "cross", "ring")
COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "black", "white")
SIZES = ("small", "medium", "large")
RGB = {
    "red": (220, 40, 40),
    "orange": (245, 140, 20),
    "yellow": (245, 225, 40),
    "green": (40, 160, 60),
    "blue": (40, 80, 220),
    "purple": (140, 50, 180),
    "black": (25, 25, 25),
    "white": (250, 250, 250),
}
# The diameter of the circle around (or side of) a shape, lowest and highest.
DIAMETER = {"small": (14.0, 17.0), "medium": (22.0, 26.0), "large": (32.0, 37.0)}
CENTRE_JITTER = 5.0

WORDS = (
    "AIR ARM BAG BED BOOK BOX BUS CAKE CAR CAT CITY CUP DAY DOG DOOR EGG EYE FISH FOX GAME "
    "HAT HOME ICE INK JAM JOB KEY KING LAMP MAP MOON NET OPEN PARK PEN QUIZ RAIN SEA SHOP SKY "
    "STAR SUN TEA TREE UP VAN WAVE YES ZOO GO"
).split()
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
DIGITS = "0123456789"
FONTS = (
    "DejaVuSans-Bold",
    "DejaVuSans",
    "DejaVuSerif-Bold",
    "DejaVuSansMono-Bold",
    "LiberationSans-Bold",
    "LiberationSerif-Bold",
    "LiberationMono-Bold",
    "dots",
)
INKS = ((15, 15, 15), (250, 250, 250), (20, 30, 110), (120, 15, 20))


@dataclass(frozen=True)
class Thing:
    """One shape. `row` and `column` name its cell; `x`, `y` are its centre."""

    shape: str
    colour: str
    size: str
    row: int
    column: int
    x: float
    y: float
    diameter: float
    degrees: float
    rgb: tuple[int, int, int]

    @property
    def cell(self) -> int:
        return self.row * GRID + self.column

    @property
    def kind(self) -> tuple[str, str]:
        return (self.colour, self.shape)


@dataclass(frozen=True)
class Print:
    """The printed word: its text, the row it stands in, and how it looks."""

    text: str
    row: int
    x: float
    y: float
    cap_height: float
    degrees: float
    font: str
    ink: tuple[int, int, int]


@dataclass(frozen=True)
class Look:
    """Everything about a picture that nobody is asked about: background, noise, file size."""

    start: tuple[int, int, int]
    end: tuple[int, int, int]
    angle: float
    noise: float
    blur: float
    jpeg_quality: int  # 0: none
    file_side: int
    seed: int


@dataclass(frozen=True)
class Scene:
    things: tuple[Thing, ...]  # in reading order of their cells
    word: Print | None
    look: Look = field(compare=False)

    def count(self, shape: str | None = None, colour: str | None = None) -> int:
        return sum(
            (shape is None or t.shape == shape) and (colour is None or t.colour == colour)
            for t in self.things
        )


def clamp(value: float) -> int:
    return max(0, min(255, round(value)))


def draw_look(rng: random.Random) -> Look:
    """A background of middling brightness, so that black, white and every colour stand out."""
    base = rng.uniform(120, 205)
    start = tuple(clamp(base + rng.uniform(-18, 18)) for _ in range(3))
    step = rng.uniform(-30, 30)
    end = tuple(max(105, min(212, clamp(c + step + rng.uniform(-10, 10)))) for c in start)
    return Look(
        start=start,
        end=end,
        angle=rng.uniform(0, 360),
        noise=rng.choice((0.0, rng.uniform(1, 9))),
        blur=rng.choice((0.0, rng.uniform(0.2, 0.7))),
        jpeg_quality=rng.choice((0, rng.randint(55, 95))),
        file_side=rng.choices((112, 168, 336), weights=(12, 6, 1))[0],
        seed=rng.getrandbits(31),
    )


def draw_text(rng: random.Random, letters: float = 0.0) -> str:
    """A listed word (55 %) or a number of 2-4 digits; `letters`: the share of 2-4 chance letters."""
    length = rng.randint(2, 4)
    if rng.random() >= letters:
        if rng.random() < 0.55:
            return rng.choice(WORDS)
        return rng.choice(DIGITS[1:]) + "".join(rng.choices(DIGITS, k=length - 1))
    return "".join(rng.choices(LETTERS, k=length))


def draw_print(rng: random.Random, row: int | None = None, letters: float = 0.0) -> Print:
    text = draw_text(rng, letters)
    cap = rng.uniform(11.0, 17.0)
    if len(text) == 4:
        cap = min(cap, 15.0)
    half = 0.55 * cap * len(text) + 3
    row = rng.randrange(GRID) if row is None else row
    return Print(
        text=text,
        row=row,
        x=rng.uniform(min(half, 56), max(SIDE - half, 56)),
        y=(row + 0.5) * CELL + rng.uniform(-3, 3),
        cap_height=cap,
        degrees=rng.choice((0.0, rng.uniform(-18, 18))),
        font=rng.choice(FONTS),
        ink=rng.choice(INKS),
    )


def draw_thing(rng: random.Random, cell: int, **fixed) -> Thing:
    colour = fixed.get("colour") or rng.choice(COLOURS)
    shape = fixed.get("shape") or rng.choice(SHAPES)
    size = fixed.get("size") or rng.choice(SIZES)
    row, column = divmod(cell, GRID)
    return Thing(
        shape=shape,
        colour=colour,
        size=size,
        row=row,
        column=column,
        x=(column + 0.5) * CELL + rng.uniform(-CENTRE_JITTER, CENTRE_JITTER),
        y=(row + 0.5) * CELL + rng.uniform(-CENTRE_JITTER, CENTRE_JITTER),
        diameter=rng.uniform(*DIAMETER[size]),
        degrees=rng.uniform(-15, 15),
        rgb=tuple(clamp(c + rng.uniform(-16, 16)) for c in RGB[colour]),
    )


def draw_scene(
    rng: random.Random,
    kinds: list[tuple[str, str]] | None = None,
    word: bool | None = None,
) -> Scene:
    """A scene by lot; `kinds` fixes the (colour, shape) of its things, `word` whether it has a print.

    A third of the scenes repeat a colour or a shape on purpose, so that counting has something to count.
    """
    has_word = rng.random() < 0.5 if word is None else word
    printed = draw_print(rng) if has_word else None
    cells = [c for c in range(GRID * GRID) if printed is None or c // GRID != printed.row]
    if kinds is None:
        count = rng.randint(1, MAX_OBJECTS)
        shapes = rng.sample(SHAPES, rng.choice((1, 2))) if rng.random() < 0.33 else list(SHAPES)
        colours = rng.sample(COLOURS, rng.choice((1, 2))) if rng.random() < 0.33 else list(COLOURS)
        kinds = [(rng.choice(colours), rng.choice(shapes)) for _ in range(count)]
    chosen = sorted(rng.sample(cells, len(kinds)))
    things = tuple(draw_thing(rng, c, colour=k[0], shape=k[1]) for c, k in zip(chosen, kinds))
    return Scene(things=things, word=printed, look=draw_look(rng))


def draw_crowd(rng: random.Random) -> tuple[tuple[Thing, ...], tuple[Print, ...], Look]:
    """Not a scene but a lesson for the tower: every row holds a word or up to three shapes."""
    fill = rng.uniform(0.4, 1.0)
    things: list[Thing] = []
    words: list[Print] = []
    for row in range(GRID):
        if rng.random() < 0.65 * fill + 0.1:
            words.append(draw_print(rng, row, letters=0.35))
        else:
            things += [draw_thing(rng, row * GRID + c) for c in range(GRID) if rng.random() < fill]
    return tuple(things), tuple(words), draw_look(rng)
