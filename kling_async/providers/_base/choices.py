"""What a form shows for a field: its values, each with label, hint, expected duration and price. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated, Any, get_args, get_origin

from pydantic import AfterValidator, ValidationError
from pydantic.fields import FieldInfo

from kling_async._scheduling.schedules import DurationPrior
from kling_async.providers._base.images import ImageRule
from kling_async.providers._base.price import Price

__all__ = ["Choice", "ImageInput", "choices_of", "image_inputs", "image_rule", "schema_with_images", "values_of"]

_MOST_VALUES = 64
_EIGHTY_PERCENT = 1.2815515655446004  # standard deviations from the median to the ends of the middle 80 %
_SECONDS_IN_HINTS = 90
_LABELS: Mapping[str, Mapping[Any, tuple[str, str]]] = {
    "aspect_ratio": {
        "16:9": ("Landscape (16:9)", "for video sites, television and slides"),
        "9:16": ("Portrait (9:16)", "for phones: Reels, Shorts, TikTok, stories"),
        "1:1": ("Square (1:1)", "for feeds and profile pictures"),
        "4:3": ("Landscape (4:3)", "for slides and older screens"),
        "3:4": ("Portrait (3:4)", "for posts and prints"),
        "3:2": ("Landscape (3:2)", "the shape of most photographs"),
        "2:3": ("Portrait (2:3)", "for posters and book covers"),
        "21:9": ("Wide (21:9)", "for cinema and banners"),
        "auto": ("Automatic", "the model or the image decides"),
    },
    "resolution": {
        "720p": ("Standard (720p)", "the fastest and cheapest"),
        "1080p": ("High (1080p)", "for most uses"),
        "4k": ("Ultra (4k)", "for large screens and prints"),
        "2k": ("High (2k)", "about 2 000 pixels a side"),
        "1k": ("Standard (1k)", "about 1 000 pixels a side"),
    },
    "mode": {"std": ("Standard", "faster and cheaper"), "pro": ("Professional", "higher quality")},
    "audio": {
        "off": ("Silent", ""),
        "native": ("With sound", "the model makes it"),
        "original": ("Sound of the video", "kept as it is"),
        False: ("Silent", ""),
        True: ("With sound", "the model makes it"),
    },
    "generate_audio": {False: ("Silent", ""), True: ("With sound", "the model makes it")},
    "output_format": {
        "png": ("PNG", "lossless"),
        "jpeg": ("JPEG", "small files"),
        "webp": ("WebP", "the smallest files"),
    },
}
"""Labels and hints of values that mean the same everywhere."""


@dataclass(frozen=True, slots=True)
class Choice:
    """One value of a field, as a form shows it.

    Attributes:
        value: The value.
        label: A short name, such as ``"Landscape (16:9)"``.
        hint: Its use, and the expected time and the relative price where these depend on the field.
        default: Whether it is the value that is used when none is given.
        seconds: How long a job with it takes, as documented: four of five jobs end between the two. None if it is not
            known.
        price: The expected price of a request with it. None if it is not known.
        factor: Its price relative to that of the default. None if one of them is not known.
    """

    value: Any
    label: str
    hint: str = ""
    default: bool = False
    seconds: tuple[float, float] | None = None
    price: Price | None = None
    factor: Decimal | None = None

    def describe(self) -> dict[str, Any]:
        """The choice as JSON values, without what is not known."""
        found = {
            "value": self.value,
            "label": self.label,
            "hint": self.hint or None,
            "default": self.default or None,
            "seconds": None if self.seconds is None else [round(self.seconds[0]), round(self.seconds[1])],
            "price": None if self.price is None else {"amount": str(self.price.amount), "unit": self.price.unit},
            "estimated": None if self.price is None or not self.price.estimated else True,
            "factor": None if self.factor is None else float(self.factor),
        }
        return {name: part for name, part in found.items() if part is not None}


@dataclass(frozen=True, slots=True)
class ImageInput:
    """What a field of images takes.

    Attributes:
        field: The field.
        most: Largest number of images.
        formats: Such as ``("jpeg", "png")``. The content decides, never a file's name.
        max_bytes: Largest size of one image.
        required: Whether the endpoint needs it.
        uniform: Whether URLs and inline images exclude each other in one request.
    """

    field: str
    most: int
    formats: tuple[str, ...]
    max_bytes: int
    required: bool = False
    uniform: bool = False


def image_rule(info: FieldInfo) -> ImageRule | None:
    """The rule that checks the images of a field. None if it holds none."""
    return next(_rules([info.annotation, *info.metadata]), None)


def _rules(parts: Sequence[Any]) -> Iterator[ImageRule]:
    for part in parts:
        if isinstance(part, AfterValidator):
            rule = getattr(part.func, "rule", part.func)
            if isinstance(rule, ImageRule):
                yield rule
        elif get_origin(part) is Annotated:
            yield from _rules([get_args(part)[0], *part.__metadata__])
        else:
            yield from _rules(get_args(part))


def image_inputs(fields: Mapping[str, FieldInfo], names: Sequence[str]) -> tuple[ImageInput, ...]:
    """What the fields of images take.

    Args:
        fields: All fields of a request class.
        names: Those that hold images.
    """
    found = []
    for name in names:
        if name in fields and (rule := image_rule(fields[name])) is not None:
            several = "Sequence" in str(fields[name].annotation)
            most = rule.most if several else 1
            required = fields[name].is_required()
            found.append(ImageInput(name, most, rule.formats, rule.max_bytes, required, rule.uniform and several))
    return tuple(found)


def schema_with_images(schema: dict[str, Any], inputs: Sequence[ImageInput]) -> None:
    """Add number, formats and bytes to the properties of a JSON schema."""
    for one in inputs:
        part = schema.get("properties", {}).get(one.field)
        if part is not None:
            if part.get("type") == "array":
                part["maxItems"] = one.most
            part |= {"x-formats": list(one.formats), "x-max-bytes": one.max_bytes}


def values_of(schema: Mapping[str, Any]) -> list[Any]:
    """The values that a property of a JSON schema allows, if they are few. Empty if any text or number will do."""
    found: list[Any] = []
    for part in (schema, *schema.get("anyOf", ())):
        found += part.get("enum", ())
        found += [part["const"]] if "const" in part else []
        low, high = part.get("minimum"), part.get("maximum")
        if part.get("type") == "integer" and low is not None and high is not None and high - low <= _MOST_VALUES:
            found += range(low, high + 1)
        if part.get("type") == "boolean":
            found += [True, False]
    return [value for value in found if value is not None]


def choices_of(
    name: str,
    candidates: Sequence[Any],
    labels: Mapping[Any, tuple[str, str]],
    probe: Callable[[Any], tuple[DurationPrior, Price | None] | None] | None,
    default: Any,
) -> tuple[Choice, ...]:
    """The values with all that is known about each.

    Args:
        name: The field.
        candidates: Its values.
        labels: Label and hint of values that mean something particular at the endpoint.
        probe: Duration and price of a request with a value, or None if the endpoint refuses it. If None instead of a
            function, nothing is known of them.
        default: The value that is used when none is given.
    """
    known = [(value, probe(value) if probe is not None else None) for value in candidates]
    kept = [(value, found) for value, found in known if found is not None or probe is None]
    usual = next((found for value, found in kept if value == default), None)
    if usual is None and probe is not None:
        usual = probe(default)  # None, where the endpoint decides
    base = usual[1] if usual is not None else None
    timed = name == "duration" or len({found[0] for _, found in kept if found is not None}) > 1
    made = []
    for value, found in kept:
        prior, price = found or (None, None)
        seconds = None if prior is None else _range(prior)
        factor = None
        if price is not None and base is not None and base.unit == price.unit and base.amount > 0:
            factor = (price.amount / base.amount).quantize(Decimal("0.01")).normalize()
        label, use = labels.get(value) or _LABELS.get(name, {}).get(value) or (_label(name, value), "")
        parts = [use, _spelled(seconds) if timed and seconds else "", _relative(factor)]
        hint = ", ".join(part for part in parts if part)
        made.append(Choice(value, label, hint, value == default, seconds, price, factor))
    return tuple(made)


def _range(prior: DurationPrior) -> tuple[float, float]:
    return prior.median**2 / prior.p90, prior.p90


def _label(name: str, value: Any) -> str:
    if isinstance(value, bool):
        return "Yes" if value else "No"
    if name == "duration":
        return f"{value} seconds"
    if name == "count":
        return "1 picture" if value == 1 else f"{value} pictures"
    if name == "model" and str(value).startswith("kling-"):
        return str(value).replace("-", " ").title()
    return str(value)


def _spelled(seconds: tuple[float, float]) -> str:
    low, high = seconds
    if high < _SECONDS_IN_HINTS:
        return f"usually {round(low)} to {round(high)} s"
    first, last = max(round(low / 60), 1), max(round(high / 60), 1)
    return f"usually {first} to {last} min" if first != last else f"usually about {first} min"


def _relative(factor: Decimal | None) -> str:
    if factor is None or factor == 1:
        return ""
    rounded = factor.quantize(Decimal("0.1")).normalize()
    words = {Decimal("0.5"): "half", Decimal(1): "", Decimal(2): "twice"}.get(rounded, f"{rounded:f} times")
    if not words:
        return "a little more" if factor > 1 else "a little less"
    return f"about {words} the price"


def probe_of(
    make: Callable[[Mapping[str, Any]], Any],
    given: Mapping[str, Any],
    name: str,
    read: Callable[[Any], tuple[DurationPrior, Price | None] | None],
) -> Callable[[Any], tuple[DurationPrior, Price | None] | None]:
    """A function that tells duration and price of a request with another value in one field."""

    def probe(value: Any) -> tuple[DurationPrior, Price | None] | None:
        try:
            return read(make({**given, name: value}))
        except ValidationError:
            return None

    return probe
