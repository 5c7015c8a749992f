"""`prepare_image`: makes what every endpoint takes of a picture, an upright JPEG or PNG of 8 bits a channel.

Pillow is loaded when it is needed. pillow-heif reads HEIC, and is loaded for such files alone.
"""

from __future__ import annotations

import io
import logging
import math
import re
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, Self

from kling_async._media.media_types import HEAD_BYTES, media_type

if TYPE_CHECKING:
    import os

    from PIL.Image import Image

__all__ = ["PreparedImage", "prepare_image"]

log = logging.getLogger("kling_async")
log.addHandler(logging.NullHandler())  # the program decides whether anything is shown

Format = Literal["jpeg", "png"]

_ORIENTATION = 0x0112  # the tag of EXIF
_QUALITY = 95  # of a JPEG: no difference is seen
_SMALLER_QUALITY = 88  # of one that must become smaller
_BITS_PER_SAMPLE = 258  # the tag of TIFF
_WHITE_16 = 0xFFFF
_MODES = frozenset({"RGB", "RGBA", "L", "LA"})
_WORST_STEP, _BEST_STEP = 0.5, 0.95  # of the sides, from one attempt to have few bytes to the next
_LOSSY = frozenset({"jpeg", "heic", "avif", "webp", "jpeg2000"})
_EXTRA = "which is not installed: pip install 'kling-async[images]'"
_URL = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)


class PreparedImage(bytes):
    """The content of a JPEG or PNG that `prepare_image` has made. It can be given wherever a request takes an image.

    It is those bytes. A copy or a pickle of it has the same attributes.

    Attributes:
        format: ``"jpeg"`` or ``"png"``.
        width: Its pixels across.
        height: Its pixels down.
        changes: What was done, in words, in order. Empty if the content is that of the file, byte for byte.
    """

    format: Format
    width: int
    height: int
    changes: tuple[str, ...]

    def __new__(
        cls,
        content: bytes,
        format: Format = "png",  # noqa: A002  # the word for it
        size: tuple[int, int] = (0, 0),
        changes: tuple[str, ...] = (),
    ) -> Self:
        made = super().__new__(cls, content)
        made.format, made.changes = format, changes
        made.width, made.height = size
        return made

    def __repr__(self) -> str:
        return f"<PreparedImage {self.describe()}>"

    def describe(self) -> str:
        """What it is and what was done, in one line: ``JPEG 2048x1536, 0.6 MiB: converted from HEIC to JPEG``."""
        done = "; ".join(self.changes) or "nothing was changed"
        return f"{self.format.upper()} {self.width}x{self.height}, {_amount(len(self))}: {done}"


def prepare_image(
    image: str | os.PathLike[str] | bytes | BinaryIO | Image,
    *,
    max_side: int | None = None,
    max_bytes: int | None = None,
) -> PreparedImage:
    """Make a JPEG or PNG of a picture, which every endpoint takes as a reference image.

    A photo is turned upright, as its EXIF data says. HEIC, AVIF, TIFF, BMP, WEBP, GIF and all else that Pillow reads is
    converted: to JPEG, or to PNG where nothing may be lost. CMYK and other colours become RGB, and 16 bits become 8. It
    is made smaller only if you say so. A JPEG or PNG that needs nothing of this keeps its content, byte for byte.
    What was done is in ``PreparedImage.changes``, and in the log at level INFO.

    The whole picture is decoded, which takes a moment and finds files that are not complete. It blocks: on an event
    loop, call ``await asyncio.to_thread(prepare_image, path)``. Needs the extra ``images`` (Pillow, pillow-heif).

    Args:
        image: A path (``~`` is your home directory), the content of a file, an open binary file, or a Pillow image.
        max_side: The most pixels of the longer side. A larger picture is scaled down.
        max_bytes: The most bytes of the content, such as ``10 * 1024**2``. A larger one is compressed, and then scaled
            down.

    Raises:
        ValueError: It is no image that can be read, it is not complete, or a limit is not a number above 0.
        TypeError: It is of another type.
        OSError: The file cannot be read.
        ImportError: Pillow, or pillow-heif for a HEIC, is not installed.
    """
    limits: dict[str, Any] = {"max_side": max_side, "max_bytes": max_bytes}
    for name, limit in limits.items():
        if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 1):
            raise ValueError(f"prepare_image({name}=...) takes a whole number above 0, or None, not {limit!r:.40}")
    try:
        import PIL  # noqa: F401, PLC0415  # an optional extra
    except ModuleNotFoundError as error:
        raise ImportError(f"prepare_image needs Pillow, {_EXTRA}") from error
    label, found = _content_of(image)
    prepared = _Picture(label, found).prepared(max_side, max_bytes)
    log.info("%s: %s", label, prepared.describe(), extra={"event": "image_prepared"})
    return prepared


def _content_of(image: Any) -> tuple[str, bytes | Image]:
    """A name for messages, and the content of the file, or the Pillow image.

    Raises:
        TypeError: It is nothing that can hold an image.
        ValueError: It is the address of an image, or no regular file.
        OSError: The file cannot be read.
    """
    if isinstance(image, bytes | bytearray | memoryview):
        return "the image", bytes(image)
    if callable(getattr(image, "getbands", None)):
        return "the image", image
    if callable(getattr(image, "read", None)):
        content = image.read()
        if not isinstance(content, bytes):
            raise TypeError("the file is open as text; open it with mode 'rb'")
        return "the image", content
    if isinstance(image, str) and _URL.match(image):
        raise ValueError(f"{image!r:.80} is a URL, and nothing is fetched; give the URL itself to the request")
    if isinstance(image, str) and image.startswith("data:"):
        raise ValueError("the image is a data URI; give its decoded bytes")
    if isinstance(image, str) or hasattr(image, "__fspath__"):
        path = Path(image).expanduser()
        if path.exists() and not path.is_file():  # to open a pipe or a device may block for ever
            raise ValueError(f"{path} is not a regular file; an image file is needed")
        return str(path), path.read_bytes()
    raise TypeError(
        "prepare_image takes a path, the bytes of a file, an open binary file or a Pillow image, "
        f"not an object of type {type(image).__name__}"
    )


class _Picture:
    """A picture under preparation: what it is now, and what was done.

    Args:
        label: Names it in messages.
        found: The content of the file, or a Pillow image.
    """

    def __init__(self, label: str, found: bytes | Image) -> None:
        self._label = label
        self._changes: list[str] = []
        self._content = found if isinstance(found, bytes) else None
        if isinstance(found, bytes):
            self._source = self._known_format(found)
            self._image = self._opened(found)
        else:
            self._source = _format(found)
            self._image = found.copy()

    def prepared(self, max_side: int | None, max_bytes: int | None) -> PreparedImage:
        """The picture as it is to be sent."""
        content, image = self._content, self._image
        self._take_first_frame()
        self._turn_upright()
        self._reduce_depth()
        if (
            content is not None
            and not self._changes
            and self._source in {"jpeg", "png"}
            and image.mode in _MODES | {"P", "1"}
            and (max_side is None or max(image.size) <= max_side)
            and (max_bytes is None or len(content) <= max_bytes)
        ):
            return PreparedImage(content, "jpeg" if self._source == "jpeg" else "png", image.size)
        self._convert_colours()
        if max_side is not None and max(self._image.size) > max_side:
            self._scale(max_side)
        target: Format = "jpeg" if self._source in _LOSSY and not _has_alpha(self._image) else "png"
        made = self._encoded(target)
        if max_bytes is not None and len(made) > max_bytes:
            target = "png" if _has_alpha(self._image) else "jpeg"
            made = self._smaller(target, made, max_bytes)
        if self._source not in {"", target}:
            self._changes.insert(0, f"converted from {self._source.upper()} to {target.upper()}")
        return PreparedImage(made, target, self._image.size, tuple(self._changes))

    def _known_format(self, content: bytes) -> str:
        if not content:
            raise ValueError(f"{self._label} is empty; if it is an open file that was just written, call seek(0) first")
        known = media_type(content[:HEAD_BYTES])
        if known is not None and known.name == "svg":
            raise ValueError(f"{self._label} is an SVG, which has no pixels; render it to a PNG first")
        if known is not None and known.kind != "image":
            raise ValueError(f"{self._label} is {known.kind} ({known.name.upper()}), not an image")
        return known.name if known is not None else ""

    def _opened(self, content: bytes) -> Image:
        from PIL import Image, UnidentifiedImageError  # noqa: PLC0415  # an optional extra

        heic = self._source == "heic"
        try:
            image = _opened_heic(content, self._label) if heic else Image.open(io.BytesIO(content))
            image.load()
        except ImportError:
            raise
        except UnidentifiedImageError:
            kind = f"a {self._source.upper()} that" if self._source else "no image that"
            raise ValueError(f"{self._label} is {kind} Pillow can{'not' if self._source else ''} read") from None
        except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
            raise ValueError(f"{self._label} has more pixels than PIL.Image.MAX_IMAGE_PIXELS allows: {error}") from None
        except Exception as error:  # of a decoder: OSError, SyntaxError, struct.error, EOFError and others
            raise ValueError(f"{self._label} is damaged or not complete: {error}") from error
        self._source = self._source or _format(image)
        return image

    def _take_first_frame(self) -> None:
        frames = getattr(self._image, "n_frames", 1)
        if frames > 1 and self._source != "jpeg":  # a phone's JPEG may have further pictures behind the first
            self._changes.append(f"the first of {frames} frames taken")

    def _turn_upright(self) -> None:
        from PIL import ImageOps  # noqa: PLC0415  # an optional extra

        orientation = self._image.getexif().get(_ORIENTATION)
        if orientation in range(2, 9):  # 1 is upright, and all else is not defined
            self._image = ImageOps.exif_transpose(self._image)
            self._changes.append(f"turned upright, as its EXIF orientation {orientation} says")

    def _reduce_depth(self) -> None:
        """Reduce 16 bits a channel to 8."""
        mode = self._image.mode
        if mode == "F":
            raise ValueError(f"{self._label} has pixels of floating point; convert them to 8 bits first")
        if mode == "I" or mode.startswith("I;16"):
            whole: Any = self._image.convert("I")
            darkest, brightest = whole.getextrema()
            if darkest < 0 or brightest > _WHITE_16:
                raise ValueError(f"{self._label} has pixels of 32 bits; convert them to 8 bits first")
            self._image = whole.point(lambda value: value * (1 / 256)).convert("L")
        elif not self._is_deep():
            return
        self._changes.append("reduced from 16 to 8 bits a channel")

    def _is_deep(self) -> bool:
        """Whether the file has 16 bits a channel, which Pillow has reduced to 8 while it read."""
        if self._source == "png":
            return (self._content or b"")[24:25] == b"\x10"  # where its header has the depth
        depth = getattr(self._image, "tag_v2", {}).get(_BITS_PER_SAMPLE, ())
        return 16 in (depth if isinstance(depth, tuple) else (depth,))  # noqa: PLR2004  # bits

    def _convert_colours(self) -> None:
        """Convert to sRGB what has other colours. What is written has no profile."""
        image = self._image
        profile = image.info.get("icc_profile")
        converted = _of_profile(image, profile) if profile else None
        if converted is not None:
            self._image = converted
            self._changes.append(f"colours converted from {image.mode} with a profile to sRGB")
        elif image.mode not in _MODES:
            self._image = image.convert("RGBA" if image.has_transparency_data else "RGB")
            if image.mode not in {"P", "PA", "1", "RGBX", "RGBa"}:
                self._changes.append(f"colours converted from {image.mode} to RGB")
        if self._image.mode in {"RGBA", "LA"} and not _has_alpha(self._image):
            self._image = self._image.convert("RGB" if self._image.mode == "RGBA" else "L")

    def _scale(self, side: int) -> None:
        before, self._image = self._image.size, _scaled(self._image, side)
        self._changes.append(f"scaled down from {_size(before)} to {_size(self._image.size)}")

    def _smaller(self, target: Format, made: bytes, most: int) -> bytes:
        """Compress it, and scale it down if that is not enough."""
        whole, before = self._image, len(made)
        made = self._encoded(target, _SMALLER_QUALITY)
        while len(made) > most:
            if max(self._image.size) == 1:
                raise ValueError(f"{self._label} cannot be made as small as {most} bytes")
            step = min(_BEST_STEP, max(_WORST_STEP, math.sqrt(most / len(made))))
            self._image = _scaled(whole, max(1, int(max(self._image.size) * step)))
            made = self._encoded(target, _SMALLER_QUALITY)
        scaled = f", scaled down from {_size(whole.size)} to {_size(self._image.size)}"
        self._changes.append(
            f"compressed from {_amount(before)} to {_amount(len(made))}{scaled * (self._image.size != whole.size)}"
        )
        return made

    def _encoded(self, target: Format, quality: int = _QUALITY) -> bytes:
        written = io.BytesIO()
        if target == "jpeg":
            self._image.save(written, "JPEG", quality=quality, icc_profile=None)
        else:
            self._image.save(written, "PNG", icc_profile=None)
        return written.getvalue()


def _opened_heic(content: bytes, label: str) -> Image:
    try:
        from pillow_heif import HeifImageFile  # noqa: PLC0415  # an optional extra
    except ModuleNotFoundError as error:
        raise ImportError(f"{label} is a HEIC, which needs pillow-heif, {_EXTRA}") from error
    made: Image = HeifImageFile(io.BytesIO(content))  # type: ignore[no-untyped-call]  # it has no types
    return made


def _format(image: Image) -> str:
    """The format of the file that an image was read from. Empty if there was none."""
    name = (image.format or "").lower()
    return {"mpo": "jpeg", "heif": "heic"}.get(name, name)


def _of_profile(image: Image, profile: bytes) -> Image | None:
    """The picture in sRGB. None if its profile is that one, or cannot be used."""
    from PIL import ImageCms  # noqa: PLC0415  # an optional extra

    with suppress(ImageCms.PyCMSError, OSError, ValueError):
        found = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if "srgb" in ImageCms.getProfileDescription(found).lower():
            return None
        if image.mode not in {"RGB", "RGBA", "CMYK", "L", "LAB"}:
            image = image.convert("RGBA" if image.has_transparency_data else "RGB")
        into = "RGBA" if image.mode == "RGBA" else "RGB"
        return ImageCms.profileToProfile(image, found, ImageCms.createProfile("sRGB"), outputMode=into)
    return None


def _has_alpha(image: Image) -> bool:
    """Whether some of it is transparent."""
    if image.mode not in {"RGBA", "LA"}:
        return image.has_transparency_data
    least: Any = image.getchannel("A").getextrema()
    return bool(least[0] < 255)  # noqa: PLR2004  # opaque


def _scaled(image: Image, side: int) -> Image:
    made = image.copy()
    made.thumbnail((side, side))
    return made


def _size(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"


def _amount(size: int) -> str:
    return f"{size / 1024:.0f} KiB" if size < 1024 * 1024 else f"{size / 1024 / 1024:.1f} MiB"
