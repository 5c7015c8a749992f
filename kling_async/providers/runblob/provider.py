"""RunBlob: Kling O3, O1, and all models behind ``/v1/kling/generate``.

Wire facts: the provider's pages under ``docs.runblob.io/api-reference`` (``kling/o3-photo-generate``,
``kling/o3-photo-status``, ``kling/o3-video-generate``, ``kling/o3-video-status``, ``kling/o3-video-webhooks``,
``authentication``) and its published client examples. Where they disagree:

- The video examples send both ``model: kling_o3 | kling_o3_pro`` and ``mode: std | pro``. The reference page has only
  ``model``. We send ``model`` and accept ``mode`` from users.
- Errors come in four envelopes. All are read.
- The official client package (runblob 0.3.1) has fields, and a ``description`` of a failure, which no page has. The
  fields are optional here, and the description is read.
- Webhooks of related pages have ``task_uuid`` and ``result_image_url``. They are read too.
- A failed job's reason stands in the webhook, and only on some pages in the status answer. It is read where it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import date
from decimal import Decimal
from functools import lru_cache
from typing import Any, ClassVar, Literal

from kling_async._errors import (
    ContentRejected,
    InsufficientCredits,
    InvalidRequest,
    JobNotFound,
    KlingError,
    ProviderUnavailable,
)
from kling_async._exchange.calls import Call, Effect, Flow, Reply
from kling_async._models import Artifact, Cost, JobRef, Status, StatusReport
from kling_async._scheduling.schedules import DurationPrior, Progressive
from kling_async.providers._base.endpoint import Endpoint, Features, Price
from kling_async.providers._base.error_mapping import Accepted, ErrorMapper
from kling_async.providers._base.offers import Offer
from kling_async.providers._base.provider import Provider, WebhookItem, path_id, webhook_job_id
from kling_async.providers.runblob.models import MotionControl, O1Photo, O1Video, Video
from kling_async.providers.runblob.portable import OFFERS
from kling_async.providers.runblob.request import O3Photo, O3Video, RunBlobRequest

__all__ = ["RunBlob"]

_URL_LIFETIME = 24 * 3600.0

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


def _clip_duration(request: Video | None) -> DurationPrior:
    # kling/generate: "2-5 minutes". A clip of 10 or 15 s takes as long as one of O3.
    if request is None or request.duration > 10:  # noqa: PLR2004  # seconds
        return DurationPrior.from_range(120, 420)
    return DurationPrior.from_range(120, 300)


_READ = date(2026, 11, 27)


def _estimate(amount: Decimal) -> Price:
    """A price from an example answer. RunBlob publishes no price list, and reports the price of each job it accepts."""
    return Price(
        amount,
        "USD",
        estimated=True,
        source="docs.runblob.io/api-reference/kling, example answers",
        date=_READ,
    )


def _video_price(request: O3Video) -> Price:
    # The example is 5 s of kling_o3. Price by the second, and twice as much for pro ("about 2x price").
    amount = Decimal("0.15") * request.duration / 5
    return _estimate(amount * (2 if request.model == "kling_o3_pro" else 1))


class RunBlobErrors(ErrorMapper):
    """Reads RunBlob's errors."""

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

    def read_error(self, data: Any) -> tuple[str | None, str | None] | None:
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


class RunBlob(Provider):
    """RunBlob, https://runblob.io. Environment: ``RUNBLOB_API_KEY``, ``RUNBLOB_BASE_URL``.

    Args:
        api_key: Same as `Provider`.
        base_url: Same as `Provider`.

    Raises:
        ConfigurationError: Same as `Provider`.
    """

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
            price=_video_price,
        ),
        Endpoint(
            O3Photo,
            Progressive(5),
            deadline=300.0,
            duration_prior=lambda _: _PHOTO_DURATION,
            variant=lambda request: f"resolution={request.resolution}",
            price=lambda _: _estimate(Decimal("0.05")),
        ),
        Endpoint(
            Video,
            Progressive(5, 5, 10, 15),
            deadline=900.0,
            duration_prior=_clip_duration,
            variant=lambda request: f"duration={request.duration} model={request.model}",
        ),
        Endpoint(
            MotionControl,
            Progressive(5, 5, 10, 15),
            deadline=1800.0,
            duration_prior=lambda _: DurationPrior.from_range(120, 600),
            variant=lambda request: f"model={request.model}",
        ),
        Endpoint(
            O1Video,
            Progressive(5, 5, 10, 15),
            deadline=900.0,
            duration_prior=lambda _: DurationPrior.from_range(120, 300),
            variant=lambda request: f"duration={request.duration}",
        ),
        Endpoint(
            O1Photo,
            Progressive(5),
            deadline=300.0,
            duration_prior=lambda _: DurationPrior.from_range(60, 120),  # kling/photo-generate: "1-2 minutes"
            variant=lambda request: f"resolution={request.resolution}",
            price=lambda _: Price(
                Decimal("0.029"), "USD", source="docs.runblob.io/api-reference/kling/photo-generate", date=_READ
            ),
        ),
    )
    portable: ClassVar[Sequence[Offer]] = OFFERS
    error_mapper: ClassVar[type[ErrorMapper]] = RunBlobErrors

    def submit(self, request: RunBlobRequest, attempt_id: str, callback_url: str | None) -> Flow[Accepted]:
        """One POST. RunBlob has no id of ours, so an answer that is lost stays lost."""
        del attempt_id
        payload = request.payload()
        callback = request.callback_url or callback_url
        if callback:
            payload["callback_url"] = callback
        reply = yield Call.post(f"{_path(request.endpoint)}/generate", payload, Effect.PAID)
        accepted = self.errors.parse_accepted(reply, request.endpoint, "generation_id", self._report)
        return Accepted(accepted.id, replace(accepted.report, cost=_price(reply.json())))

    def poll(self, refs: Sequence[JobRef]) -> Flow[Mapping[JobRef, StatusReport | KlingError]]:
        """One GET for the one job: RunBlob has no batch."""
        [ref] = refs
        reply = yield Call.get(f"{_path(ref.endpoint)}/generations/{path_id(ref)}")
        return {ref: self.errors.parse_report(reply, ref, "generation_id", self._report)}

    def parse_webhook(self, body: bytes, headers: Mapping[str, str]) -> Sequence[WebhookItem]:
        """A body reports the same as a status answer, and in ``message`` the reason of a failure."""
        del headers
        data = Reply(200, content=body).json()
        if not isinstance(data, dict) or "status" not in data:
            raise self.errors.unreadable("a webhook body without a status")
        report = self.errors.redact_report(self._report(data, None))
        return [WebhookItem(webhook_job_id(data.get("generation_id") or data.get("task_uuid")), report)]

    def _report(self, data: dict[str, Any], ref: JobRef | None) -> StatusReport:
        word = data.get("status")
        status = _STATUSES.get(word.strip().lower()) if isinstance(word, str) else None
        message = data.get("message") or data.get("description")
        message = message if isinstance(message, str) and message else None
        if status is Status.COMPLETED:
            kind: Literal["image", "video"] = "video" if data.get("video_url") else "image"
            url = data.get("video_url") or data.get("image_url") or data.get("result_image_url")
            if not isinstance(url, str):
                raise self.errors.unreadable("it says completed and has no URL", ref)
            return StatusReport(status, artifacts=(Artifact(kind, url),), lifetime=_URL_LIFETIME, raw=data)
        if status is Status.FAILED:
            code, words = _code(message) if message else (None, None)
            failures = (self.errors.make_failure(code, words, _PASSING),)
            return StatusReport(status, message=message, failures=failures, raw=data)
        beside = " beside a result" if data.get("video_url") or data.get("image_url") else ""
        unrecognized = None if status else f"the status {word!r}{beside}"
        return StatusReport(status, message=message, unrecognized=unrecognized, raw=data)


_SHARED = frozenset({"runblob/video", "runblob/motion-control"})


@lru_cache(maxsize=64)
def _path(endpoint: str) -> str:
    """Where an endpoint's calls go. The older models share one address."""
    return "/v1/kling" if endpoint in _SHARED else f"/v1/kling/{endpoint.partition('/')[2]}"


_STATUSES: Mapping[str, Status] = {
    "pending": Status.PENDING,
    "processing": Status.PROCESSING,
    "completed": Status.COMPLETED,
    "failed": Status.FAILED,
}
# Failed jobs are refunded (sibling pages), so submitting again after the provider's own fault costs nothing more.
_PASSING = frozenset({"api_error", "task_failed", "maintenance"})


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
