"""Runware: Kling Image O3.

Wire facts: the pages under ``runware.ai/docs`` (``platform/introduction``, ``platform/task-polling``,
``platform/errors``, ``platform/webhooks``, ``models/klingai-image-o3``) and the official SDK, ``runware-sdk`` 1.8.0.
Everything is one POST of an array of tasks to one address; answers are matched by ``taskUUID``, which is ours. Where
the sources disagree or are silent:

- The end of a task. The SDK counts: successes and errors together are ``numberResults``. The polling page shows every
  generation with a status of its own; others have seen an empty ``data`` while a task runs. So the count is kept in the
  job's id (``6f1c...~4``; one image needs none) and no image is given up while it is not reached; but where something
  failed and nothing is running any more, the job has ended.
- ``{"data": []}`` is the answer about a running task as well as about an unknown one: it says nothing.
- An error under ``errors`` is a generation's if it carries ``status`` or is of type ``imageInference``; otherwise its
  code tells whether the generation or the question about it failed.
- Delivery is ``sync`` by default on the wire; we ask for ``async``, as the SDK does. Whether a task sent as ``sync``
  can be polled after its answer was lost is not documented.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from decimal import Decimal
from typing import Annotated, Any, ClassVar, Literal, Self, TypeAlias

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, model_validator

from kling_async._errors import (
    InsufficientCredits,
    KlingError,
    ProviderUnavailable,
    RateLimited,
    Unauthorized,
)
from kling_async._exchange import Call, Effect, Flow, Reply
from kling_async._models import Cost, JobRef, Status, StatusReport
from kling_async._scheduling.schedules import DurationPrior, Progressive
from kling_async._urls import is_secure
from kling_async.providers._base.endpoint import Endpoint, Features
from kling_async.providers._base.images import ImageRule, References, data_uri, sniff
from kling_async.providers._base.provider import Accepted, Provider, WebhookItem
from kling_async.providers._base.request import Prompt, Request, as_number
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

__all__ = ["ImageO3", "Runware"]

_AIR = "klingai:kling-image@o3"
_CONSTANTS = {"taskType": "imageInference", "model": _AIR}

Resolution: TypeAlias = Literal["1k", "2k", "4k"]
AspectRatio: TypeAlias = Literal["1:1", "3:2", "2:3", "4:3", "3:4", "16:9", "9:16", "21:9"]

# runware.ai/docs/models/klingai-image-o3: the wide ones; the tall ones are three of them turned.
_WIDE: Mapping[str, Mapping[str, tuple[int, int]]] = {
    "1k": {"1:1": (1024, 1024), "3:2": (1248, 832), "4:3": (1168, 880), "16:9": (1360, 768), "21:9": (1552, 656)},
    "2k": {"1:1": (2048, 2048), "3:2": (2496, 1664), "4:3": (2336, 1760), "16:9": (2720, 1536), "21:9": (3104, 1312)},
    "4k": {"1:1": (4096, 4096), "3:2": (4992, 3328), "4:3": (4736, 3520), "16:9": (5440, 3072), "21:9": (6272, 2688)},
}
_SIZES: Mapping[tuple[str, str], tuple[int, int]] = {
    **{(tier, ratio): size for tier, row in _WIDE.items() for ratio, size in row.items()},
    **{
        (tier, tall): row[wide][::-1]
        for tier, row in _WIDE.items()
        for wide, tall in (("3:2", "2:3"), ("4:3", "3:4"), ("16:9", "9:16"))
    },
}
_PAIRS = {size: name for name, size in _SIZES.items()}
_USD_PER_IMAGE = {"1k": Decimal("0.028"), "2k": Decimal("0.028"), "4k": Decimal("0.056")}
_FORMATS = {"jpeg": "JPG", "png": "PNG", "webp": "WEBP"}


def _our_format(value: Any) -> Any:
    return next((ours for ours, theirs in _FORMATS.items() if value == theirs), value)


def _secure(value: str) -> str:
    if not is_secure(value):
        raise ValueError("the upload endpoint must be an https:// URL (http:// only to this machine)")
    return value


class ImageO3(Request):
    """One to twenty pictures by Kling Image O3.

    The size is given as `width` and `height`, or as `resolution` and `aspect_ratio`; each pair follows from the other.
    With neither it is 1024 x 1024 (``1k``, ``1:1``), for Runware documents no default.

    A task object of Runware's own JSON validates too. Its ``taskType`` and ``model`` must be this endpoint's, and its
    ``taskUUID`` is dropped: every purchase gets a fresh one.

    Source: ``runware.ai/docs/models/klingai-image-o3``.

    Args:
        prompt: 1 to 2 500 characters.
        references: Up to 10 images (JPEG, PNG, WEBP; 10 MiB each), also as the UUID of one uploaded to Runware.
        width: Pixels; with `height` one of the 24 documented pairs.
        height: Pixels.
        resolution: ``1k``, ``2k`` or ``4k``.
        aspect_ratio: One of the documented ratios.
        count: How many pictures, 1 to 20, each with its own seed.
        output_type: ``URL``, or the pictures themselves in every answer (``base64Data``, ``dataURI``): then jobs cannot
            be asked about together, so it is for few pictures.
        output_format: ``jpeg``, ``png`` or ``webp``; Runware's own ``JPG``, ``PNG`` and ``WEBP`` are accepted too.
        output_quality: 20 to 99.
        upload_endpoint: A presigned URL to which Runware is to PUT the pictures as raw bytes.
        safety: ``fast`` lets Runware check the pictures; what it found is in `Artifact.flagged`.
        ttl: Seconds for which URLs are to work, at least 60; only with output type ``URL``.
        include_cost: Let Runware tell what the job cost.
        delivery: ``async``: accepted at once, then polled. ``sync``: the submission waits for the pictures.
        callback_url: Where Runware is to report each picture (https).
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

    prompt: Prompt
    references: Annotated[References, AfterValidator(ImageRule(most=10, uuids=True))] = ()
    width: int = 1024
    height: int = 1024
    resolution: Resolution = "1k"
    aspect_ratio: AspectRatio = "1:1"
    count: Annotated[int, Field(ge=1, le=20)] = 1
    output_type: Literal["URL", "base64Data", "dataURI"] = "URL"
    output_format: Annotated[Literal["jpeg", "png", "webp"], BeforeValidator(_our_format)] = "jpeg"
    output_quality: Annotated[int, Field(ge=20, le=99)] = 95
    upload_endpoint: Annotated[str, AfterValidator(_secure)] | None = None
    safety: Literal["none", "fast"] = "none"
    ttl: Annotated[int, Field(ge=60)] | None = None
    include_cost: bool = True
    delivery: Literal["async", "sync"] = "async"

    @classmethod
    def translate(cls, data: dict[str, Any]) -> dict[str, Any]:
        """Runware's own JSON in our field names, and whichever form of the size was not given."""
        for name, constant in _CONSTANTS.items():
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
            data["safety"] = _safety_mode(data["safety"])
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


def _referenced(inputs: object) -> list[Any]:
    """The images of a task's ``inputs``."""
    if not isinstance(inputs, Mapping) or not inputs.keys() <= {"referenceImages"}:
        raise ValueError("inputs is an object with one field, referenceImages")
    images = inputs.get("referenceImages") or []
    if not isinstance(images, list | tuple):
        kind = type(images).__name__
        raise ValueError(f"inputs.referenceImages must be a list, not {kind}")  # noqa: TRY004  # pydantic reports these
    return [_bare_image(image) for image in images]


def _bare_image(value: Any) -> Any:
    """A reference that is bare base64 of an image, as Runware takes it, as the image; any other as it is."""
    try:
        content = base64.b64decode(value, validate=True)
    except (binascii.Error, TypeError, ValueError):
        return value
    return content if sniff(content[:16]) else value


def _safety_mode(safety: Mapping[str, Any]) -> str:
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
                f"{tier}: {', '.join(f'{w}x{h}' for (t, _), (w, h) in _SIZES.items() if t == tier)}" for tier in _WIDE
            )
            raise ValueError(f"{pair[0]}x{pair[1]} is not a size of this model; there are {known}")
        for name, value in zip(("resolution", "aspect_ratio"), _PAIRS[pair], strict=True):
            if data.setdefault(name, value) != value:
                raise ValueError(
                    f"{pair[0]}x{pair[1]} has {name} {value}, but {name} says {data[name]!r:.40}; "
                    "give one form of the size"
                )
    else:
        size = _SIZES.get((str(data.get("resolution", "1k")), str(data.get("aspect_ratio", "1:1"))))
        if size is not None:
            data["width"], data["height"] = size
    return data


class Runware(Provider):
    """Runware, https://runware.ai. Environment: ``RUNWARE_API_KEY``, ``RUNWARE_BASE_URL``."""

    name: ClassVar[str] = "runware"
    display_name: ClassVar[str] = "Runware"
    default_url: ClassVar[str] = "https://api.runware.ai"
    env_vars: ClassVar[tuple[str, str]] = ("RUNWARE_API_KEY", "RUNWARE_BASE_URL")
    # 50: the documents name no maximum for the array; providers.md 2.6 advises 20 to 50.
    features: ClassVar[Features] = Features(webhook=True, batch=50, client_chosen_id=True, cost_unit="USD")
    endpoints: ClassVar[tuple[Endpoint[Any], ...]] = (
        Endpoint(
            ImageO3,
            Progressive(0.5, 0.75, 1.1, 1.7, 2.5, 3.8, 5.7, 8.5, 10, first=1.0),  # runware-sdk 1.8.0, client.py
            deadline=1200.0,
            duration_prior=lambda _: DurationPrior(24, 0.545),
            variant=lambda request: f"resolution={request.resolution} count={request.count}",
            price=lambda request: Cost(_USD_PER_IMAGE[request.resolution] * request.count, "USD"),
        ),
    )

    def __init__(self, api_key: str | SecretStr | None = None, base_url: str | None = None) -> None:
        # Runware's own SDK spells its address with the version, ours are without: both are understood.
        super().__init__(api_key, base_url)
        self.base_url = self.base_url.removesuffix(_PATH)

    def submit(self, request: ImageO3, attempt_id: str, callback_url: str | None) -> Flow[Accepted]:
        """One POST under a ``taskUUID`` of ours: "that one exists" answers a repetition, and means accepted."""
        task = Task(attempt_id, request.count, request.output_type != "URL")
        call = Call.post(
            _PATH,
            [_payload(request, attempt_id, request.callback_url or callback_url)],
            Effect.PAID,
            repeatable=True,
            timeout=_SYNC_PATIENCE if request.delivery == "sync" else None,
            max_bytes=_INLINE_ROOM if task.inline else _ROOM,
        )
        sync = request.delivery == "sync"
        for last in (False, True):  # where the answer does not tell, the same task is sent again: twice is once
            try:
                said = self._taken((yield call), task, sync=sync)
            except ProviderUnavailable:
                if last:
                    raise
                continue
            return Accepted(task.id, replace(said, lifetime=request.ttl))
        raise AssertionError("the last attempt returns or raises")

    def _taken(self, reply: Reply, task: Task, *, sync: bool) -> StatusReport:
        """What the answer to a submission says of the task.

        Raises:
            ProviderUnavailable: It does not tell whether the task was taken.
            KlingError: The task was refused.
        """
        rows, errors = entries(reply.json())
        rows = [row for row in rows if text(row, "taskUUID") == task.uuid]
        errors = [row for row in errors if text(row, "taskUUID") in {task.uuid, None}]
        if any(text(row, "code") == TAKEN for row in errors):
            return StatusReport(Status.PENDING)
        if not reply.ok:
            raise self.refusal(reply) or self.make_error(reply.status, None, None)
        if not rows and not errors:
            raise self.unreadable("it says nothing of the task that was sent")
        if not rows and "status" not in errors[0]:
            refusal = self._refused(errors[0], reply)
            if not (sync and isinstance(refusal, ProviderUnavailable)):  # in the final answer, it is the job's end
                raise refusal
        said = self._report(task, Answer(rows, errors))
        # It was accepted, whatever is wrong with what it says of the images: a poll will tell.
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
            else self.make_error(None, "taskNotFound", f"{ref.id!r:.60} is not the UUID of a task")
            for ref, task in tasks.items()
        }

    def _report(self, task: Task, answer: Answer | KlingError, ref: JobRef | None = None) -> StatusReport | KlingError:
        if isinstance(answer, KlingError):
            return answer
        try:
            return self.redact_report(status_report(task, answer))
        except ValueError as error:
            return self.unreadable(str(error), ref)

    def _status_call(self, uuids: list[str], room: int) -> Flow[dict[str, Answer | KlingError]]:
        """Ask about the tasks. Where one of them spoils the answer for all, the others are asked about without it."""
        tasks = [{"taskType": "getResponse", "taskUUID": uuid} for uuid in uuids]
        reply = yield Call.post(_PATH, tasks, Effect.READ, max_bytes=room)
        found, strays = self._sorted(reply, uuids)
        silent = [uuid for uuid in uuids if uuid not in found]
        if reply.ok and not strays:
            return found | {uuid: Answer() for uuid in silent}
        if not silent:
            return found
        errors = {
            uuid: self._refused(strays[0], reply) if strays else self.make_error(reply.status, None, None)
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
        """What the reply says of each task that it names, and the errors that name none of them."""
        rows, errors = entries(reply.json()) if reply.ok or self.refusal(reply) else ([], [])
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

    def client_chosen_id(self, request: ImageO3 | None, attempt_id: str) -> str:
        """The ``taskUUID``, with what an answer must have to be whole."""
        return Task(attempt_id, request.count, request.output_type != "URL").id if request is not None else attempt_id

    def same_job(self, job_id: str, reported: str) -> bool:
        """A webhook names the bare ``taskUUID``."""
        task = Task.parse(job_id)
        return task is not None and task.uuid == reported

    def parse_webhook(self, body: bytes, headers: Mapping[str, str]) -> Sequence[WebhookItem]:
        """A body tells of one image and not of how many there are, so it never says that the job has ended."""
        del headers
        rows, errors = entries(Reply(200, content=body).json())
        told: dict[str, Answer] = {}
        for row in rows:
            if uuid := text(row, "taskUUID"):
                told.setdefault(uuid, Answer()).rows.append(row)
        for row in errors:
            if uuid := text(row, "taskUUID"):
                told.setdefault(uuid, Answer()).errors.append(row)
        if not told:
            raise self.unreadable("a webhook body that names no task")
        return [WebhookItem(uuid, self._of_one_image(uuid, answer)) for uuid, answer in told.items()]

    def _of_one_image(self, uuid: str, answer: Answer) -> StatusReport:
        said = self._report(Task(uuid), answer)
        if isinstance(said, KlingError):
            raise said
        if said.status is None or not said.status.terminal:
            return said
        return replace(said, status=Status.PROCESSING, message=None, cost=None)  # one image's cost is not the job's

    def error(self, data: Any) -> tuple[str | None, str | None] | None:
        """The first of ``errors``, or of ``error`` as an object or a list."""
        for row in entries(data)[1]:
            code, message = text(row, "code"), text(row, "message")
            if code or message:
                return code, message
        return None

    def classify(self, code: str | None) -> type[KlingError] | None:
        """By rule: Runware has hundreds of codes and says that they may change."""
        return classify(code)

    def _refused(self, row: Row, reply: Reply) -> KlingError:
        return self.make_error(reply.status, text(row, "code"), text(row, "message"))


_PATH = "/v1"
_SYNC_PATIENCE = 300.0  # s; gateways give up before that, and then the task is found again by its UUID
_ROOM = 64 * 1024**2  # bytes of an answer that names files
_INLINE_ROOM = 1024**3  # bytes of an answer that is files: 20 images of 4k, as base64
_SPOILED = frozenset({400, 404, 413, 422})  # statuses with which one task of an array may spoil the whole
_NOT_THE_TASKS = (Unauthorized, RateLimited, InsufficientCredits, ProviderUnavailable)


def _payload(request: ImageO3, key: str, callback: str | None) -> dict[str, Any]:
    """The task as it is sent; what is at the wire's own default and has no value is left out."""
    payload: dict[str, Any] = {
        **_CONSTANTS,
        "taskUUID": key,
        "positivePrompt": request.prompt,
        "width": request.width,
        "height": request.height,
        "numberResults": request.count,
        "outputType": request.output_type,
        "outputFormat": _FORMATS[request.output_format],
        "outputQuality": request.output_quality,
        "includeCost": request.include_cost,
        "deliveryMethod": request.delivery,
    }
    if request.references:
        images = [data_uri(image) if isinstance(image, bytes) else str(image) for image in request.references]
        payload["inputs"] = {"referenceImages": images}
    if request.safety != "none":
        payload["safety"] = {"checkContent": True, "mode": request.safety}
    optional = {"ttl": request.ttl, "uploadEndpoint": request.upload_endpoint, "webhookURL": callback}
    return payload | {name: value for name, value in optional.items() if value is not None}
