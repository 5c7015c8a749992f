"""RunBlob: Kling O3 photo and O3 video.

Wire facts: the provider's pages under ``docs.runblob.io/api-reference`` (``kling/o3-photo-generate``,
``kling/o3-photo-status``, ``kling/o3-video-generate``, ``kling/o3-video-status``, ``kling/o3-video-webhooks``,
``authentication``) and its published client examples. Where they disagree:

- The video examples send both ``model: kling_o3 | kling_o3_pro`` and ``mode: std | pro``; the reference page has only
  ``model``. We send ``model`` and accept ``mode`` from users.
- Errors come in four envelopes; all are read.
- A failed job's reason stands in the webhook, and only on some pages in the status answer; it is read where it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, ClassVar, Literal, TypeAlias

from pydantic import AfterValidator, BeforeValidator

from kling_async._errors import (
    ContentRejected,
    InsufficientCredits,
    InvalidRequest,
    JobNotFound,
    KlingError,
    ProviderUnavailable,
)
from kling_async._exchange import Call, Effect, Flow, Reply
from kling_async._models import Artifact, Cost, Failure, JobRef, Status, StatusReport
from kling_async._scheduling.schedules import DurationPrior, Progressive
from kling_async._urls import is_url
from kling_async.providers._base.endpoint import Endpoint, Features
from kling_async.providers._base.images import ImageRule, References, data_uri
from kling_async.providers._base.provider import Accepted, Provider, WebhookItem
from kling_async.providers._base.request import Prompt, Request, as_number

__all__ = ["O3Photo", "O3Video", "RunBlob"]

_PHOTO_IMAGES = ImageRule(formats=("jpeg", "png", "webp"), most=10, uniform=True)
_VIDEO_IMAGES = ImageRule(formats=("jpeg", "png", "gif", "webp"), most=5, uniform=True)
_MODES = {"std": "kling_o3", "pro": "kling_o3_pro"}
_URL_LIFETIME = 24 * 3600.0

PhotoReferences: TypeAlias = Annotated[References, AfterValidator(_PHOTO_IMAGES)]
VideoReferences: TypeAlias = Annotated[References, AfterValidator(_VIDEO_IMAGES)]


class _RunBlobRequest(Request):
    @classmethod
    def translate(cls, data: dict[str, Any]) -> dict[str, Any]:
        """The provider's own JSON in our field names: ``images_url`` and ``images_base64`` are the references."""
        theirs = {name: data.pop(name) for name in ("images_url", "images_base64") if name in data}
        if theirs:
            if "references" in data:
                raise ValueError(f"{' and '.join(theirs)} and 'references' are the same field; give one of them")
            for name, images in theirs.items():
                if not isinstance(images, list | tuple | None):
                    kind = type(images).__name__
                    raise ValueError(f"{name} must be a list, not {kind}")  # noqa: TRY004  # pydantic reports these
            data["references"] = tuple(image for images in theirs.values() for image in images or ())
        return super().translate(data)


class O3Photo(_RunBlobRequest):
    """One picture by Kling O3.

    Source: ``docs.runblob.io/api-reference/kling/o3-photo-generate``.

    Args:
        prompt: 1 to 2 500 characters.
        references: Up to 10 images (JPEG, PNG, WEBP; 10 MiB each): all URLs, or all inline.
        resolution: ``1k``, ``2k`` or ``4k``.
        aspect_ratio: ``auto`` or one of the documented ratios.
        prefer_multi_shots: Several variations inside one picture; experimental.
        callback_url: Where RunBlob is to report the end (https).
    """

    endpoint: ClassVar[str] = "runblob/o3-photo"
    wire_names: ClassVar[Mapping[str, str]] = {"img_resolution": "resolution"}

    prompt: Prompt
    references: PhotoReferences = ()
    resolution: Literal["1k", "2k", "4k"] = "4k"
    aspect_ratio: Literal["auto", "1:1", "9:16", "2:3", "3:4", "4:3", "3:2", "16:9", "21:9"] = "1:1"
    prefer_multi_shots: bool = False


class O3Video(_RunBlobRequest):
    """One clip by Kling O3.

    Source: ``docs.runblob.io/api-reference/kling/o3-video-generate``.

    Args:
        prompt: 1 to 2 500 characters.
        references: Up to 5 images (JPEG, PNG, GIF, WEBP; 10 MiB each): all URLs, or all inline.
        duration: Length of the clip in seconds: 5, 10 or 15.
        aspect_ratio: ``16:9``, ``9:16`` or ``1:1``.
        model: ``kling_o3`` (720p) or ``kling_o3_pro`` (1080p, about twice the price). The older ``mode`` (``std``,
            ``pro``) is accepted in its place.
        keep_original_sound: Whether the sound of the source is kept.
        callback_url: Where RunBlob is to report the end (https).
    """

    endpoint: ClassVar[str] = "runblob/o3-video"

    prompt: Prompt
    references: VideoReferences = ()
    duration: Annotated[Literal[5, 10, 15], BeforeValidator(as_number)] = 5
    aspect_ratio: Literal["16:9", "9:16", "1:1"] = "16:9"
    model: Literal["kling_o3", "kling_o3_pro"] = "kling_o3"
    keep_original_sound: bool = True

    @classmethod
    def translate(cls, data: dict[str, Any]) -> dict[str, Any]:
        """The provider's own JSON in our field names, ``mode`` read as ``model``."""
        if "mode" in data:
            mode = data.pop("mode")
            if not isinstance(mode, str) or mode not in _MODES:
                raise ValueError(f"mode is {mode!r:.40}; allowed are 'std' (kling_o3) and 'pro' (kling_o3_pro)")
            if data.get("model", _MODES[mode]) != _MODES[mode]:
                raise ValueError(f"mode {mode!r} and model {data['model']!r:.40} contradict each other; give one")
            data["model"] = _MODES[mode]
        return super().translate(data)


_PHOTO_DURATION = DurationPrior.from_range(70, 210)  # 10-30 s pending, then 1-3 min (kling/o3-photo-status)
_VIDEO_DURATIONS = {
    5: DurationPrior.from_range(120, 180),
    10: DurationPrior.from_range(180, 300),
    15: DurationPrior.from_range(300, 420),
}  # kling/o3-video-status
_PRO_FACTOR = 1.4  # "30-50 % longer"


def _video_duration(request: O3Video | None) -> DurationPrior:
    if request is None:
        return DurationPrior.from_range(120, 420)
    prior = _VIDEO_DURATIONS[request.duration]
    return prior if request.model == "kling_o3" else DurationPrior(prior.median * _PRO_FACTOR, prior.sigma)


class RunBlob(Provider):
    """RunBlob, https://runblob.io. Environment: ``RUNBLOB_API_KEY``, ``RUNBLOB_BASE_URL``."""

    name: ClassVar[str] = "runblob"
    display_name: ClassVar[str] = "RunBlob"
    default_url: ClassVar[str] = "https://platform.runblob.io"
    env_vars: ClassVar[tuple[str, str]] = ("RUNBLOB_API_KEY", "RUNBLOB_BASE_URL")
    # Failed generations are refunded: docs.runblob.io, the sibling pages of nanobanana and o1.
    features: ClassVar[Features] = Features(webhook=True, cost_unit="USD", status_calls_per_minute=60, refunds=True)
    endpoints: ClassVar[tuple[Endpoint[Any], ...]] = (
        Endpoint(
            O3Video,
            Progressive(5, 5, 10, 15),
            deadline=900.0,
            duration_prior=_video_duration,
            variant=lambda request: f"duration={request.duration} model={request.model}",
        ),
        Endpoint(
            O3Photo,
            Progressive(5),
            deadline=300.0,
            duration_prior=lambda _: _PHOTO_DURATION,
            variant=lambda request: f"resolution={request.resolution}",
        ),
    )
    codes: ClassVar[Mapping[str, type[KlingError]]] = {
        "INSUFFICIENT_CREDITS": InsufficientCredits,
        "GENERATION_NOT_FOUND": JobNotFound,
        "INVALID_PARAMETERS": InvalidRequest,
        "INVALID_IMAGE": InvalidRequest,
        "IMAGE_INACCESSIBLE": InvalidRequest,
        "TOO_MANY_IMAGES": InvalidRequest,
        "MIXED_IMAGE_INPUTS": InvalidRequest,
        "INVALID_DURATION": InvalidRequest,
        "INVALID_MODEL": InvalidRequest,
        "CONTENT_POLICY_VIOLATION": ContentRejected,
        "MODERATION_FAILED": ContentRejected,
        "MAINTENANCE": ProviderUnavailable,
    }

    def submit(self, request: O3Photo | O3Video, attempt_id: str, callback_url: str | None) -> Flow[Accepted]:
        """One POST; RunBlob has no id of ours, so an answer that is lost stays lost."""
        del attempt_id
        payload = self._payload(request)
        callback = request.callback_url or callback_url
        if callback:
            payload["callback_url"] = callback
        kind = request.endpoint.partition("/")[2]
        reply = yield Call.post(f"/v1/kling/{kind}/generate", payload, Effect.PAID)
        accepted = self.accepted(reply, request.endpoint, "generation_id", self._report)
        return replace(accepted, report=replace(accepted.report, cost=_price(reply.json())))

    @staticmethod
    def _payload(request: O3Photo | O3Video) -> dict[str, Any]:
        payload: dict[str, Any] = {"prompt": request.prompt, "aspect_ratio": request.aspect_ratio}
        if isinstance(request, O3Photo):
            payload["img_resolution"] = request.resolution
            payload["prefer_multi_shots"] = request.prefer_multi_shots
        else:
            payload["duration"] = str(request.duration)
            payload["model"] = request.model
            payload["keep_original_sound"] = request.keep_original_sound
        if request.references:
            field = "images_url" if is_url(request.references[0]) else "images_base64"
            payload[field] = [data_uri(r) if isinstance(r, bytes) else str(r) for r in request.references]
        return payload

    def poll(self, refs: Sequence[JobRef]) -> Flow[Mapping[JobRef, StatusReport | KlingError]]:
        """One GET for the one job: RunBlob has no batch."""
        [ref] = refs
        reply = yield Call.get(f"/v1/kling/{ref.endpoint_id}/generations/{ref.id}")
        return {ref: self.redact_report(self._report(self.about(reply, ref, "generation_id"), ref))}

    def parse_webhook(self, body: bytes, headers: Mapping[str, str]) -> Sequence[WebhookItem]:
        """A body says the same as a status answer, and in ``message`` the reason of a failure."""
        del headers
        data = Reply(200, content=body).json()
        if not isinstance(data, dict) or "status" not in data:
            raise self.unreadable("a webhook body without a status")
        identity = data.get("generation_id")
        reading = self.redact_report(self._report(data, None))
        return [WebhookItem(identity if isinstance(identity, str) else None, reading)]

    def _report(self, data: dict[str, Any], ref: JobRef | None) -> StatusReport:
        said = data.get("status")
        status = _STATUSES.get(said) if isinstance(said, str) else None
        message = data.get("message")
        message = message if isinstance(message, str) and message else None
        if status is Status.COMPLETED:
            kind: Literal["image", "video"] = "video" if data.get("video_url") else "image"
            url = data.get("video_url") or data.get("image_url")
            if not isinstance(url, str):
                raise self.unreadable("it says completed and has no URL", ref)
            return StatusReport(status, artifacts=(Artifact(kind, url),), lifetime=_URL_LIFETIME, raw=data)
        if status is Status.FAILED:
            code, words = _code(message) if message else (None, None)
            failure = Failure(code or "unknown", words, retryable=code in _RETRYABLE)
            return StatusReport(status, message=message, failures=(failure,), raw=data)
        oddity = None if status else f"the status {said!r}"
        return StatusReport(status, message=message, unrecognized=oddity, raw=data)

    def error(self, data: Any) -> tuple[str | None, str | None] | None:
        """The four envelopes: ``detail`` as text or as a list, ``success: false``, and ``error`` with ``message``."""
        if not isinstance(data, dict):
            return None
        detail, message, word = data.get("detail"), data.get("message"), data.get("error")
        if isinstance(detail, list):
            return "INVALID_PARAMETERS", "; ".join(_complaint(item) for item in detail) or None
        if isinstance(detail, str):
            return _code(detail)
        if data.get("success") is False and isinstance(message, str):
            return _code(message)
        if isinstance(word, str):
            return word, message if isinstance(message, str) else None
        return None


_STATUSES: Mapping[str, Status] = {
    "pending": Status.PENDING,
    "processing": Status.PROCESSING,
    "completed": Status.COMPLETED,
    "failed": Status.FAILED,
}
# Failed jobs are refunded (sibling pages), so submitting again after the provider's own fault costs nothing more.
_RETRYABLE = frozenset({"TIMEOUT", "API_ERROR", "TASK_FAILED", "MAINTENANCE"})


def _code(text: str) -> tuple[str | None, str | None]:
    """A text that is either one of the provider's codes or an explanation."""
    return (text, None) if text.isupper() and " " not in text else (None, text)


def _complaint(item: Any) -> str:
    """One entry of FastAPI's list: where in the request, and what is wrong with it."""
    if not isinstance(item, dict):
        return str(item)
    place = item.get("loc")
    return f"{'.'.join(map(str, place)) if isinstance(place, list) else place}: {item.get('msg')}"


def _price(data: Mapping[str, Any]) -> Cost | None:
    return Cost.parse(str(data["price"]), "USD") if "price" in data else None  # a decimal string, such as "0.1500"
