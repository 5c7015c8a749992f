"""Runware: the Kling image and video models.

Wire facts: the pages under ``runware.ai/docs`` (``platform/introduction``, ``platform/task-polling``,
``platform/errors``, ``platform/webhooks``, ``models/klingai-*``) and the official SDK, ``runware-sdk`` 1.8.0.
Everything is one POST of an array of tasks to one address. Answers are matched by ``taskUUID``, which is ours. Where
the sources disagree or are silent:

- The end of a task. The SDK counts: successes and errors together are ``numberResults``. The polling page shows every
  generation with a status of its own. Others have seen an empty ``data`` while a task runs. So the count is kept in the
  job's id (``6f1c...~4``, one image needs none) and no image is given up while it is not reached, but where something
  failed and nothing is running any more, the job has ended.
- ``{"data": []}`` is the answer about a running task as well as about an unknown one: it proves nothing.
- An error under ``errors`` is a generation's if it carries ``status`` or is of type ``imageInference`` or
  ``videoInference``. Otherwise its
  code shows whether the generation or the question about it failed.
- Delivery of images is ``sync`` by default on the wire. We ask for ``async``, as the SDK does. Videos are always
  delivered ``async``. Whether a task sent as ``sync``
  can be polled after its answer was lost is not documented.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import date
from decimal import Decimal
from typing import Any, ClassVar

from kling_async._errors import (
    InsufficientCredits,
    KlingError,
    ProviderUnavailable,
    RateLimited,
    Unauthorized,
)
from kling_async._exchange.calls import Call, Effect, Flow, Reply
from kling_async._media.local_file import LocalFile
from kling_async._models import JobRef, Status, StatusReport
from kling_async._scheduling.schedules import DurationPrior, Progressive
from kling_async.providers._base.credentials import ProviderConfig
from kling_async.providers._base.endpoint import Endpoint, Features, Price
from kling_async.providers._base.error_mapping import Accepted, ErrorMapper
from kling_async.providers._base.images import Reference, data_uri
from kling_async.providers._base.offers import Offer
from kling_async.providers._base.provider import Provider, WebhookItem
from kling_async.providers.runware.account import RunwareAccount
from kling_async.providers.runware.portable import OFFERS
from kling_async.providers.runware.request import CONSTANTS, FORMATS, Image, ImageO3
from kling_async.providers.runware.responses import (
    TAKEN,
    Answer,
    Row,
    Task,
    classify,
    entries,
    is_generation,
    status_report,
    text,
)
from kling_async.providers.runware.video import VIDEO_FORMATS, Video

__all__ = ["Runware"]


_USD_PER_IMAGE = {"1k": Decimal("0.028"), "2k": Decimal("0.028"), "4k": Decimal("0.056")}


def _price(request: ImageO3) -> Price:
    amount = _USD_PER_IMAGE[request.resolution] * request.count
    return Price(amount, "USD", source="runware.ai/docs/models/klingai-image-o3", date=date(2026, 11, 27))


def _video_price(request: Video) -> Price:
    # Whether reference images cost as much as a video is not documented for every model.
    estimated = bool(request.references) or request.model in _LISTED_BY_KLING_ONLY
    source = "runware.ai/docs/models/klingai-*"
    return Price(request.usd, "USD", estimated=estimated, source=source, date=date(2026, 11, 27))


_LISTED_BY_KLING_ONLY = frozenset({"klingai:6@1", "klingai:kling-video@2.6-pro"})  # Runware's prices are Kling's
_SCHEDULE = Progressive(0.5, 0.75, 1.1, 1.7, 2.5, 3.8, 5.7, 8.5, 10, first=1.0)  # runware-sdk 1.8.0, client.py
_IMAGE_DURATION = DurationPrior(24, 0.545)
# Not documented by Runware. What RunBlob documents for the same models: about half a minute a second of video.
_VIDEO_DURATION = DurationPrior.from_range(60, 420)


class RunwareErrors(ErrorMapper):
    """Reads Runware's errors."""

    def read_error(self, data: Any) -> tuple[str | None, str | None] | None:
        """The first of ``errors``, or of ``error`` as an object or a list."""
        for row in entries(data)[1]:
            code, message = text(row, "code"), text(row, "message")
            if code or message:
                return code, message
        return None

    def classify(self, code: str | None) -> type[KlingError] | None:
        """By rule: Runware has hundreds of codes and documents that they may change."""
        return classify(code)


class Runware(Provider):
    """Runware, https://runware.ai. Environment: ``RUNWARE_API_KEY``, ``RUNWARE_BASE_URL``.

    Args:
        api_key: Same as `Provider`.
        base_url: Same as `Provider`.

    Raises:
        ConfigurationError: Same as `Provider`.
    """

    name: ClassVar[str] = "runware"
    display_name: ClassVar[str] = "Runware"
    default_url: ClassVar[str] = "https://api.runware.ai"
    env_vars: ClassVar[tuple[str, str]] = ("RUNWARE_API_KEY", "RUNWARE_BASE_URL")
    # 50: the documents name no maximum for the array.
    features: ClassVar[Features] = Features(webhook=True, batch=50, client_chosen_id=True, cost_unit="USD")
    endpoints: ClassVar[tuple[Endpoint[Any], ...]] = (
        *(
            Endpoint(
                kind,
                _SCHEDULE,
                deadline=1200.0,
                duration_prior=lambda _: _IMAGE_DURATION,
                variant=lambda request: f"resolution={request.resolution} count={request.count}",
                price=_price,
            )
            for kind in (ImageO3, Image)
        ),
        Endpoint(
            Video,
            _SCHEDULE,
            deadline=1800.0,
            duration_prior=lambda _: _VIDEO_DURATION,
            variant=lambda request: f"model={request.model} duration={request.duration} count={request.count}",
            price=_video_price,
        ),
    )

    portable: ClassVar[Sequence[Offer]] = OFFERS
    error_mapper: ClassVar[type[ErrorMapper]] = RunwareErrors

    def configure(self, config: ProviderConfig) -> None:
        """Use this configuration from now on, its address without the version."""
        # Runware's own SDK writes the address with the version, we write it without. Both are accepted.
        super().configure(replace(config, base_url=config.base_url.removesuffix(_PATH)))

    def account(self, run: Callable[[Flow[Any]], Awaitable[Any]]) -> RunwareAccount:
        """What is left."""
        return RunwareAccount(run, self.errors)

    def submit(self, request: ImageO3 | Video, attempt_id: str, callback_url: str | None) -> Flow[Accepted]:
        """One POST under a ``taskUUID`` of ours: "that one exists" answers a repetition, and means accepted."""
        task = _task(request, attempt_id)
        sync = isinstance(request, ImageO3) and request.delivery == "sync"
        call = Call.post(
            _PATH,
            [_payload(request, attempt_id, request.callback_url or callback_url)],
            Effect.PAID,
            repeatable=True,
            timeout=_SYNC_PATIENCE if sync else None,
            max_bytes=_INLINE_ROOM if task.inline else _ROOM,
        )
        for last in (False, True):  # where the answer does not show, the same task is sent again: twice is once
            try:
                said = self._taken((yield call), task, sync=sync)
            except ProviderUnavailable:
                if last:
                    raise
                continue
            return Accepted(task.id, replace(said, lifetime=request.ttl))
        raise AssertionError("the last attempt returns or raises")

    def _taken(self, reply: Reply, task: Task, *, sync: bool) -> StatusReport:
        """What the answer to a submission reports about the task.

        Raises:
            ProviderUnavailable: It does not show whether the task was taken.
            KlingError: The task was refused.
        """
        rows, errors = entries(reply.json())
        named = {uuid for row in errors if (uuid := text(row, "taskUUID"))}
        if named and task.uuid not in named and not any(text(row, "taskUUID") == task.uuid for row in rows):
            # The answer to another call: it proves neither a refusal nor an acceptance.
            raise self.errors.unreadable("it names another task, and not the one that was sent")
        rows = [row for row in rows if text(row, "taskUUID") == task.uuid]
        errors = [row for row in errors if text(row, "taskUUID") in {task.uuid, None}]
        if any(text(row, "code") == TAKEN for row in errors):
            return StatusReport(Status.PENDING)
        if not reply.ok:
            raise self.errors.parse_error(reply) or self.errors.make_error(reply.status, None, reply.excerpt())
        if not rows and not errors:
            raise self.errors.unreadable("it says nothing of the task that was sent")
        if not rows and "status" not in errors[0]:
            refusal = self._refused(errors[0], reply)
            if not (sync and isinstance(refusal, ProviderUnavailable)):  # in the final answer, it is the job's end
                raise refusal
        said = self._report(task, Answer(rows, errors))
        # It was accepted, with any fault in what it reports about the images. A poll will show them.
        return StatusReport(Status.PENDING) if isinstance(said, KlingError) else said

    def poll(self, refs: Sequence[JobRef]) -> Flow[Mapping[JobRef, StatusReport | KlingError]]:
        """One POST for all the jobs, and one more for each whose images come inline: those answers are large."""
        tasks = {ref: Task.parse(ref.id) for ref in refs}
        known = [task for task in tasks.values() if task is not None]
        found: dict[str, Answer | KlingError] = {}
        together = dict.fromkeys(task.uuid for task in known if not task.inline)
        if together:
            found |= yield from self._status_call(list(together), _ROOM)
        for task in known:
            if task.uuid not in found:
                found |= yield from self._status_call([task.uuid], _INLINE_ROOM)
        return {
            ref: self._report(task, found[task.uuid], ref)
            if task is not None
            else self.errors.make_error(None, "taskNotFound", f"{ref.id!r:.60} is not the UUID of a task")
            for ref, task in tasks.items()
        }

    def _report(self, task: Task, answer: Answer | KlingError, ref: JobRef | None = None) -> StatusReport | KlingError:
        if isinstance(answer, KlingError):
            return answer
        try:
            return self.errors.redact_report(status_report(task, answer))
        except ValueError as error:
            return self.errors.unreadable(str(error), ref)

    def _status_call(self, uuids: list[str], room: int) -> Flow[dict[str, Answer | KlingError]]:
        """Ask about the tasks. If one of them makes the answer useless for all, ask about the others without it."""
        tasks = [{"taskType": "getResponse", "taskUUID": uuid} for uuid in uuids]
        reply = yield Call.post(_PATH, tasks, Effect.READ, max_bytes=room)
        found, strays = self._sorted(reply, uuids)
        silent = [uuid for uuid in uuids if uuid not in found]
        if reply.ok and not strays:
            return found | {uuid: Answer() for uuid in silent}
        if not silent:
            return found
        errors = {
            uuid: self._refused(strays[0], reply)
            if strays
            else self.errors.make_error(reply.status, None, reply.excerpt())
            for uuid in silent
        }
        spoiled = reply.ok or reply.status in _SPOILED
        if len(uuids) == 1 or not spoiled or isinstance(errors[silent[0]], _NOT_THE_TASKS):
            return found | errors
        middle = len(silent) if found else len(silent) // 2
        for part in (silent[:middle], silent[middle:]):
            if part:
                found |= yield from self._status_call(part, room)
        return found

    def _sorted(self, reply: Reply, uuids: Iterable[str]) -> tuple[dict[str, Answer | KlingError], list[Row]]:
        """What the reply reports about each task that it names, and the errors that name none of them."""
        rows, errors = entries(reply.json()) if reply.ok or self.errors.parse_error(reply) else ([], [])
        asked, strays = set(uuids), []
        answers: dict[str, Answer] = {}
        refused: dict[str, KlingError] = {}
        for row in rows:
            if (uuid := text(row, "taskUUID")) in asked:
                answers.setdefault(uuid, Answer()).rows.append(row)
        for row in errors:
            uuid = text(row, "taskUUID")
            if uuid not in asked:
                strays.append(row)
            elif reply.ok and is_generation(row):
                answers.setdefault(uuid, Answer()).errors.append(row)
            else:
                refused[uuid] = self._refused(row, reply)
        return {**refused, **answers}, strays

    def client_chosen_id(self, request: ImageO3 | Video | None, attempt_id: str) -> str:
        """The ``taskUUID``, with what an answer must have to be whole."""
        return attempt_id if request is None else _task(request, attempt_id).id

    def same_job(self, job_id: str, reported: str) -> bool:
        """A webhook names the bare ``taskUUID``."""
        task = Task.parse(job_id)
        return task is not None and task.uuid == reported

    def parse_webhook(self, body: bytes, headers: Mapping[str, str]) -> Sequence[WebhookItem]:
        """A body reports one image and not how many there are, so it never reports the end of the job."""
        del headers
        rows, errors = entries(Reply(200, content=body).json())
        answers: dict[str, Answer] = {}
        for row in rows:
            if uuid := text(row, "taskUUID"):
                answers.setdefault(uuid, Answer()).rows.append(row)
        for row in errors:
            if uuid := text(row, "taskUUID"):
                answers.setdefault(uuid, Answer()).errors.append(row)
        if not answers:
            raise self.errors.unreadable("a webhook body that names no task")
        return [WebhookItem(uuid, self._of_one_image(uuid, answer)) for uuid, answer in answers.items()]

    def _of_one_image(self, uuid: str, answer: Answer) -> StatusReport:
        said = self._report(Task(uuid), answer)
        if isinstance(said, KlingError):
            raise said
        if said.status is None or not said.status.terminal:
            return said
        return replace(said, status=Status.PROCESSING, message=None, cost=None)  # one image's cost is not the job's

    def _refused(self, row: Row, reply: Reply) -> KlingError:
        return self.errors.make_error(reply.status, text(row, "code"), text(row, "message"))


_PATH = "/v1"
_SYNC_PATIENCE = 300.0  # s. Gateways give up before that, and then the task is found again by its UUID
_ROOM = 64 * 1024**2  # bytes of an answer that names files
_INLINE_ROOM = 1024**3  # bytes of an answer that is files: 20 images of 4k, as base64
_SPOILED = frozenset({400, 404, 413, 422})  # statuses with which one task of an array may make all fail
_NOT_THE_TASKS = (Unauthorized, RateLimited, InsufficientCredits, ProviderUnavailable)


def _task(request: ImageO3 | Video, attempt_id: str) -> Task:
    return Task(attempt_id, request.count, isinstance(request, ImageO3) and request.output_type != "URL")


def _payload(request: ImageO3 | Video, key: str, callback: str | None) -> dict[str, Any]:
    """The task as it is sent. What is at the wire's own default and has no value is left out."""
    payload = _video(request, key) if isinstance(request, Video) else _image(request, key)
    if request.safety != "none":
        payload["safety"] = {"checkContent": True, "mode": request.safety}
    optional = {"ttl": request.ttl, "uploadEndpoint": request.upload_endpoint, "webhookURL": callback}
    return payload | {name: value for name, value in optional.items() if value is not None}


def _image(request: ImageO3, key: str) -> dict[str, Any]:
    payload: dict[str, Any] = {
        **CONSTANTS,
        "model": request.air,
        "taskUUID": key,
        "positivePrompt": request.prompt,
        "width": request.width,
        "height": request.height,
        "numberResults": request.count,
        "outputType": request.output_type,
        "outputFormat": FORMATS[request.output_format],
        "outputQuality": request.output_quality,
        "includeCost": request.include_cost,
        "deliveryMethod": request.delivery,
    }
    if request.references:
        payload["inputs"] = {"referenceImages": [_wire(image) for image in request.references]}
    return payload


def _video(request: Video, key: str) -> dict[str, Any]:
    """A video task. What changes the price is always in it: the model, the size, the duration and the sound."""
    payload: dict[str, Any] = {
        "taskType": "videoInference",
        "model": request.model,
        "taskUUID": key,
        "positivePrompt": request.prompt,
        "duration": request.duration,
        "numberResults": request.count,
        "outputType": "URL",
        "outputFormat": VIDEO_FORMATS[request.video_format],
        "outputQuality": request.output_quality,
        "includeCost": request.include_cost,
        "deliveryMethod": "async",
    }
    if request.size is not None:
        payload["width"], payload["height"] = request.size
    elif len(request.facts.sizes) > 1:  # a frame stands in place of the size, and the model makes several resolutions
        payload["resolution"] = request.tier
    optional = {"negativePrompt": request.negative_prompt, "CFGScale": request.cfg_scale}
    payload |= {name: value for name, value in optional.items() if value is not None}
    if inputs := _inputs(request):
        payload["inputs"] = inputs
    settings: dict[str, bool] = {}
    if request.facts.sound == "setting":
        settings["sound"] = bool(request.audio)
    if request.video:
        settings["keepOriginalSound"] = request.keep_original_sound is not False
    if settings:
        payload["providerSettings"] = {"klingai": settings}
    return payload


def _inputs(request: Video) -> dict[str, Any]:
    frames = {"first": request.first_frame, "last": request.last_frame}
    inputs: dict[str, Any] = {
        "frameImages": [
            {"image": _wire(image), "frame": place} for place, image in frames.items() if image is not None
        ],
        "referenceImages": [_wire(image) for image in request.references],
        "referenceVideos": [request.reference_video] if request.reference_video else [],
        "video": request.edit_video,
    }
    return {name: value for name, value in inputs.items() if value}


def _wire(image: Reference) -> str:
    return data_uri(image) if isinstance(image, bytes | LocalFile) else str(image)
