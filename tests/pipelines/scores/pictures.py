"""Made pictures with and without real rendered text, and clips with what scores measure."""

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from tests.infra.videos import video

WORDS = ("A train leaves the station", "Breaking news tonight", "Chapter 7: The harbour")


def textured(kind, seed=0, height=360, width=640):
    """A picture without text, RGB [H,W,3]."""
    chance = np.random.default_rng(seed)
    down, across = np.mgrid[0:height, 0:width]
    if kind == "plain":
        grey = np.full((height, width), chance.integers(20, 235))
    elif kind == "slope":
        grey = across * 255 / width
    elif kind == "noise":
        grey = chance.integers(0, 256, (height, width))
    elif kind == "blocks":
        grey = chance.integers(0, 256, (height // 8, width // 8)).repeat(8, 0).repeat(8, 1)
    elif kind == "stripes":
        grey = 255 * (across // chance.integers(6, 20) % 2)
    elif kind == "checks":
        side = chance.integers(6, 24)
        grey = 255 * ((across // side + down // side) % 2)
    elif kind == "bricks":
        grey = bricks(down, across, chance)
    elif kind == "discs":
        return discs(chance, height, width)
    elif kind == "foliage":
        rough = chance.normal(size=(height // 6, width // 6))
        grey = np.asarray(Image.fromarray(rough.astype(np.float32)).resize((width, height), 3))
        grey = 128 + 60 * grey
    else:
        grey = 128 + 60 * np.sin(across / 37 + seed) + 50 * np.sin(down / 23)
    return np.clip(grey, 0, 255).astype(np.uint8)[..., None].repeat(3, 2)


TEXTURES = ("plain", "slope", "noise", "blocks", "stripes", "checks", "bricks", "discs", "foliage")
TEXTURES += ("waves",)


def bricks(down, across, chance):
    rows, high = down // 20, chance.integers(14, 18)
    shifted = (across + 20 * (rows % 2)) % 40
    return np.where((down % 20 < high) & (shifted < 36), 120 + 10 * (rows % 3), 210)


def discs(chance, height, width):
    picture = Image.new("RGB", (width, height), (60, 90, 60))
    pen = ImageDraw.Draw(picture)
    for _ in range(60):
        x, y, r = chance.integers(0, width), chance.integers(0, height), chance.integers(3, 40)
        pen.ellipse((x - r, y - r, x + r, y + r), tuple(chance.integers(0, 256, 3).tolist()))
    return np.asarray(picture)


def written(picture, words, size_px, at=(40, 280), colour=(255, 255, 255), outline=True):
    """The picture with words on it, and the share of it that their boxes cover."""
    image = Image.fromarray(picture)
    pen, font = ImageDraw.Draw(image), ImageFont.load_default(size_px)
    look = {"stroke_width": 2, "stroke_fill": (0, 0, 0)} if outline else {}
    pen.text(at, words, colour, font=font, **look)
    left, top, right, bottom = pen.textbbox(at, words, font=font)
    return np.asarray(image), (right - left) * (bottom - top) / (image.width * image.height)


def sliding(num_frames=30, step_px=2, fps=30, height=96, width=160, seed=0, **more):
    """A clip whose whole picture slides by so many pixels a frame."""
    base = textured("foliage", seed, height, width + step_px * num_frames)
    frames = [base[:, i * step_px : i * step_px + width] for i in range(num_frames)]
    return video(np.stack(frames), fps=fps, **more)
