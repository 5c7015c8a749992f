"""What an endpoint can make of a portable request, as data; and the translation into its own request. Pure.

A provider lists its offers in ``Provider.portable``. An offer is one endpoint with one model. It lists which values it
can serve exactly, and how its own request is written. `translate` compares a request with these values. A request that
passes is written, and validated as any other, so a rule that only the endpoint's own request knows counts too. What
does not pass is not offered, and the reasons are data (`Unmet`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from kling_async._errors import ConfigurationError, NotOffered, Remedy
from kling_async.providers import find_provider, load_providers
from kling_async.providers._base.field_errors import describe_problem
from kling_async.providers._base.provider import Provider
from kling_async.providers._base.request import Request

if TYPE_CHECKING:
    from kling_async.providers._base.portable import Image, PortableRequest, Video

__all__ = [
    "ImageOffer",
    "Offer",
    "Option",
    "Unmet",
    "VideoOffer",
    "models_of",
    "nearest_change",
    "not_offered",
    "options",
    "served_by",
    "translated",
]

CURRENT_MODELS = frozenset({"kling-3.0", "kling-3.0-omni", "kling-image-3.0", "kling-image-3.0-omni"})
"""The models that a request without a model may be made by: the newest generation."""
VIDEO_RATIOS = ("16:9", "9:16", "1:1")
IMAGE_RATIOS = ("1:1", "16:9", "9:16", "4:3", "3:4", "3:2", "2:3", "21:9")
_MENTION = re.compile(r"@image_([1-9])")
_CHANGES = 3  # fields that a proposed change may have


@dataclass(frozen=True, slots=True)
class Unmet:
    """Why an offer cannot serve a request: one field of it.

    Attributes:
        field: The field of the portable request.
        reason: What is asked for, and what there is.
        nearest: The value that would be served, where that is known. Only then `changeable` is true.
        changeable: Whether there is such a value.
    """

    field: str
    reason: str
    nearest: Any = None
    changeable: bool = False


@dataclass(frozen=True, slots=True)
class VideoOffer:
    """One model at one endpoint, for `Video`.

    Attributes:
        request: The endpoint's request class.
        model: The model's name in the common vocabulary.
        write: The fields of the endpoint's own request that mean the same as the portable one, besides the prompt.
        durations: Seconds.
        resolutions: Values of `Video.resolution`.
        aspect_ratios: Values of `Video.aspect_ratio`. They do not matter where a first frame decides.
        audio: Whether it makes silent clips (False), clips with sound (True), or both.
        first_frame: Whether it takes a first frame.
        last_frame: Whether it takes a last frame.
        references: How many reference images it takes.
        least_references: How many it needs.
        negative_prompt: Whether it takes one.
        mention: How its prompt names the first reference image, with ``{}`` for the number. None if that is not known.
    """

    request: type[Request]
    model: str
    write: Callable[[Video], Mapping[str, Any]]
    durations: Sequence[int]
    resolutions: Sequence[str]
    aspect_ratios: Sequence[str] = VIDEO_RATIOS
    audio: Sequence[bool] = (False,)
    first_frame: Literal["no", "optional", "required"] = "no"
    last_frame: bool = False
    references: int = 0
    least_references: int = 0
    negative_prompt: bool = False
    mention: str | None = None

    def unmet(self, wanted: Video) -> list[Unmet]:
        """Return what it cannot serve. Empty: nothing, as far as these values say."""
        found = [
            *_model(self, wanted),
            *_one_of("duration", wanted.duration, self.durations),
            *_one_of("resolution", wanted.resolution, self.resolutions),
            *_one_of("audio", wanted.audio, self.audio),
        ]
        if wanted.first_frame is None:
            found += _one_of("aspect_ratio", wanted.ratio, self.aspect_ratios) if self.aspect_ratios else []
            if self.first_frame == "required":
                found.append(Unmet("first_frame", "a first frame is needed"))
        elif self.first_frame == "no":
            found.append(Unmet("first_frame", "no first frame is taken", None, changeable=True))
        if wanted.last_frame is not None and not self.last_frame:
            found.append(Unmet("last_frame", "no last frame is taken", None, changeable=True))
        return [*found, *_inputs(self, wanted)]


@dataclass(frozen=True, slots=True)
class ImageOffer:
    """One model at one endpoint, for `Image`.

    Attributes:
        request: The endpoint's request class.
        model: The model's name in the common vocabulary.
        write: The fields of the endpoint's own request that mean the same as the portable one, besides the prompt.
        resolutions: Values of `Image.resolution`.
        aspect_ratios: Values of `Image.aspect_ratio`.
        count: The largest number of pictures.
        references: How many reference images it takes.
        least_references: How many it needs.
        negative_prompt: Whether it takes one.
        mention: How its prompt names the first reference image, with ``{}`` for the number. None if that is not known.
    """

    request: type[Request]
    model: str
    write: Callable[[Image], Mapping[str, Any]]
    resolutions: Sequence[str]
    aspect_ratios: Sequence[str] = IMAGE_RATIOS
    count: int = 1
    references: int = 0
    least_references: int = 0
    negative_prompt: bool = False
    mention: str | None = None

    def unmet(self, wanted: Image) -> list[Unmet]:
        """Return what it cannot serve. Empty: nothing, as far as these values say."""
        return [
            *_model(self, wanted),
            *_one_of("count", wanted.count, range(1, self.count + 1)),
            *_one_of("resolution", wanted.resolution, self.resolutions),
            *_one_of("aspect_ratio", wanted.aspect_ratio, self.aspect_ratios),
            *_inputs(self, wanted),
        ]


Offer: TypeAlias = VideoOffer | ImageOffer


@dataclass(frozen=True, slots=True)
class Option:
    """One endpoint, and what it makes of a portable request.

    Attributes:
        endpoint: Its full name.
        model: The model, by its common name.
        request: The endpoint's own request. None if it cannot serve the portable one.
        unmet: Why not.
        offer: What it offers.
    """

    endpoint: str
    model: str
    request: Request | None
    unmet: tuple[Unmet, ...] = ()
    offer: Offer | None = field(default=None, repr=False, compare=False)

    @property
    def provider(self) -> str:
        """The provider's name."""
        return self.endpoint.partition("/")[0]

    @property
    def reason(self) -> str:
        """Why it cannot serve the request, in a clause."""
        return "; ".join(one.reason for one in self.unmet)


def models_of(kind: str) -> list[str]:
    """The models that some provider offers for ``"video"`` or ``"image"``, the newest first."""
    wanted = VideoOffer if kind == "video" else ImageOffer
    offers = [offer for maker in load_providers() for offer in maker.portable if isinstance(offer, wanted)]
    found = {offer.model: None for offer in offers}  # without repetitions
    return sorted(found, key=lambda model: model not in CURRENT_MODELS)


def options(wanted: PortableRequest, providers: Iterable[Provider | type[Provider]]) -> list[Option]:
    """Return what each endpoint makes of a portable request: those that can serve it, then the others.

    Of several models at one endpoint it is the first that can serve the request, or the one that comes nearest to it.
    Endpoints that make something else are left out.
    """
    kind = VideoOffer if wanted.endpoint == "video" else ImageOffer
    found: dict[str, Option] = {}
    for provider in providers:
        for offer in provider.portable:
            if isinstance(offer, kind):
                option, known = _option(wanted, offer), found.get(offer.request.endpoint)
                if known is None or (known.request is None and _nearness(option) < _nearness(known)):
                    found[option.endpoint] = option
    return sorted(found.values(), key=lambda option: option.request is None)


def _nearness(option: Option) -> tuple[int, bool, int]:
    fields = {one.field for one in option.unmet}
    return len(fields), "model" in fields, sum(not one.changeable for one in option.unmet)


def _option(wanted: PortableRequest, offer: Any) -> Option:
    unmet = offer.unmet(wanted)
    request = None if unmet else translate(wanted, offer)
    if isinstance(request, list):
        request, unmet = None, request
    return Option(offer.request.endpoint, offer.model, request, tuple(unmet), offer)


def translate(wanted: PortableRequest, offer: Any) -> Request | list[Unmet]:
    """Return the endpoint's own request, or what its own rules do not allow."""
    prompt = wanted.prompt
    if offer.mention is not None:
        prompt = _MENTION.sub(lambda found: offer.mention.format(found[1]), prompt)
    fields = {"prompt": prompt, **offer.write(wanted)}
    if wanted.callback_url is not None:
        fields["callback_url"] = wanted.callback_url
    try:
        request: Request = offer.request.model_validate(fields)
    except ValidationError as error:
        return [
            Unmet(str(line["loc"][0]) if line["loc"] else "request", _words(line))
            for line in error.errors(include_url=False)
        ]
    return request


def _words(line: ErrorDetails) -> str:
    return f"{line['loc'][0]}: {describe_problem(line)}" if line["loc"] else describe_problem(line)


def _model(offer: Offer, wanted: Any) -> list[Unmet]:
    if wanted.model == offer.model or (wanted.model is None and offer.model in CURRENT_MODELS):
        return []
    asked = f"model is {wanted.model}" if wanted.model else "no model is named"
    return [Unmet("model", f"{asked}; it makes {offer.model}", offer.model, changeable=True)]


def _one_of(name: str, value: Any, allowed: Sequence[Any]) -> list[Unmet]:
    if value in allowed:
        return []
    if name == "audio":
        reason = "it makes no sound" if value else "it always makes sound"
        return [Unmet(name, reason, not value, changeable=True)]
    number = isinstance(value, int)
    nearest = min(allowed, key=lambda one: abs(one - value)) if number else allowed[0]
    return [Unmet(name, f"{name} is {value}; it has {_spelled(allowed)}", nearest, changeable=True)]


def _spelled(values: Sequence[Any]) -> str:
    """Values as text; a run of numbers as ``3 to 15``."""
    numbers = len(values) > 2 and all(isinstance(value, int) for value in values)  # noqa: PLR2004  # else a list is as short
    run = numbers and list(values) == list(range(values[0], values[0] + len(values)))
    return f"{values[0]} to {values[-1]}" if run else ", ".join(map(str, values))


def _inputs(offer: Offer, wanted: Any) -> list[Unmet]:
    found = []
    given = len(wanted.references)
    if given > offer.references:
        most = f"at most {offer.references} are" if offer.references else "none is"
        nearest = tuple(wanted.references[: offer.references])
        found.append(Unmet("references", f"{given} reference images; {most} taken", nearest, changeable=True))
    if given < offer.least_references:
        found.append(Unmet("references", "a reference image is needed"))
    mentions = [int(number) for number in _MENTION.findall(wanted.prompt)]
    if mentions and max(mentions) > given:
        found.append(Unmet("prompt", f"the prompt names @image_{max(mentions)}, and there are {given} references"))
    elif mentions and offer.mention is None and offer.references:
        found.append(Unmet("prompt", "it has no documented way to name a reference image (@image_1) in the prompt"))
    if wanted.negative_prompt is not None and not offer.negative_prompt:
        found.append(Unmet("negative_prompt", "no negative prompt is taken", None, changeable=True))
    return found


def nearest_change(wanted: PortableRequest, found: Iterable[Option]) -> tuple[dict[str, Any], Option] | None:
    """Return the smallest change of a request that makes an endpoint serve it, and that endpoint.

    The change is tried before it is proposed. None if no change of a few fields is known to work.
    """
    near = sorted((option for option in found if option.request is None), key=_nearness)
    for option in near:
        if option.offer is None or not all(one.changeable for one in option.unmet) or len(option.unmet) > _CHANGES:
            continue
        change = {one.field: one.nearest for one in option.unmet}
        try:
            changed = type(wanted).model_validate({**dict(wanted), **change})
        except ValidationError:
            continue
        if _option(changed, option.offer).request is not None:
            return change, option
    return None


def not_offered(
    wanted: PortableRequest, found: Sequence[Option], where: str = "no provider of this client"
) -> NotOffered:
    """Return the error for a request that no endpoint can serve, with the reasons and the nearest change."""
    reasons = {option.endpoint: option.reason for option in found if option.request is None}
    listed = "; ".join(f"{endpoint}: {reason}" for endpoint, reason in reasons.items())
    near = nearest_change(wanted, found)
    remedies: tuple[Remedy, ...] = ()
    if near is not None:
        remedies = (Remedy("change_request", detail=f"{_shown(near[0])} ({near[1].endpoint} serves that)"),)
    elif (meant := _meant(wanted)) is not None:
        remedies = (Remedy("change_request", detail=f"model={meant!r}"),)
    return NotOffered(
        f"{where} makes exactly this {wanted.endpoint}{f' ({listed})' if listed else ''}; nothing was sent",
        reasons=reasons,
        change=near[0] if near else {},
        remedies=remedies or (Remedy("configure", detail="add a provider that makes it"),),
    )


def _shown(change: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{name} (leave it out)"
        if value is None
        else f"{name} to {len(value)} images"
        if isinstance(value, tuple)
        else f"{name} to {value}"
        for name, value in change.items()
    )


def _meant(wanted: Any) -> str | None:
    """The name of a known model that is close to the one that was asked for."""
    import difflib  # noqa: PLC0415  # errors alone need it

    known = {offer.model for kind in load_providers() for offer in kind.portable}
    near = difflib.get_close_matches(wanted.model or "", known - {wanted.model}, n=1)
    return near[0] if near else None


def translated(wanted: PortableRequest, place: str) -> Request:
    """Return the own request of a provider or endpoint. See `PortableRequest.for_`."""
    name, _, endpoint = place.partition("/")
    kind = find_provider(name)
    if kind is None or (endpoint and all(one.name != place for one in kind.endpoints)):
        known = ", ".join(one.name for one in load_providers())
        raise ConfigurationError(f"there is no provider or endpoint {place!r:.80}; the providers are {known}")
    return served_by(wanted, kind, place if endpoint else None)


def served_by(wanted: PortableRequest, provider: Provider | type[Provider], endpoint: str | None = None) -> Request:
    """Return a provider's own request for a portable one.

    Args:
        wanted: The portable request.
        provider: The provider.
        endpoint: Which of its endpoints. If None, the first that can serve the request.

    Raises:
        NotOffered: None can.
    """
    found = [option for option in options(wanted, [provider]) if endpoint in {None, option.endpoint}]
    if found and found[0].request is not None:
        return found[0].request
    raise not_offered(wanted, found, f"nothing at {endpoint or provider.name}")
