"""The requests that Runware serves."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self, TypeAlias

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from kling_async._exchange.urls import is_secure
from kling_async.providers._base.images import NO_IMAGES, ImageRule, References, sniff
from kling_async.providers._base.request import Prompt, Request, as_number, plain_text

__all__ = ["CONSTANTS", "FORMATS", "SIZES", "Image", "ImageO3", "UploadEndpoint", "bare_image", "safety_mode"]

_AIR = "klingai:kling-image@o3"
CONSTANTS = {"taskType": "imageInference", "model": _AIR}

Resolution: TypeAlias = Literal["1k", "2k", "4k"]
ImageModel: TypeAlias = Literal["klingai:kling-image@3", "klingai:kling-image@o3", "klingai:kling-image@o1"]
AspectRatio: TypeAlias = Literal["1:1", "3:2", "2:3", "4:3", "3:4", "16:9", "9:16", "21:9"]

# runware.ai/docs/models/klingai-image-o3: the wide ones. The tall ones are three of them turned.
_WIDE: Mapping[str, Mapping[str, tuple[int, int]]] = {
    "1k": {"1:1": (1024, 1024), "3:2": (1248, 832), "4:3": (1168, 880), "16:9": (1360, 768), "21:9": (1552, 656)},
    "2k": {"1:1": (2048, 2048), "3:2": (2496, 1664), "4:3": (2336, 1760), "16:9": (2720, 1536), "21:9": (3104, 1312)},
    "4k": {"1:1": (4096, 4096), "3:2": (4992, 3328), "4:3": (4736, 3520), "16:9": (5440, 3072), "21:9": (6272, 2688)},
}
SIZES: Mapping[tuple[str, str], tuple[int, int]] = {
    **{(tier, ratio): size for tier, row in _WIDE.items() for ratio, size in row.items()},
    **{
        (tier, tall): row[wide][::-1]
        for tier, row in _WIDE.items()
        for wide, tall in (("3:2", "2:3"), ("4:3", "3:4"), ("16:9", "9:16"))
    },
}
_PAIRS = {size: name for name, size in SIZES.items()}
FORMATS = {"jpeg": "JPG", "png": "PNG", "webp": "WEBP"}


def _our_format(value: Any) -> Any:
    return next((ours for ours, theirs in FORMATS.items() if value == theirs), value)


def _secure(value: str) -> str:
    if not is_secure(plain_text(value)):
        raise ValueError("the upload endpoint must be an https:// URL (http:// only to this machine)")
    return value


UploadEndpoint: TypeAlias = Annotated[str, AfterValidator(_secure)]
"""Where Runware sends the files."""


class ImageO3(Request):
    """One to twenty pictures by Kling Image O3.

    The size is given as `width` and `height`, or as `resolution` and `aspect_ratio`. Each pair follows from the other.
    With neither it is 1024 x 1024 (``1k``, ``1:1``), for Runware documents no default.

    A task object of Runware's own JSON validates too. Its ``taskType`` and ``model`` must be this endpoint's, and its
    ``taskUUID`` is dropped: every purchase gets a fresh one.

    Source: ``runware.ai/docs/models/klingai-image-o3``.
    """

    endpoint: ClassVar[str] = "runware/image-o3"
    wire_names: ClassVar[Mapping[str, str]] = {
        "positivePrompt": "prompt",
        "numberResults": "count",
        "outputType": "output_type",
        "outputFormat": "output_format",
        "outputQuality": "output_quality",
        "uploadEndpoint": "upload_endpoint",
        "includeCost": "include_cost",
        "deliveryMethod": "delivery",
        "webhookURL": "callback_url",
    }

    prompt: Prompt = Field(description="What the pictures show. 1 to 2 500 characters.")
    references: Annotated[References, AfterValidator(ImageRule(most=10, uuids=True))] = Field(
        default=NO_IMAGES,
        description="Reference images: at most 10, JPEG, PNG or WEBP, 10 MiB each. Also the UUID of an image that was "
        "uploaded to Runware.",
    )
    width: int = Field(
        default=1024, description="Width in pixels. Together with height one of the 24 documented pairs."
    )
    height: int = Field(
        default=1024, description="Height in pixels. Together with width one of the 24 documented pairs."
    )
    resolution: Resolution = Field(
        default="1k",
        description="Size of a picture: 1k, 2k or 4k (about 1 000, 2 000 or 4 000 pixels a side). In place of width "
        "and height.",
    )
    aspect_ratio: AspectRatio = Field(
        default="1:1", description="Width to height. With resolution, in place of width and height."
    )
    count: int = Field(default=1, ge=1, le=20, description="Number of pictures, 1 to 20. Each has its own seed.")
    output_type: Literal["URL", "base64Data", "dataURI"] = Field(
        default="URL",
        description="URL, or the pictures themselves in every answer (base64Data, dataURI). Then jobs cannot be polled "
        "together, so it is for few pictures.",
    )
    output_format: Annotated[Literal["jpeg", "png", "webp"], BeforeValidator(_our_format)] = Field(
        default="jpeg", description="File format of the pictures. Runware's JPG, PNG and WEBP are accepted too."
    )
    output_quality: int = Field(default=95, ge=20, le=99, description="Quality of the compression, 20 to 99.")
    upload_endpoint: UploadEndpoint | None = Field(
        default=None, description="Presigned https URL to which Runware sends the pictures as raw bytes with PUT."
    )
    safety: Literal["none", "fast"] = Field(
        default="none",
        description="With fast, Runware checks the pictures for unsafe content. The result is in Artifact.flagged.",
    )
    ttl: Annotated[int, Field(ge=60)] | None = Field(
        default=None,
        description="Seconds for which the URLs of the pictures work, at least 60. Only with output type URL.",
    )
    include_cost: bool = Field(default=True, description="Whether Runware reports the cost of the job.")
    delivery: Literal["async", "sync"] = Field(
        default="async",
        description="With async, the submission is accepted at once and the job is polled. With sync, the submission "
        "waits for the pictures.",
    )

    @property
    def air(self) -> str:
        """The model, by Runware's own name."""
        return _AIR

    @classmethod
    def _constants(cls) -> Mapping[str, str]:
        """What a task object of Runware's own JSON must have, where it has it."""
        return CONSTANTS

    @classmethod
    def translate(cls, data: dict[str, Any]) -> dict[str, Any]:
        """Runware's own JSON in our field names, and whichever form of the size was not given."""
        for name, constant in cls._constants().items():
            given = data.pop(name, constant)
            if given != constant:
                raise ValueError(f"{name} is {given!r:.60}, but this is a request for {constant!r}")
        data.pop("taskUUID", None)
        inputs = data.pop("inputs", None)
        if inputs is not None:
            if "references" in data:
                raise ValueError("'inputs' and 'references' are the same field; give one of them")
            data["references"] = _referenced(inputs)
        if isinstance(data.get("safety"), Mapping):
            data["safety"] = safety_mode(data["safety"])
        return _sized(super().translate(data))

    @model_validator(mode="after")
    def _only_urls_expire(self) -> Self:
        if self.ttl is not None and self.output_type != "URL":
            raise ValueError(f"ttl is for output type URL; {self.output_type} comes inline and does not expire")
        return self

    def __repr_args__(self) -> Any:
        """Fields as shown in a repr: the upload address without its signature."""
        for name, value in super().__repr_args__():
            yield name, value.partition("?")[0] if name == "upload_endpoint" else value


class Image(ImageO3):
    """One to twenty pictures by a Kling image model at Runware, chosen with `model`.

    The fields are those of `ImageO3`. Image O1 and Image 3.0 make 1k and 2k, and Image O3 makes 4k too. Unverified: the
    largest number of pictures of O1 and 3.0. The limit of O3 is used.

    Source: ``runware.ai/docs/models/klingai-image-o1``, ``klingai-image-3-0`` and ``klingai-image-o3``.
    """

    endpoint: ClassVar[str] = "runware/image"

    model: ImageModel = Field(
        default="klingai:kling-image@3",
        description="The model, by its AIR: klingai:kling-image@3 (Image 3.0), klingai:kling-image@o3 (Image 3.0 Omni) "
        "or klingai:kling-image@o1 (Image O1).",
    )

    @property
    def air(self) -> str:
        """The model, by Runware's own name."""
        return self.model

    @classmethod
    def _constants(cls) -> Mapping[str, str]:
        return {"taskType": CONSTANTS["taskType"]}

    @model_validator(mode="after")
    def _only_o3_makes_4k(self) -> Self:
        if self.resolution == "4k" and self.model != _AIR:
            raise ValueError(f"resolution is 4k; {self.model} makes 1k and 2k, and {_AIR} makes 4k")
        return self


def _referenced(inputs: object) -> list[Any]:
    """The images of a task's ``inputs``."""
    if not isinstance(inputs, Mapping) or not inputs.keys() <= {"referenceImages"}:
        raise ValueError("inputs is an object with one field, referenceImages")
    images = inputs.get("referenceImages") or []
    if not isinstance(images, list | tuple):
        kind = type(images).__name__
        raise ValueError(f"inputs.referenceImages must be a list, not {kind}")  # noqa: TRY004  # pydantic reports these
    return [bare_image(image) for image in images]


def bare_image(value: Any) -> Any:
    """A reference that is bare base64 of an image, as Runware takes it, as the image, any other as it is."""
    try:
        content = base64.b64decode(value, validate=True)
    except (binascii.Error, TypeError, ValueError):
        return value
    return content if sniff(content[:16]) else value


def safety_mode(safety: Mapping[str, Any]) -> str:
    """Runware's ``safety`` object as our one word: ``checkContent`` means mode ``fast``."""
    if not safety.keys() <= {"checkContent", "mode"}:
        raise ValueError("safety is an object with the fields checkContent and mode")
    check, mode = safety.get("checkContent"), safety.get("mode")
    if mode is None:
        return "fast" if check else "none"
    if check is not None and check is not (mode != "none"):
        raise ValueError(f"safety.checkContent {check!r} and safety.mode {mode!r} contradict each other; give one")
    return str(mode)


def _sized(data: dict[str, Any]) -> dict[str, Any]:
    """The fields with both forms of the size. What is of a wrong type or name is left for its own field to refuse."""
    data = {
        k: v for k, v in data.items() if v is not None or k not in {"width", "height", "resolution", "aspect_ratio"}
    }
    if ("width" in data) != ("height" in data):
        raise ValueError("width and height belong together; give both, or resolution and aspect_ratio")
    if "width" in data:
        pair = (as_number(data["width"]), as_number(data["height"]))
        if not all(isinstance(side, int | float) for side in pair):
            return data
        if pair not in _PAIRS:
            known = "; ".join(
                f"{tier}: {', '.join(f'{w}x{h}' for (t, _), (w, h) in SIZES.items() if t == tier)}" for tier in _WIDE
            )
            raise ValueError(f"{pair[0]}x{pair[1]} is not a size of this model; there are {known}")
        for name, value in zip(("resolution", "aspect_ratio"), _PAIRS[pair], strict=True):
            if data.setdefault(name, value) != value:
                raise ValueError(
                    f"{pair[0]}x{pair[1]} has {name} {value}, but {name} says {data[name]!r:.40}; "
                    "give one form of the size"
                )
    else:
        size = SIZES.get((str(data.get("resolution", "1k")), str(data.get("aspect_ratio", "1:1"))))
        if size is not None:
            data["width"], data["height"] = size
    return data
