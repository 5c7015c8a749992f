"""PixelDojo: Kling Image V3, and the Kling videos.

Wire facts: the model's page (``pixeldojo.ai/api-platform/kling-image``) in an older and a newer edition, the README of
the official ``@pixeldojo/sdk``, and an older API description. Where they disagree:

- The number of images is ``num_outputs`` in the older edition and ``num_images`` in the newer one, and the schemas are
  strict: the wrong name can be refused. We send ``num_outputs``, nothing at all for one image, and
  ``PixelDojo(count_field="num_images")`` sends the other name. Users' JSON may have either.
- The files of a finished job are in ``output.images``. The SDK reads ``assets[].url``. Pages of other models have
  ``output.image``, ``output.video`` and ``output.videos``. All are read.
- An error is ``{"error": {"code", "message", "status"}}`` or text under ``error`` or ``message``. All are read. An
  empty account is HTTP 402, in the older description 403. The code decides.
- The rate limit is 60 calls a minute (API description) or 10 (a skill document). The page's own example polls every
  2 s, 30 times a minute, so 10 cannot count polls. We assume 60, for all polls of a key. If your limit is lower,
  set ``Polling(status_calls_per_minute=10)``. A 429 pauses all calls in any case.
- ``webhook_url`` is in the SDK's README and not on the page. The content of a delivery is not documented: a body with
  a job object is read like a status answer.

- The facts about the videos are those of the pages under ``pixeldojo.ai/llm``. What these leave open stands at each
  request class.

A submission's answer names a ``statusUrl``. It is never followed: polls go to the provider's own address, by the
job's id.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import date
from decimal import Decimal
from typing import Any, ClassVar, Literal, TypeAlias

from pydantic import SecretStr

from kling_async._errors import (
    InsufficientCredits,
    InvalidRequest,
    KlingError,
    ProviderUnavailable,
    RateLimited,
    Unauthorized,
)
from kling_async._exchange.calls import Call, Effect, Flow, Reply
from kling_async._models import Artifact, Cost, JobRef, Status, StatusReport
from kling_async._scheduling.schedules import DurationPrior, Progressive
from kling_async.providers._base.endpoint import Endpoint, Features, Price
from kling_async.providers._base.error_mapping import Accepted, ErrorMapper
from kling_async.providers._base.offers import Offer
from kling_async.providers._base.provider import Provider, WebhookItem, path_id, webhook_job_id
from kling_async.providers.pixeldojo.portable import OFFERS
from kling_async.providers.pixeldojo.request import ImageV3
from kling_async.providers.pixeldojo.video import MotionControl, ReferenceToVideo, TextToVideo, VideoRequest

__all__ = ["PixelDojo"]

CountField: TypeAlias = Literal["num_outputs", "num_images"]

_URL_LIFETIME = 24 * 3600.0  # "stored for 24 hours before being automatically deleted" (older API description)
_READ = date(2026, 11, 27)
_CLIP_DURATION = DurationPrior.from_range(60, 420)  # not documented. What RunBlob documents for the same models
_DURATION = DurationPrior(median=24, sigma=0.545)  # "seconds to one minute"


class PixelDojoErrors(ErrorMapper):
    """Reads PixelDojo's errors."""

    codes: ClassVar[Mapping[str, type[KlingError]]] = {
        "unauthorized": Unauthorized,
        "invalid_api_key": Unauthorized,
        "insufficient_credits": InsufficientCredits,
        "quota_exceeded": InsufficientCredits,  # the older word: its quota is the subscription's credits
        "invalid_request": InvalidRequest,
        "model_not_found": InvalidRequest,
        "rate_limited": RateLimited,
        "internal_error": ProviderUnavailable,
        "server_error": ProviderUnavailable,
    }

    def read_error(self, data: Any) -> tuple[str | None, str | None] | None:
        """The envelopes: ``error`` as an object or as text, with or without ``message`` beside it."""
        if not isinstance(data, dict):
            return None
        error, beside = data.get("error"), _text(data.get("message"))
        if isinstance(error, dict):
            return _text(error.get("code")), _text(error.get("message"))
        if not (word := _text(error)):
            return (None, beside) if beside else None
        # Text may be a code ("insufficient_credits"), a code in prose ("Insufficient credits"), or an explanation.
        code = word.strip(" .").lower().replace(" ", "_")
        if code in self.codes:
            return code, beside
        return (None, word) if " " in word else (word, beside)


class PixelDojo(Provider):
    """PixelDojo, https://pixeldojo.ai. Environment: ``PIXELDOJO_API_KEY``, ``PIXELDOJO_BASE_URL``.

    Args:
        api_key: Same as `Provider`.
        base_url: Same as `Provider`.
        count_field: What the API calls the number of images. Its pages disagree.

    Raises:
        ConfigurationError: Same as `Provider`.
    """

    name: ClassVar[str] = "pixeldojo"
    display_name: ClassVar[str] = "PixelDojo"
    default_url: ClassVar[str] = "https://pixeldojo.ai/api/v1"
    env_vars: ClassVar[tuple[str, str]] = ("PIXELDOJO_API_KEY", "PIXELDOJO_BASE_URL")
    features: ClassVar[Features] = Features(webhook=True, cost_unit="credits", status_calls_per_minute=60)
    endpoints: ClassVar[tuple[Endpoint[Any], ...]] = (
        Endpoint(
            ImageV3,
            # "Every 2 to 5 seconds": the first poll may come later. 1 job in 500 is done by then.
            Progressive(5, 2),
            deadline=300.0,  # none is documented. Five times "up to a minute"
            duration_prior=lambda _: _DURATION,
            variant=lambda request: f"resolution={request.resolution} count={request.count}",
            price=lambda request: Price(
                Decimal(request.count),
                "credits",
                source="pixeldojo.ai/api-platform/kling-image",
                date=_READ,
            ),
        ),
        Endpoint(
            TextToVideo,
            Progressive(10, 5, 10),
            deadline=1800.0,
            duration_prior=lambda _: _CLIP_DURATION,
            variant=lambda request: f"duration={request.duration}",
            price=lambda request: Price(
                Decimal(8 * request.duration),
                "credits",
                source="pixeldojo.ai/llm/kling-video-v3-pro-text.txt",
                date=_READ,
            ),
        ),
        Endpoint(
            ReferenceToVideo,
            Progressive(10, 5, 10),
            deadline=1800.0,
            duration_prior=lambda _: _CLIP_DURATION,
            variant=lambda request: f"duration={request.duration} tier={request.tier}",
            price=lambda _: Price(
                Decimal(15),
                "credits",
                estimated=True,
                source="pixeldojo.ai/llm/kling-reference-to-video.txt",
                date=_READ,
            ),
        ),
        Endpoint(
            MotionControl,
            Progressive(10, 5, 10),
            deadline=1800.0,
            duration_prior=lambda _: _CLIP_DURATION,
            variant=lambda request: f"tier={request.tier}",
        ),
    )
    portable: ClassVar[Sequence[Offer]] = OFFERS
    error_mapper: ClassVar[type[ErrorMapper]] = PixelDojoErrors

    def __init__(
        self,
        api_key: str | SecretStr | None = None,
        base_url: str | None = None,
        *,
        count_field: CountField = "num_outputs",
    ) -> None:
        super().__init__(api_key, base_url)
        self.count_field: CountField = count_field

    def submit(self, request: ImageV3 | VideoRequest, attempt_id: str, callback_url: str | None) -> Flow[Accepted]:
        """One POST. PixelDojo has no id of ours, so an answer that is lost stays lost."""
        del attempt_id
        model, payload = (
            (request.api_id, request.payload())
            if isinstance(request, VideoRequest)
            else ("kling-image", self._image(request))
        )
        callback = request.callback_url or callback_url
        if callback:
            payload["webhook_url"] = callback
        reply = yield Call.post(f"/models/{model}/run", payload, Effect.PAID)
        accepted = self.errors.parse_accepted(reply, request.endpoint, "jobId", self._report)
        balance = _credits(reply.json().get("creditsRemaining"))
        return replace(accepted, report=replace(accepted.report, balance=balance))

    def _image(self, request: ImageV3) -> dict[str, Any]:
        payload: dict[str, Any] = {
            "prompt": request.prompt,
            "resolution": request.resolution.upper(),
            "aspect_ratio": request.aspect_ratio,
            "output_format": request.output_format,
        }
        if request.negative_prompt:
            payload["negative_prompt"] = request.negative_prompt
        if request.count > 1:
            payload[self.count_field] = request.count
        return payload

    def poll(self, refs: Sequence[JobRef]) -> Flow[Mapping[JobRef, StatusReport | KlingError]]:
        """One GET for the one job: PixelDojo has no batch."""
        [ref] = refs
        reply = yield Call.get(f"/jobs/{path_id(ref)}")
        return {ref: self.errors.parse_report(reply, ref, "jobId", self._report)}

    def parse_webhook(self, body: bytes, headers: Mapping[str, str]) -> Sequence[WebhookItem]:
        """A job object, bare or under ``job`` or ``data``. Deliveries are not signed."""
        del headers
        data = Reply(200, content=body).json()
        held = (data, data.get("job"), data.get("data")) if isinstance(data, dict) else ()
        for job in held:
            if not isinstance(job, dict) or "status" not in job:
                continue
            identity = webhook_job_id(job.get("jobId"))
            if identity is not None:
                return [WebhookItem(identity, self.errors.redact_report(self._report(job, None)))]
        raise self.errors.unreadable("a webhook body without a job")

    def _report(self, data: dict[str, Any], ref: JobRef | None) -> StatusReport:
        word = data.get("status")
        status = _STATUSES.get(word.strip().lower()) if isinstance(word, str) else None
        cost = _credits(data.get("creditCost"))
        if status is Status.COMPLETED:
            artifacts = tuple(dict.fromkeys(_artifacts(data)))
            if not artifacts:
                raise self.errors.unreadable("it says completed and has no URL", ref)
            return StatusReport(status, artifacts=artifacts, cost=cost, lifetime=_URL_LIFETIME, raw=data)
        if status is Status.FAILED:
            code, message = self.errors.read_error(data) or (None, None)
            failure = self.errors.make_failure(code, message)
            return StatusReport(status, message=message or code, failures=(failure,), cost=cost, raw=data)
        beside = "" if status or next(_artifacts(data), None) is None else " beside a result"
        unrecognized = None if status else f"the status {word!r}{beside}"
        return StatusReport(status, cost=cost, unrecognized=unrecognized, raw=data)


_STATUSES: Mapping[str, Status] = {
    "pending": Status.PENDING,
    "processing": Status.PROCESSING,
    "completed": Status.COMPLETED,
    "failed": Status.FAILED,
}


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def _credits(value: Any) -> Cost | None:
    """A number of credits, or None if it is none."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    return Cost.parse(str(value), "credits")


def _artifacts(data: Mapping[str, Any]) -> Iterator[Artifact]:
    """The files that a job object names, in any of the documented places."""
    output = data.get("output")
    places = [data] + ([output] if isinstance(output, dict) else [])
    for place in reversed(places):
        for name, kind in _PLACES.items():
            named = place.get(name)
            for item in named if isinstance(named, list) else [named]:
                if url := _text(item.get("url") if isinstance(item, dict) else item):
                    yield Artifact("video" if _is_video(item) else kind, url)


_PLACES: Mapping[str, Literal["image", "video"]] = {
    "images": "image",
    "image": "image",
    "videos": "video",
    "video": "video",
    "assets": "image",
}


def _is_video(item: Any) -> bool:
    """Whether an asset is a video by its own fields."""
    words = (item.get(name) for name in ("type", "kind", "mimeType", "contentType")) if isinstance(item, dict) else ()
    return any(isinstance(word, str) and word.startswith("video") for word in words)
