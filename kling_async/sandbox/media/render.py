"""Makes the files that customers download: a scene with its prompt on it, as a picture or as a video.

Everything is decided by the description (`Picture`, `Clip`): equal descriptions give equal files.
"""

from __future__ import annotations

import array
import functools
import io
import itertools
import math
import tempfile
import unicodedata
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import av
from PIL import Image, ImageDraw, ImageFont, ImageOps

from kling_async.sandbox.media.scene import Scene

if TYPE_CHECKING:
    from collections.abc import Iterator

    from av.audio.codeccontext import AudioCodecContext
    from av.audio.stream import AudioStream
    from av.container import OutputContainer
    from av.packet import Packet
    from av.video.stream import VideoStream

    from kling_async.sandbox.emulator.jobs import Clip, Picture

_Font: TypeAlias = ImageFont.FreeTypeFont | ImageFont.ImageFont

_FPS = 24
_SOUND_RATE = 8000  # samples a second. Divisible by 5, so that equal parts make a second
_SOUND_BITS = 24_000  # a second. With PyAV's 128 000, this chord takes the encoder five times as long
_LOUDNESS = 1500  # of 32767, for each of three notes
_CANVAS = 512  # px of the longer side up to which shapes are drawn. Larger pictures enlarge them, not the text
_TEXT_SIZES = (0.052, 0.042, 0.035, 0.029, 0.024, 0.02)  # of the shorter side. The largest that fits
_TEXT_HEIGHT = 0.42  # of the picture's height that the caption may take
_LEADING = 1.28  # height of a line in font sizes
_PIN = 0.2  # of the shorter side, for a reference image
_SMALL = 256  # px of the longer side up to which a video is encoded sooner than threads for it have begun
_TINY = 192  # px of the longer side of a video that is no more than a sign that there is one
_STEPS = (2, 6)  # frames that show the same, of a small and of a tiny video: drawing them costs more than encoding them
_LEGIBLE = 9  # px. Smaller text is not worth drawing
_FONT_FOLDERS = [
    "/usr/share/fonts",
    "/usr/local/share/fonts",
    "~/.fonts",
    "~/.local/share/fonts",
    "/Library/Fonts",
    "/System/Library/Fonts",
    "C:/Windows/Fonts",
]
_FONT_NAMES = [
    "notosanscjk",
    "notosanssc",
    "sourcehansans",
    "wqy",
    "droidsansfallback",
    "arialunicode",
    "pingfang",
    "msyh",
    "hiragino",
    "unifont",
    "notoemoji",
    "symbola",
    "seguiemj",
    "dejavusans.",
    "notosansregular",
    "arial.",
]
_UNASSIGNED = chr(0x10FFFF)  # a character that no font has: it is drawn as the box for missing ones
_INK = (255, 255, 255, 245)
_PANEL = (8, 10, 18, 118)

#: Encoders in order of preference, with container and options. Browsers play all of them.
#: Without "mbtree=0" one in ten files of x264 differs from its twins (measured: no other option is at fault).
_ENCODERS: tuple[tuple[str, str, dict[str, str]], ...] = (
    ("libx264", "mp4", {"preset": "veryfast", "crf": "23", "mbtree": "0"}),
    ("libopenh264", "mp4", {}),
    ("libvpx-vp9", "webm", {"deadline": "realtime", "cpu-used": "8", "crf": "34", "b": "0"}),
)


def draw_picture(picture: Picture, scale: float = 1.0) -> bytes:
    """A picture file of the size asked for, times `scale`."""
    size = _scaled(picture.width, scale), _scaled(picture.height, scale)
    shrink = min(1.0, _CANVAS / max(size))
    image = _shots(picture, max(1, round(size[0] * shrink)), max(1, round(size[1] * shrink)))
    if shrink < 1:
        image = image.resize(size, Image.Resampling.BICUBIC)
    caption, corner = _caption(picture.prompt, size)
    image.paste(caption, corner, caption)
    _pin(image, _pins(picture.references, size))
    file = io.BytesIO()
    options: dict[str, Any] = {"quality": picture.quality}
    if picture.format == "png":
        options = {"compress_level": 1}
    elif picture.format == "webp":
        options["method"] = 0
    image.save(file, picture.format, **options)
    return file.getvalue()


def draw_clip(clip: Clip, scale: float = 1.0) -> bytes:
    """A video file of the size asked for, times `scale`, and of the whole duration."""
    size = _scaled(clip.width, scale), _scaled(clip.height, scale)
    encoder, container, options = _encoder()
    with tempfile.TemporaryDirectory(prefix="kling-sandbox-") as folder:
        # A real file, because "faststart" (the index before the pictures) rewrites what was written.
        path = Path(folder) / f"clip.{container}"
        flags = {"movflags": "+faststart"} if container == "mp4" else {}
        with av.open(str(path), "w", format=container, options=flags) as output:
            stream = cast("VideoStream", output.add_stream(encoder, rate=_FPS, options=options))
            stream.width, stream.height = size
            stream.pix_fmt = "yuv420p"
            if max(size) <= _SMALL:
                stream.thread_count = 1
            sound = _sound_stream(output, container)
            for image in _frames(clip, size):
                output.mux(stream.encode(_frame(image)))
            output.mux(stream.encode())
            for packet in _sound(clip, sound):
                output.mux(packet)
        return path.read_bytes()


def _sound_stream(output: OutputContainer, container: str) -> AudioStream:
    """The sound track. Encoders of this kind are part of every build of PyAV."""
    codec = "aac" if container == "mp4" else "libopus"
    return cast("AudioStream", output.add_stream(codec, rate=_SOUND_RATE, layout="mono", bit_rate=_SOUND_BITS))


def _sound(clip: Clip, stream: AudioStream) -> Iterator[Packet[Any]]:
    """A quiet chord of three notes that the prompt decides."""
    for content, start, length in _encoded_sound(sum(clip.prompt.encode()) % 12, clip.seconds, stream.codec.name):
        packet: Packet[Any] = av.Packet(content)
        packet.stream = stream
        packet.time_base = Fraction(1, _SOUND_RATE)
        packet.pts = packet.dts = start
        packet.duration = length
        yield packet


@functools.lru_cache(maxsize=64)
def _encoded_sound(note: int, seconds: float, codec: str) -> tuple[tuple[bytes, int, int], ...]:
    """The packets of a chord, each with its start and duration in samples. Encoding takes as long as a tiny video."""
    encoder = cast("AudioCodecContext", av.CodecContext.create(codec, "w"))
    encoder.sample_rate, encoder.layout, encoder.bit_rate = _SOUND_RATE, "mono", _SOUND_BITS
    encoder.format = (encoder.codec.audio_formats or [av.AudioFormat("fltp")])[0]
    chunk = _SOUND_RATE // 5
    samples = _second_of_sound(note)
    packets: list[Packet[Any]] = []
    for index in range(math.ceil(seconds * _SOUND_RATE / chunk)):
        frame = av.AudioFrame(format="s16", layout="mono", samples=chunk)
        start = 2 * chunk * (index % 5)
        frame.planes[0].update(samples[start : start + 2 * chunk])
        frame.sample_rate = _SOUND_RATE
        frame.pts = index * chunk
        packets += encoder.encode(frame)
    packets += encoder.encode(None)
    return tuple((bytes(packet), packet.pts or 0, packet.duration or 0) for packet in packets)


@functools.cache
def _second_of_sound(note: int) -> bytes:
    """A second of a chord, of which all periods fit into a second, so that it can be repeated."""
    root = 110 * 2 ** (note / 12)
    tones = [math.tau * round(root * ratio) / _SOUND_RATE for ratio in (1, 1.25, 1.5)]
    return array.array(
        "h", [round(_LOUDNESS * sum(math.sin(index * tone) for tone in tones)) for index in range(_SOUND_RATE)]
    ).tobytes()


def clip_extension() -> str:
    """The container that this machine's encoders can fill: `mp4`, or `webm` without an H.264 encoder.

    Raises:
        RuntimeError: PyAV was built without any of the encoders.
    """
    return _encoder()[1]


@functools.cache
def _encoder() -> tuple[str, str, dict[str, str]]:
    for name, container, options in _ENCODERS:
        if name in av.codecs_available:
            return name, container, options
    wanted = ", ".join(name for name, *_ in _ENCODERS)
    raise RuntimeError(f"PyAV has none of the encoders {wanted}: install its binary wheel")


def _shots(picture: Picture, width: int, height: int) -> Image.Image:
    """The scene, or several of the same prompt side by side."""
    if picture.shots == 1:
        return Scene(picture.prompt, picture.seed, width, height, still=True).frame(0.3, 0.0)
    image = Image.new("RGB", (width, height))
    half = max(1, width // 2), max(1, height // 2)
    for shot in range(picture.shots):
        scene = Scene(picture.prompt, picture.seed + shot, width - half[0], height - half[1], still=True)
        image.paste(scene.frame(0.1 + 0.25 * shot, 0.0), (shot % 2 * half[0], shot // 2 * half[1]))
    return image


def _frames(clip: Clip, size: tuple[int, int]) -> Iterator[Image.Image]:
    width, height = size
    scene = Scene(clip.prompt, clip.seed, width, height)
    caption, corner = _caption(clip.prompt, size)
    pins = _pins(clip.references, size)
    bar = max(2, height // 120)
    count = round(clip.seconds * _FPS)
    small, tiny = _STEPS
    step = tiny if max(size) <= _TINY else small if max(size) <= _SMALL else 1
    for index in range(0, count, step):
        image = scene.frame(index / count, index / _FPS)
        image.paste(caption, corner, caption)
        _pin(image, pins)
        played = width * min(index + step, count) // count
        ImageDraw.Draw(image).rectangle((0, height - bar, played, height), fill=scene.accent)
        yield from itertools.repeat(image, min(step, count - index))


def _pins(references: tuple[bytes, ...], size: tuple[int, int]) -> list[Image.Image]:
    """The reference images with a white border, as they are pinned to the result."""
    side = max(4, round(min(size) * _PIN))
    border = max(1, side // 24)
    found = []
    for reference in references:
        with Image.open(io.BytesIO(reference)) as image:
            inner = image.convert("RGB").resize((side - 2 * border, side - 2 * border), Image.Resampling.BICUBIC)
        found.append(ImageOps.expand(inner, border, "white"))
    return found


def _pin(image: Image.Image, pins: list[Image.Image]) -> None:
    """Pin the reference images to the upper right corner, the first one outermost."""
    for number, pin in enumerate(pins, 1):
        gap = pin.height // 6
        image.paste(pin, (image.width - number * (pin.width + gap), gap))


def _frame(image: Image.Image) -> av.VideoFrame:
    frame: av.VideoFrame = av.VideoFrame.from_image(image)  # type: ignore[no-untyped-call]  # PyAV has no types here
    return frame


def _caption(text: str, size: tuple[int, int]) -> tuple[Image.Image, tuple[int, int]]:
    """The text on a dark pane, and where its corner goes."""
    text = _readable(text)
    width, height = size
    short = min(size)
    margin, padding = round(short * 0.05), round(short * 0.03)
    room = width - 2 * (margin + padding)
    for share in _TEXT_SIZES:
        points = max(_LEGIBLE, round(short * share))
        font = _Type(points)
        most = max(1, int(height * _TEXT_HEIGHT / (points * _LEADING)))
        lines = _wrapped(text, font, room, most)
        if len(lines) <= most:
            break
    else:
        lines = [*lines[: most - 1], lines[most - 1][:-1] + "\N{HORIZONTAL ELLIPSIS}"]
    wide = min(room, round(max(font.getlength(line) for line in lines)) + 1)
    tall = round(len(lines) * points * _LEADING)
    pane = Image.new("RGBA", (wide + 2 * padding, tall + 2 * padding))
    draw = ImageDraw.Draw(pane)
    draw.rounded_rectangle((0, 0, pane.width - 1, pane.height - 1), radius=padding, fill=_PANEL)
    for row, line in enumerate(lines):
        font.draw(draw, (padding, padding + row * points * _LEADING), line)
    return pane, (margin, height - margin - pane.height)


class _Type:
    """Sets text: each character in the first font that has it, Pillow's own or one of this machine.

    Args:
        points: The size in pixels.
    """

    def __init__(self, points: int) -> None:
        self._points = points

    def getlength(self, text: str) -> float:
        """How wide a text is, in pixels."""
        return sum(font.getlength(part) for part, font in self._parts(text))

    def draw(self, on: ImageDraw.ImageDraw, corner: tuple[float, float], text: str) -> None:
        """Draw a line of text, all of its fonts on one baseline."""
        x, y = corner
        for part, font in self._parts(text):
            if isinstance(font, ImageFont.FreeTypeFont):
                on.text((x, y + self._points), part, font=font, fill=_INK, anchor="ls")
            else:
                on.text((x, y), part, font=font, fill=_INK)
            x += font.getlength(part)

    def _parts(self, text: str) -> Iterator[tuple[str, _Font]]:
        for file, characters in itertools.groupby(text, key=_font_file):
            yield "".join(characters), _font(file, self._points)


@functools.lru_cache(maxsize=64)
def _font(file: str | None, points: int) -> _Font:
    return ImageFont.load_default(points) if file is None else ImageFont.truetype(file, points)


@functools.lru_cache(maxsize=4096)
def _font_file(char: str) -> str | None:
    """The font file that has the character. None if Pillow's own has it, or no font does."""
    if char.isascii() or _has(None, char):
        return None
    return next((file for file in _installed_fonts() if _has(file, char)), None)


@functools.lru_cache(maxsize=4096)
def _has(file: str | None, char: str) -> bool:
    try:
        font = _font(file, _LEGIBLE)
        return bytes(font.getmask(char)) != bytes(font.getmask(_UNASSIGNED))
    except (OSError, ValueError, UnicodeEncodeError):  # not a font after all, or one without such a size
        return False


def _readable(text: str) -> str:
    """The text as it can be set here. A symbol that no font has, such as an emoji, is written as its name.

    Where a letter is in no font of this machine, a sentence says so, in place of boxes without explanation.
    """
    found: list[str] = []
    lost = 0
    for char in text:
        kind = unicodedata.category(char)
        if kind[0] == "M" and found[-1:] == ["?"]:
            continue  # a mark on a letter that is lost
        if char.isascii() or char.isspace() or _font_file(char) is not None or _has(None, char):
            found.append(char)
        elif kind[0] == "S":
            found.append(f":{unicodedata.name(char, 'symbol').lower()}:")
        elif kind[0] in "LNP":  # joiners and variants have no picture
            found.append("?")
            lost += 1
    note = f" (no font of this machine has {lost} of these characters)" if lost else ""
    return "".join(found) + note


@functools.cache
def _installed_fonts() -> tuple[str, ...]:
    """The font files of this machine with the best coverage first: pan-Unicode, CJK, emoji, then the common ones."""
    files = [path for folder in _FONT_FOLDERS for path in Path(folder).expanduser().rglob("*.[to]t[cf]")]

    def rank(path: Path) -> int:
        name = path.name.lower().replace("-", "").replace(" ", "")
        return next((place for place, part in enumerate(_FONT_NAMES) if part in name), len(_FONT_NAMES))

    ranked = sorted(files, key=lambda path: (rank(path), "bold" in path.name.lower(), path.name))
    return tuple(str(path) for path in ranked if rank(path) < len(_FONT_NAMES))


def _wrapped(text: str, font: _Type, room: int, most: int) -> list[str]:
    """The text in lines no wider than `room`, broken inside words if need be. It ends soon after `most`."""
    lines = [""]
    for word in text.split():
        if len(lines) > most:
            break
        rest = word
        joined = f"{lines[-1]} {word}".strip()
        if font.getlength(joined) <= room:
            lines[-1] = joined
            continue
        while len(rest) > 1 and len(lines) <= most and font.getlength(rest[:room]) > room:
            fitting = max(1, _fitting(rest[:room], font, room))  # a character is a pixel wide at least
            lines.append(rest[:fitting])
            rest = rest[fitting:]
        lines.append(rest)
    return [line for line in lines if line] or [" "]


def _fitting(text: str, font: _Type, room: int) -> int:
    """How many characters of a text fit into the room."""
    fits, fails = 0, len(text) + 1
    while fails - fits > 1:
        middle = (fits + fails) // 2
        if font.getlength(text[:middle]) <= room:
            fits = middle
        else:
            fails = middle
    return fits


def _scaled(side: int, scale: float) -> int:
    """Scaled to an even number: half-resolution colour needs pairs of pixels."""
    return max(2, round(side * scale / 2) * 2)
