"""From a scene to pixels: drawn at three times the canonical side, spoilt a little, and shrunk.

The order is: gradient, shapes in reading order (later ones cover earlier ones), the printed word,
reduction to the file's side, blur, noise, JPEG. `model_pixels` then does what serving does to any
picture: Pillow's bicubic squash to 112 x 112.
"""

from __future__ import annotations

import io
import math
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from .dots import ADVANCE, GLYPHS
from .scene import SIDE, Look, Print, Scene, Thing

SCALE = 3
CANVAS = SIDE * SCALE
# The fonts that ship with the world's other implementation; Arimo, Tinos and Cousine are Liberation's outlines by another name.
FONT_FOLDER = Path(__file__).resolve().parents[2] / "world" / "fonts"
FONT_FILES = {"LiberationSans-Bold": "Arimo-Bold", "LiberationSerif-Bold": "Tinos-Bold", "LiberationMono-Bold": "Cousine-Bold"}
_ROUND = [(math.cos(math.tau * k / 48), math.sin(math.tau * k / 48)) for k in range(48)]


def background(look: Look) -> Image.Image:
    """A linear gradient along `angle`."""
    axis = np.linspace(-0.5, 0.5, SIDE // 2, dtype=np.float32)
    turn = math.radians(look.angle)
    along = axis[None, :] * math.cos(turn) + axis[:, None] * math.sin(turn)
    along = (along / 1.4143 + 0.5)[..., None]
    start, end = (np.array(c, dtype=np.float32) for c in (look.start, look.end))
    coarse = Image.fromarray((start + (end - start) * along).astype(np.uint8))
    return coarse.resize((CANVAS, CANVAS), Image.BILINEAR)


def outline(shape: str) -> list[tuple[float, float]]:
    """The shape's corners in a frame where its diameter is 2 and y points down."""
    if shape in ("circle", "ring"):
        return _ROUND
    if shape == "square":
        return [(-0.85, -0.85), (0.85, -0.85), (0.85, 0.85), (-0.85, 0.85)]
    if shape == "triangle":
        return [(0, -1), (0.95, 0.8), (-0.95, 0.8)]
    if shape == "star":
        radii = (1.05, 0.45)
        return [
            (radii[k % 2] * math.sin(math.pi * k / 5), -radii[k % 2] * math.cos(math.pi * k / 5))
            for k in range(10)
        ]
    if shape == "cross":
        arm = 0.33
        quarter = [(-arm, -1), (arm, -1), (arm, -arm)]
        corners = []
        for _ in range(4):
            corners += quarter
            quarter = [(-y, x) for x, y in quarter]
        return corners
    raise ValueError(f"unknown shape {shape!r}")


def place(points, thing: Thing, factor: float = 1.0) -> list[tuple[float, float]]:
    turn = math.radians(thing.degrees)
    cos, sin = math.cos(turn), math.sin(turn)
    radius = thing.diameter / 2 * factor * SCALE
    return [
        (thing.x * SCALE + radius * (x * cos - y * sin), thing.y * SCALE + radius * (x * sin + y * cos))
        for x, y in points
    ]


def draw_shape(canvas: Image.Image, thing: Thing) -> None:
    pen = ImageDraw.Draw(canvas)
    if thing.shape != "ring":
        pen.polygon(place(outline(thing.shape), thing), fill=thing.rgb)
        return
    mask = Image.new("L", canvas.size, 0)
    cut = ImageDraw.Draw(mask)
    cut.polygon(place(_ROUND, thing), fill=255)
    cut.polygon(place(_ROUND, thing, 0.55), fill=0)
    canvas.paste(thing.rgb, (0, 0), mask)


@lru_cache(maxsize=256)
def load_font(name: str, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(FONT_FOLDER / f"{FONT_FILES.get(name, name)}.ttf", size)


def dots_mask(word: Print) -> tuple[Image.Image, list[float]]:
    """The word in the dot font; also each character's centre as a share of the width."""
    dot = word.cap_height * SCALE / 7
    columns = ADVANCE * len(word.text) - 1
    mask = Image.new("L", (math.ceil(columns * dot), math.ceil(7 * dot)), 0)
    pen = ImageDraw.Draw(mask)
    for index, character in enumerate(word.text):
        for y, row in enumerate(GLYPHS[character]):
            for x, mark in enumerate(row):
                if mark == "#":
                    left, top = (index * ADVANCE + x) * dot, y * dot
                    pen.rectangle((left, top, left + dot - 0.5, top + dot - 0.5), fill=255)
    return mask, [(index * ADVANCE + 2.5) / columns for index in range(len(word.text))]


def font_mask(word: Print) -> tuple[Image.Image, list[float]]:
    size = max(8, round(word.cap_height * SCALE / 0.72))
    font = load_font(word.font, size)
    left, top, right, bottom = font.getbbox(word.text)
    mask = Image.new("L", (max(1, right - left), max(1, bottom - top)), 0)
    ImageDraw.Draw(mask).text((-left, -top), word.text, fill=255, font=font)
    ends = [font.getlength(word.text[: k + 1]) for k in range(len(word.text))]
    starts = [0.0] + ends[:-1]
    return mask, [(a + b) / 2 / ends[-1] for a, b in zip(starts, ends)]


def print_word(canvas: Image.Image, word: Print) -> list[tuple[float, float]]:
    """Prints the word around its centre; returns each character's centre in canonical pixels."""
    mask, shares = dots_mask(word) if word.font == "dots" else font_mask(word)
    width = mask.width / SCALE
    widest = SIDE - 6
    if width > widest:
        mask = mask.resize((widest * SCALE, mask.height))
        width = widest
    middle = min(max(word.x, width / 2 + 2), SIDE - width / 2 - 2)
    turn = math.radians(word.degrees)
    centres = [
        (middle + (s - 0.5) * width * math.cos(turn), word.y - (s - 0.5) * width * math.sin(turn))
        for s in shares
    ]
    if word.degrees:
        mask = mask.rotate(word.degrees, resample=Image.BILINEAR, expand=True)
    corner = (round(middle * SCALE - mask.width / 2), round(word.y * SCALE - mask.height / 2))
    canvas.paste(word.ink, corner, mask)
    return centres


def spoil(picture: Image.Image, look: Look) -> Image.Image:
    """Blur, noise and JPEG artefacts."""
    if look.blur:
        picture = picture.filter(ImageFilter.GaussianBlur(look.blur * look.file_side / SIDE))
    if look.noise:
        noise = np.random.default_rng(look.seed).standard_normal((look.file_side, look.file_side, 3), dtype=np.float32)
        pixels = np.asarray(picture, dtype=np.float32) + look.noise * noise
        picture = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
    if look.jpeg_quality:
        file = io.BytesIO()
        picture.save(file, "JPEG", quality=look.jpeg_quality)
        picture = Image.open(io.BytesIO(file.getvalue())).convert("RGB")
    return picture


def draw_parts(things, words, look: Look) -> tuple[Image.Image, list[list[tuple[float, float]]]]:
    """The picture as a file would hold it, and for each word the centres of its characters."""
    canvas = background(look)
    for thing in things:
        draw_shape(canvas, thing)
    centres = [print_word(canvas, word) for word in words]
    factor = CANVAS // look.file_side
    small = canvas.reduce(factor) if factor > 1 else canvas
    return spoil(small, look), centres


def draw_picture(scene: Scene) -> Image.Image:
    return draw_parts(scene.things, [scene.word] if scene.word else [], scene.look)[0]


def model_pixels(picture: Image.Image, side: int = SIDE) -> np.ndarray:
    """What the tower is given: uint8 [side, side, 3]."""
    if picture.size != (side, side):
        picture = picture.resize((side, side), Image.BICUBIC)
    return np.asarray(picture, dtype=np.uint8)
