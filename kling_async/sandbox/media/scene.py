"""A landscape that moves: sky, sun, drifting lights and ridges of four kinds. The prompt decides colours and forms."""

from __future__ import annotations

import colorsys
import functools
import hashlib
import math
import random
from typing import TYPE_CHECKING, TypeAlias

from PIL import Image, ImageDraw, ImageFilter, ImageOps

if TYPE_CHECKING:
    from collections.abc import Sequence

Colour: TypeAlias = tuple[int, int, int]

_CONTRAST = (0.25, 0.6)  # distance on the colour circle between the upper sky and the horizon
_RIDGES = (3, 7)  # at least and at most
_RUGGED = (0.4, 1.6)  # height of the ridges, from plains to peaks
_DAYLIGHT = (0.16, 0.75)  # brightness of the upper sky, from night to day
_LIGHTS = 14
_NEAR_SPEED = 0.16  # picture widths per second that the nearest ridge moves. The farthest moves a tenth of it
_BLOCKS = (56, 24)  # towers in two picture widths, far away and near
_HALO = [round(max(0.0, (value - 75) / 180) ** 2.2 * 190) for value in range(256)]  # how a light fades to its edge
_FAINT = [round(value * 0.7) for value in range(256)]
_MIDDLE = 110  # of 255: where a gradient has its middle colour
_UPPER = [min(255, round(value * 255 / _MIDDLE)) for value in range(256)]  # how the middle colour comes
_LOWER = [max(0, round((value - _MIDDLE) * 255 / (255 - _MIDDLE))) for value in range(256)]  # and how it goes
_SMOOTH = 2  # ridges are drawn so many times larger, then reduced: edges without steps


class Scene:
    """The landscape of one prompt.

    Args:
        prompt: Decides the colours, the kind of land, and how many and how high the ridges are.
        seed: Decides the shapes.
        width: Pixels.
        height: Pixels.
        still: Only the first second is drawn, which needs less of each ridge.
    """

    def __init__(self, prompt: str, seed: int, width: int, height: int, *, still: bool = False) -> None:
        self._size = width, height
        self._span = 2 if still else 3  # picture widths of a ridge
        palette = random.Random(hashlib.sha256(prompt.encode()).digest())  # noqa: S311 - a drawing
        shapes = random.Random(seed)  # noqa: S311 - a drawing
        hue = palette.random()
        warmth = hue + palette.uniform(*_CONTRAST)
        self._rugged = palette.uniform(*_RUGGED)
        self._count = palette.randint(*_RIDGES)
        self._land = palette.choice((_hills, _peaks, _waves, _towers))
        light = palette.uniform(*_DAYLIGHT)
        self.accent = _colour(warmth, 0.5, 1.0)
        dusk, glow = _colour(hue, 0.62, light), _colour(warmth, 0.45, 0.55 + 0.43 * light / _DAYLIGHT[1])
        self._sky = _gradient(self._size, dusk, _mix(_colour(hue, 0.42, 0.72), glow, 0.3), glow)
        self._sun = _glow(round(min(width, height) * 0.62), _colour(warmth + 0.03, 0.16, 1.0))
        self._sun_path = shapes.uniform(0.12, 0.3), shapes.uniform(0.7, 0.88), shapes.uniform(0.1, 0.2)
        self._lights = [
            (
                shapes.random(),
                shapes.random(),
                shapes.uniform(0.02, 0.07),
                _light(shapes, self._size, self.accent),
            )
            for _ in range(_LIGHTS)
        ]
        self._ridges = [self._ridge(index, hue, glow, shapes) for index in range(self._count)]

    def frame(self, share: float, seconds: float) -> Image.Image:
        """The landscape at one moment.

        Args:
            share: How much of the whole has passed, from 0 to 1: where the sun stands.
            seconds: How long it has moved.
        """
        width, height = self._size
        image = self._sky.copy()
        start, end, lift = self._sun_path
        radius = self._sun.width // 2
        x = round(width * (start + (end - start) * share)) - radius
        y = round(height * (0.46 - lift * math.sin(math.pi * (0.15 + 0.7 * share)))) - radius
        image.paste(self._sun, (x, y), self._sun)
        for index, (shade, mask) in enumerate(self._ridges):
            pace = _NEAR_SPEED * 0.1 ** (1 - index / (self._count - 1))
            offset = round(seconds * pace * width) % (2 * width)
            image.paste(shade, mask=mask.crop((offset, 0, offset + width, height)))
        for across, down, speed, sprite in self._lights:
            x = round(((across + 0.3 * speed * seconds) % 1.0) * width) - sprite.width // 2
            y = round(((down - speed * seconds) % 1.0) * height) - sprite.height // 2
            image.paste(sprite, (x, y), sprite)
        return image

    def _ridge(self, index: int, hue: float, glow: Colour, shapes: random.Random) -> tuple[Image.Image, Image.Image]:
        """A ridge's colours, and its outline: three widths, of which the third repeats the first, or two if still."""
        width, height = self._size
        near = index / (self._count - 1)
        base = height * (0.5 + 0.42 * near)
        waves = [
            (
                count,
                shapes.uniform(0, math.tau),
                self._rugged * height * (0.05 + 0.05 * near) * shapes.uniform(0.5, 1.1) / count**0.6,
            )
            for count in (1, 2, 3, 5, 8, 13, 21)
        ]
        step = max(1, width // 320)
        across = range(0, self._span * width + step, step)
        lifts = [[tall * lift for lift in self._land(across, width, count, at, near)] for count, at, tall in waves]
        outline = [(x * _SMOOTH, _SMOOTH * (base - sum(lift))) for x, *lift in zip(across, *lifts, strict=True)]
        mask = Image.new("L", (self._span * width * _SMOOTH, height * _SMOOTH))
        ImageDraw.Draw(mask).polygon([*outline, (self._span * width * _SMOOTH, height * 9), (0, height * 9)], fill=255)
        mask = mask.resize((self._span * width, height), Image.Resampling.BOX)
        top = _mix(glow, _colour(hue, 0.7, 0.1), 0.25 + 0.72 * near)
        mist = _mix(top, glow, 0.35 * (1 - near) + 0.06)
        return _gradient(self._size, top, top, mist), mask


def _hills(across: Sequence[int], width: int, count: int, at: float, _near: float) -> list[float]:
    """One wave of a ridge at each place: from -1 to 1, the same after two picture widths."""
    pace = math.pi * count / width
    return [math.sin(pace * x + at) for x in across]


def _peaks(across: Sequence[int], width: int, count: int, at: float, near: float) -> list[float]:
    return [math.asin(height) * 2 / math.pi for height in _hills(across, width, count, at, near)]


def _waves(across: Sequence[int], width: int, count: int, at: float, near: float) -> list[float]:
    return [1 - 2 * abs(height) for height in _hills(across, 2 * width, count, at / 2, near)]


def _towers(across: Sequence[int], width: int, count: int, at: float, near: float) -> list[float]:
    blocks = round(_BLOCKS[0] + (_BLOCKS[1] - _BLOCKS[0]) * near)
    pace = math.tau * count / blocks * 7
    tops = [1.4 * math.sin(pace * block + at) for block in range(2 * blocks)]
    return [tops[x * blocks // (2 * width)] for x in across]


def _light(shapes: random.Random, size: tuple[int, int], colour: Colour) -> Image.Image:
    return _coloured(_halo(max(4, round(min(size) * shapes.uniform(0.012, 0.05))), faint=True), colour)


def _glow(diameter: int, colour: Colour) -> Image.Image:
    """A disc with a bright heart and a soft halo."""
    return _coloured(_halo(diameter), colour)


def _coloured(mask: Image.Image, colour: Colour) -> Image.Image:
    sprite = Image.new("RGBA", mask.size, colour)
    sprite.putalpha(mask)
    return sprite


@functools.lru_cache(maxsize=64)
def _halo(diameter: int, *, faint: bool = False) -> Image.Image:
    """The shape of a light. Every scene of the same size has the same few."""
    halo = _disc().resize((diameter, diameter), Image.Resampling.BICUBIC).point(_HALO)
    heart = Image.new("L", (diameter, diameter))
    edge = diameter * 0.38
    ImageDraw.Draw(heart).ellipse((edge, edge, diameter - edge, diameter - edge), fill=255)
    halo.paste(255, mask=heart.filter(ImageFilter.GaussianBlur(diameter / 90)))
    return halo.point(_FAINT) if faint else halo


@functools.cache
def _disc() -> Image.Image:
    return ImageOps.invert(Image.radial_gradient("L"))


@functools.cache
def _ramps() -> tuple[Image.Image, Image.Image]:
    """How much of its middle and of its lower colour a gradient has at each height, in a column of pixels."""
    column = Image.linear_gradient("L").crop((0, 0, 1, 256))
    return column.point(_UPPER), column.point(_LOWER)


def _gradient(size: tuple[int, int], top: Colour, middle: Colour, bottom: Colour) -> Image.Image:
    column = Image.new("RGB", (1, 256), top)
    for colour, share in zip((middle, bottom), _ramps(), strict=True):
        column.paste(colour, mask=share)
    return column.resize((1, size[1]), Image.Resampling.BICUBIC).resize(size, Image.Resampling.NEAREST)


def _colour(hue: float, saturation: float, value: float) -> Colour:
    red, green, blue = colorsys.hsv_to_rgb(hue % 1.0, saturation, value)
    return round(red * 255), round(green * 255), round(blue * 255)


def _mix(one: Colour, other: Colour, share: float) -> Colour:
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(one, other, strict=True))
    return red, green, blue
