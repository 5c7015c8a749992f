"""Runware's emulation: the Kling image and video models and image upload, as runware.ai/docs documents them.

One URL takes arrays of tasks, and every task of an array has its own outcome: `data` and `errors` come together at
HTTP 200. If all tasks were refused, the status is that of the first. Where the pages are silent, the emulation decides:
an array with an element that is not a task, or with an invalid `taskUUID`, is refused as a whole with 400 and does not
name the element. A running task has no rows until it leaves the queue. A `sync` answer that takes longer than a gateway
waits becomes a 504 while the task continues. An `uploadEndpoint` gets each image with PUT when it is ready.

A WebSocket at the same URL takes the same arrays as frames, after an authentication task. Each task has its answer in a
frame of its own, and each result of a `sync` task comes when it is ready. A connection that reconnects with its session
gets the results that are waiting for it.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import uuid
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Literal, TypeVar
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.responses import HTMLResponse
from starlette.websockets import WebSocketDisconnect

from kling_async.sandbox.emulator.accounts import Account, InsufficientCreditsError
from kling_async.sandbox.emulator.images import BadImageError, check_data_uri, check_url, thumbnails
from kling_async.sandbox.emulator.jobs import (
    CLIP_DURATIONS,
    IMAGE_DURATION,
    Clip,
    File,
    Job,
    Order,
    Phase,
    Picture,
    UnknownDirectiveError,
)
from kling_async.sandbox.emulator.provider_state import DuplicateJobError
from kling_async.sandbox.faults.catalog import Fault
from kling_async.sandbox.faults.catalog import Rule as FaultRule
from kling_async.sandbox.providers._runware_models import HD, O1, RULES, Rule
from kling_async.sandbox.providers.emulation import Emulation, Operation, Webhook, reply
from kling_async.sandbox.server.protocol import connection

if TYPE_CHECKING:
    from collections.abc import Mapping

    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.websockets import WebSocket

    from kling_async.providers._base.provider import Provider
    from kling_async.sandbox.emulator.provider_state import ProviderState

_BODY_ON_THE_LOOP = 64 * 1024  # bytes. Larger bodies hold images and are checked in a worker thread
_IDLE = 120.0  # s after which a silent WebSocket is closed
_UNLIMITED = 1000.0  # the balance of an account without a limit
_GATEWAY = 100.0  # simulated s that a gateway waits for a sync answer
_AIR = "klingai:kling-image@o3"
_DOCS = "https://runware.ai/docs/models/klingai-image-o3"

# docs: models/klingai-image-o3. Written out here once more, so that a slip in the client's table shows.
_SIZES: Mapping[str, str] = {
    "1K": "1024x1024 1248x832 832x1248 1168x880 880x1168 1360x768 768x1360 1552x656",
    "2K": "2048x2048 2496x1664 1664x2496 2336x1760 1760x2336 2720x1536 1536x2720 3104x1312",
    "4K": "4096x4096 4992x3328 3328x4992 4736x3520 3520x4736 5440x3072 3072x5440 6272x2688",
}
_TIERS = {size: tier for tier, sizes in _SIZES.items() for size in sizes.split()}
_PRICES = {"1K": Decimal("0.028"), "2K": Decimal("0.028"), "4K": Decimal("0.056")}
_FORMATS: Mapping[str, Literal["jpeg", "png", "webp"]] = {"JPG": "jpeg", "PNG": "png", "WEBP": "webp"}
_ACCEPTED = {"JPEG", "PNG", "WEBP"}
# Scripts and prompts may name failures in the words of the other providers.
_CODES = {"TIMEOUT": "timeoutProvider", "CONTENT_POLICY_VIOLATION": "contentPolicyViolation"}
_REASONS = {
    "timeoutProvider": "The external provider did not respond within the timeout window.",
    "contentPolicyViolation": "The content was rejected by the content policy.",
}


class _Wire(BaseModel):
    # Explicit nulls are refused: the pages know no null.
    model_config = ConfigDict(strict=True, extra="forbid")


T = TypeVar("T", bound=_Wire)


class _Inputs(_Wire):
    images: list[str] = Field(default=[], alias="referenceImages", min_length=1, max_length=10)


class _Safety(_Wire):
    check: bool = Field(default=False, alias="checkContent")
    mode: Literal["none", "fast"] = "none"


class _Inference(_Wire):
    """`taskType: imageInference` for this model."""

    task_type: Literal["imageInference"] = Field(alias="taskType")
    task_uuid: str = Field(alias="taskUUID")
    model: Literal["klingai:kling-image@o3", "klingai:kling-image@o1", "klingai:kling-image@3"]
    prompt: str = Field(alias="positivePrompt", min_length=1, max_length=2500)
    width: int
    height: int
    inputs: _Inputs = _Inputs()
    output_type: Literal["URL", "base64Data", "dataURI"] = Field(default="URL", alias="outputType")
    output_format: Literal["JPG", "PNG", "WEBP"] = Field(default="JPG", alias="outputFormat")
    output_quality: int = Field(default=95, alias="outputQuality", ge=20, le=99)
    webhook: str = Field(default="", alias="webhookURL", min_length=1)
    delivery: Literal["sync", "async"] = Field(default="sync", alias="deliveryMethod")
    upload: str = Field(default="", alias="uploadEndpoint", min_length=1)
    safety: _Safety = _Safety()
    ttl: int = Field(default=0, ge=60)
    cost: bool = Field(default=False, alias="includeCost")
    count: int = Field(default=1, alias="numberResults", ge=1, le=20)
    routing: dict[str, Any] = {}
    advanced: dict[str, Any] = Field(default={}, alias="advancedFeatures")


class _Frame(_Wire):
    image: str
    frame: Literal["first", "last"] = "first"


class _VideoInputs(_Wire):
    frames: list[_Frame] = Field(default=[], alias="frameImages", min_length=1, max_length=2)
    images: list[str] = Field(default=[], alias="referenceImages", min_length=1, max_length=7)
    videos: list[str] = Field(default=[], alias="referenceVideos", min_length=1, max_length=1)
    video: str = ""


class _KlingSettings(_Wire):
    sound: bool = False
    keep_original_sound: bool = Field(default=False, alias="keepOriginalSound")


class _Settings(_Wire):
    klingai: _KlingSettings


class _VideoInference(_Wire):
    """`taskType: videoInference`. What a model takes of it stands in `_runware_models`."""

    task_type: Literal["videoInference"] = Field(alias="taskType")
    task_uuid: str = Field(alias="taskUUID")
    model: str
    prompt: str = Field(default="", alias="positivePrompt", min_length=2, max_length=2500)
    negative_prompt: str = Field(default="", alias="negativePrompt", min_length=2, max_length=2500)
    width: int = 0
    height: int = 0
    resolution: Literal["", "720p", "1080p", "4k"] = ""
    duration: int = 5
    cfg_scale: float = Field(default=0.5, alias="CFGScale", ge=0, le=1)
    inputs: _VideoInputs = _VideoInputs()
    settings: _Settings | None = Field(default=None, alias="providerSettings")
    output_type: Literal["URL"] = Field(default="URL", alias="outputType")
    output_format: Literal["MP4", "WEBM", "MOV"] = Field(default="MP4", alias="outputFormat")
    output_quality: int = Field(default=95, alias="outputQuality", ge=20, le=99)
    webhook: str = Field(default="", alias="webhookURL", min_length=1)
    delivery: Literal["async"] = Field(default="async", alias="deliveryMethod")
    upload: str = Field(default="", alias="uploadEndpoint", min_length=1)
    safety: _Safety = _Safety()
    ttl: int = Field(default=0, ge=60)
    cost: bool = Field(default=False, alias="includeCost")
    count: int = Field(default=1, alias="numberResults", ge=1, le=20)
    routing: dict[str, Any] = {}

    @property
    def size(self) -> str:
        """Width and height. Empty where they are not given."""
        return f"{self.width}x{self.height}" if self.width or self.height else ""


class _Look(_Wire):
    """`taskType: getResponse`."""

    task_type: Literal["getResponse"] = Field(alias="taskType")
    task_uuid: str = Field(alias="taskUUID")


class _Upload(_Wire):
    """`taskType: imageUpload`."""

    task_type: Literal["imageUpload"] = Field(alias="taskType")
    task_uuid: str = Field(alias="taskUUID")
    image: str
    delivery: Literal["sync", "async"] = Field(default="sync", alias="deliveryMethod")


class _Account(_Wire):
    """`taskType: accountManagement`."""

    task_type: Literal["accountManagement"] = Field(alias="taskType")
    task_uuid: str = Field(alias="taskUUID")
    operation: Literal["getDetails"]


class _RefusedError(Exception):
    """A task, or a whole array, that is refused with an error in Runware's shape."""

    def __init__(self, status: int, code: str, message: str, **facts: Any) -> None:
        super().__init__(status, code)
        self.status = status
        self.row = {"code": code, "message": message, **facts}


class _Outcome:
    """What became of an array of tasks."""

    def __init__(self) -> None:
        self.data: list[dict[str, Any]] = []
        self.errors: list[dict[str, Any]] = []
        self.refusals: list[int] = []
        self.looked = False

    def refuse(self, error: _RefusedError, task: Mapping[str, Any]) -> None:
        """Add a refusal of one task."""
        named = {name: task[name] for name in ("taskType", "taskUUID") if isinstance(task.get(name), str)}
        self.errors.append({**error.row, **named, "documentation": _DOCS})
        self.refusals.append(error.status)

    def body(self) -> dict[str, Any]:
        """The answer as JSON values."""
        return {"data": self.data, "errors": self.errors} if self.errors else {"data": self.data}

    def response(self) -> Response:
        """The answer to the POST."""
        body = self.body()
        only_refused = bool(self.refusals) and not self.data and not self.looked
        return reply(body, self.refusals[0] if only_refused else 200)


@dataclass(frozen=True, slots=True)
class _Address:
    """`POST /v1`, the one address."""

    state: ProviderState
    uploads: set[str]
    held: dict[str, list[dict[str, Any]]]
    """The frames that wait for a WebSocket session to come back, by its UUID."""
    sockets: dict[str, WebSocket]
    """The connection of each session that has one."""

    async def serve(self, request: Request) -> Response:
        """Carry out an array of tasks."""
        body = await request.body()
        try:
            tasks = _read(body)
            account = self.account(request.headers.get("authorization"), tasks)
        except _RefusedError as error:
            return reply({"errors": [error.row]}, error.status)
        outcome = _Outcome()
        late: list[Job] = []
        for task in tasks:
            try:
                await self.perform(account, task, outcome, late, large=len(body) > _BODY_ON_THE_LOOP)
            except _RefusedError as error:
                outcome.refuse(error, task)
        if not await self._wait(late):
            return HTMLResponse("<html><body><h1>504 Gateway Time-out</h1></body></html>", 504)
        for job in late:
            await self._results(job, outcome, final=True)
        return outcome.response()

    async def converse(self, socket: WebSocket) -> None:
        """Carry out the arrays of tasks that come over a WebSocket."""
        await socket.accept()
        await _Conversation(self, socket).run()

    def account(self, authorization: str | None, tasks: list[dict[str, Any]]) -> Account:
        """The customer by the header, or by an authentication task at the head of the array, which it takes away."""
        if tasks and tasks[0]["taskType"] == "authentication":
            key = tasks.pop(0).get("apiKey")
            authorization = authorization or f"Bearer {key}"
        account = self.state.account("runware", authorization)
        if account is None:
            code = "missingApiKey" if authorization is None else "invalidApiKey"
            message = "Invalid API key. Get one at https://my.runware.ai/signup"
            raise _RefusedError(401, code, message, parameter="apiKey", taskType="authentication")
        polls = any(task["taskType"] == "getResponse" for task in tasks)
        if polls and not account.may_poll(self.state.clock.now()):
            raise _RefusedError(429, "rateLimitExceeded", "Too many requests. Retry with backoff.")
        return account

    async def perform(
        self, account: Account, task: dict[str, Any], outcome: _Outcome, late: list[Job], *, large: bool
    ) -> None:
        """Carry out one task. A job whose results are awaited is added to `late`."""
        kind = task["taskType"]
        if kind == "getResponse":
            outcome.looked = True
            job = self.state.status(account, _checked(_Look, task).task_uuid)
            if job is not None and self.state.phase(job) is not Phase.PENDING:
                await self._results(job, outcome, final=False)
        elif kind == "imageUpload":
            image = _checked(_Upload, task).image
            await asyncio.to_thread(self._check_image, image)
            image_uuid = str(uuid.uuid5(uuid.NAMESPACE_OID, image))
            self.uploads.add(image_uuid)
            outcome.data.append({**_named(task), "imageUUID": image_uuid})
        elif kind == "accountManagement":
            operation = _checked(_Account, task).operation
            outcome.data.append({**_named(task), "operation": operation, **self._details(account)})
        elif kind == "videoInference":
            accept = self._accepted_video
            video = await asyncio.to_thread(accept, task) if large else accept(task)
            self._sold_video(account, video)
            outcome.data.append(_named(task))
        elif kind == "imageInference":
            sent = await asyncio.to_thread(self._accepted, task) if large else self._accepted(task)
            job = self._sold(account, sent)
            if sent.delivery == "sync" and not sent.webhook:
                late.append(job)
            else:
                outcome.data.append(_named(task))
        else:
            raise _RefusedError(400, "unsupportedTaskType", f"Unknown taskType {kind!r}", parameter="taskType")

    def _details(self, account: Account) -> dict[str, Any]:
        """What the account is, and what it has left and has used."""
        now = self.state.clock.now()
        left = account.balance(now)
        jobs = [job for job in self.state.jobs.values() if job.order.account is account]
        used = {"credits": float(sum((job.order.price for job in jobs), Decimal(0))), "requests": len(jobs)}
        return {
            "organizationUUID": str(uuid.uuid5(uuid.NAMESPACE_OID, account.key)),
            "organizationName": "Sandbox",
            "balance": float(left) if left is not None else _UNLIMITED,
            "team": [],
            "apiKeys": [{"name": "sandbox", "enabled": not account.revoked, "requests": len(jobs)}],
            "usage": dict.fromkeys(("total", "today", "last7Days", "last30Days"), used),
        }

    async def _wait(self, jobs: list[Job]) -> bool:
        """Wait for the ends of jobs; False: a gateway lost patience."""
        if not jobs:
            return True
        end = max(job.ends for job in jobs)
        patience = self.state.clock.now() + _GATEWAY
        await self.state.clock.until(min(end, patience))
        return end <= patience

    def _accepted(self, task: dict[str, Any]) -> _Inference:
        """The task, if it is one that this model serves."""
        sent = _checked(_Inference, task)
        size = f"{sent.width}x{sent.height}"
        if size not in _TIERS:
            message = f"{size} is not supported by {sent.model}"
            raise _RefusedError(400, "invalidDimensions", message, parameter=["width", "height"])
        if _TIERS[size] == "4K" and sent.model != _AIR:
            message = f"{size} is not supported by {sent.model}"
            raise _RefusedError(400, "unsupportedDimensions", message, parameter=["width", "height"])
        if sent.ttl and sent.output_type != "URL":
            raise _RefusedError(400, "incompatibleParameters", "ttl needs outputType URL", parameter="ttl")
        _check_addresses(sent)
        for image in sent.inputs.images:
            self._check_image(image)
        return sent

    def _accepted_video(self, task: dict[str, Any]) -> _VideoInference:
        """The task, if it is one that its model serves."""
        sent = _checked(_VideoInference, task)
        rule = RULES.get(sent.model)
        if rule is None:
            raise _RefusedError(400, "unknownModel", f"There is no model {sent.model}", parameter="model")
        _check_fields(sent, rule, task)
        _check_shape(sent, rule)
        _check_addresses(sent)
        for video in (*sent.inputs.videos, *([sent.inputs.video] if sent.inputs.video else [])):
            if not video.startswith(("https://", "http://")):
                raise _RefusedError(400, "invalidVideo", "a video is a URL", parameter="inputs")
        for image in (*(frame.image for frame in sent.inputs.frames), *sent.inputs.images):
            self._check_image(image)
        return sent

    def _check_image(self, image: str) -> None:
        problem = None
        try:
            if image.startswith(("http://", "https://")):
                check_url(image)
            elif not _is_uuid(image):
                check_data_uri(image if image.startswith("data:") else _as_data_uri(image), _ACCEPTED)
            elif image not in self.uploads:
                problem = "no image was uploaded under this UUID"
        except (BadImageError, OSError) as error:
            problem = str(error)
        if problem is not None:
            raise _RefusedError(400, "invalidReferenceImages", problem, parameter="inputs.referenceImages")

    def _sold_video(self, account: Account, sent: _VideoInference) -> Job:
        rule, settings = RULES[sent.model], sent.settings.klingai if sent.settings else _KlingSettings()
        size = sent.size or {"1080p": "1920x1080", "4k": "3840x2160"}.get(
            sent.resolution, (rule.sizes or HD).split()[0]
        )
        width, height = map(int, size.split("x"))
        source = bool(sent.inputs.videos or sent.inputs.video or (sent.model in O1 and sent.inputs.images))
        price = rule.price(size, sent.duration, sound=settings.sound, source=source)
        documented = CLIP_DURATIONS[min((5, 10, 15), key=lambda known: abs(known - sent.duration))]
        return self._submit(
            Order(
                account=account,
                endpoint="video",
                prompt=sent.prompt,
                media=(Clip(width, height, sent.duration, sent.prompt),) * sent.count,
                durations=documented,
                price=price * sent.count,
                params={
                    "output": "URL",
                    "kind": "video",
                    "sent": sent.model_dump(exclude={"inputs"}),
                    "cost": float(price) if sent.cost else None,
                    "checked": sent.safety.check or sent.safety.mode != "none",
                },
                callback_url=sent.webhook or None,
                references=thumbnails(sent),
                lifetime=sent.ttl or None,
                upload_url=sent.upload or None,
                id=sent.task_uuid,
            )
        )

    def _sold(self, account: Account, sent: _Inference) -> Job:
        picture = Picture(
            sent.width, sent.height, _FORMATS[sent.output_format], sent.prompt, quality=sent.output_quality
        )
        price = _PRICES[_TIERS[f"{sent.width}x{sent.height}"]]
        order = Order(
            account=account,
            endpoint="image-o3" if sent.model == _AIR else "image",
            prompt=sent.prompt,
            media=(picture,) * sent.count,
            durations=IMAGE_DURATION,
            price=price * sent.count,
            params={
                "output": sent.output_type,
                "kind": "image",
                "cost": float(price) if sent.cost else None,
                "checked": sent.safety.check or sent.safety.mode != "none",
            },
            callback_url=sent.webhook or None,
            references=thumbnails(sent),
            lifetime=sent.ttl or None,
            upload_url=sent.upload or None,
            id=sent.task_uuid,
        )
        return self._submit(order)

    def _submit(self, order: Order) -> Job:
        try:
            return self.state.submit(order)
        except DuplicateJobError as error:
            message = "A task with this taskUUID exists already."
            raise _RefusedError(400, "conflictTaskUUID", message, parameter="taskUUID") from error
        except InsufficientCreditsError as error:
            raise _RefusedError(402, "insufficientCredits", "Insufficient credits.") from error
        except UnknownDirectiveError as error:
            raise _RefusedError(400, "invalidPositivePrompt", str(error), parameter="positivePrompt") from error

    async def _results(self, job: Job, outcome: _Outcome, *, final: bool) -> None:
        """Add what there is of a job's images so far. A `final` answer has no status words."""
        for file in job.files:
            await self.result(job, file, outcome, final=final)

    async def result(self, job: Job, file: File, outcome: _Outcome, *, final: bool) -> None:
        """Add what there is of one image or video."""
        if file.ready > self.state.clock.now():
            outcome.data.append({**_task(job), "status": "processing"})
        elif (code := _failure(job, file)) is not None:
            outcome.errors.append({**_error(job, code), "status": "error"})
        else:
            row = self.row(job, file)
            if job.order.params["output"] != "URL":
                row |= _inline(job, file, await self.state.draw(file))
            outcome.data.append(row if final else {**row, "status": "success"})

    def row(self, job: Job, file: File) -> dict[str, Any]:
        """The row about a finished image or video, without the file itself."""
        params = job.order.params
        kind = params["kind"]
        row = {**_task(job), f"{kind}UUID": str(uuid.UUID(hex=file.id.ljust(32, "0"), version=4))}
        if params["output"] == "URL":
            row[f"{kind}URL"] = self.state.file_url(job, file)
        row["seed"] = file.media.seed
        if params["cost"] is not None:
            row["cost"] = params["cost"]
        if params["checked"]:
            row["NSFWContent"] = False
        return row

    async def callback(self, job: Job, index: int) -> dict[str, Any]:
        """The body of the webhook about one image."""
        file = job.files[index]
        code = _failure(job, file)
        if code is not None:
            return {"errors": [_error(job, code)]}
        row = self.row(job, file)
        if job.order.params["output"] != "URL":
            row |= _inline(job, file, await self.state.draw(file))
        return {"data": [row]}


class _Conversation:
    """One WebSocket.

    Args:
        address: What carries tasks out.
        socket: The connection, accepted.
    """

    def __init__(self, address: _Address, socket: WebSocket) -> None:
        self.address = address
        self.socket = socket
        self.session = ""
        self.key: str | None = None

    async def run(self) -> None:
        """Read frames until the client leaves or is silent for long. What it asked for is carried out all the same."""
        async with asyncio.TaskGroup() as group:
            try:
                while await self._frame(group):
                    pass
            except (WebSocketDisconnect, TimeoutError):
                pass
            finally:
                if self.address.sockets.get(self.session) is self.socket:
                    del self.address.sockets[self.session]

    async def _frame(self, group: asyncio.TaskGroup) -> bool:
        """Read one frame and begin its tasks. Return False if a fault has ended the connection."""
        frame = (await asyncio.wait_for(self.socket.receive_text(), _IDLE)).encode()
        rule = self._fault(_kind(frame))
        if rule is not None and rule.fault is not Fault.accept_then_reset:
            connection(self.socket).reset()
            return False
        try:
            tasks = _read(frame, alone=True)
            if tasks[0]["taskType"] == "authentication":
                await self._authenticate(tasks.pop(0))
            account = self.address.account(f"Bearer {self.key}" if self.key else None, tasks)
        except _RefusedError as error:
            await self.socket.send_json({"errors": [error.row]})
            return True
        for task in tasks:
            group.create_task(self._answer(account, task, large=len(frame) > _BODY_ON_THE_LOOP))
        if rule is not None:
            await asyncio.sleep(0)  # the tasks begin, and their answers are lost
            connection(self.socket).reset()
        return rule is None

    def _fault(self, kind: str) -> FaultRule | None:
        """Count a frame, and draw its fault: each ends the connection, before the tasks are begun or after."""
        state = self.address.state
        state.counters.requests["runware", kind] += 1
        rule = state.faults.draw("runware", kind)
        if rule is not None:
            state.counters.faults[rule.fault] += 1
        return rule

    async def _authenticate(self, task: dict[str, Any]) -> None:
        """Begin a session, or go on with one, which gets what was kept for it.

        Raises:
            _RefusedError: The key is not valid.
        """
        key = str(task.get("apiKey"))
        self.address.account(f"Bearer {key}", [])
        self.key, self.session = key, str(task.get("connectionSessionUUID") or uuid.uuid4())
        session = {"taskType": "authentication", "connectionSessionUUID": self.session}
        await self.socket.send_json({"data": [session]})
        self.address.sockets[self.session] = self.socket
        for frame in self.address.held.pop(self.session, []):
            await self.socket.send_json(frame)

    async def _answer(self, account: Account, task: dict[str, Any], *, large: bool) -> None:
        """Carry out one task, and send what comes of it."""
        if task["taskType"] == "ping":
            await self._send({"data": [{"taskType": "ping", "pong": True}]})
            return
        outcome, late = _Outcome(), list[Job]()
        try:
            await self.address.perform(account, task, outcome, late, large=large)
        except _RefusedError as error:
            outcome.refuse(error, task)
        if outcome.data or outcome.errors:
            await self._send(outcome.body())
        for job in late:
            for file in sorted(job.files, key=lambda file: file.ready):
                await self.address.state.clock.until(file.ready)
                outcome = _Outcome()
                await self.address.result(job, file, outcome, final=True)
                await self._send(outcome.body())

    async def _send(self, frame: dict[str, Any]) -> None:
        """Send a frame over the session's connection, or keep it for the next one."""
        try:
            await self.address.sockets.get(self.session, self.socket).send_json(frame)
        except (WebSocketDisconnect, RuntimeError):  # the latter where the socket is closed already
            self.address.held.setdefault(self.session, []).append(frame)


def emulate(state: ProviderState) -> Emulation:
    """Runware, as the sandbox plays it."""
    address = _Address(state, set(), {}, {})
    return Emulation(
        name="runware",
        api_key=f"rw-sandbox-{state.secret('runware')}",
        operations=[Operation(_kind, "POST", "", address.serve)],
        error_body=_error_body,
        client=_client,
        webhook=Webhook(
            moments=lambda job: [file.ready for file in job.files],
            body=address.callback,
            running=lambda job: {"data": [{**_task(job), "status": "processing"}]},
            pauses=(30.0, 30.0, 30.0),
        ),
        base_path="/v1",
        websocket=address.converse,
    )


def _client(api_key: str, base_url: str) -> Provider:
    from kling_async.providers.runware import Runware  # noqa: PLC0415 - the server does not need the client

    return Runware(api_key=api_key, base_url=base_url)


def _kind(body: bytes) -> str:
    """What an array is for. The names cannot stand in a string of the body: there the quotes would be escaped."""
    if b'"imageInference"' in body or b'"videoInference"' in body:
        return "submit"
    if b'"getResponse"' in body:
        return "status"
    kinds = {b'"imageUpload"': "upload", b'"accountManagement"': "account", b'"ping"': "ping"}
    return next((kind for name, kind in kinds.items() if name in body), "status")


def _error_body(status: int, _path: str, retry_after: float | None) -> dict[str, Any]:
    codes = {404: "taskNotFound", 429: "rateLimitExceeded", 500: "internalServerError", 503: "serviceUnavailable"}
    body: dict[str, Any] = {"errors": [{"code": codes.get(status, "unknownError"), "message": f"HTTP {status}"}]}
    return body if retry_after is None else {**body, "retryAfter": retry_after}


def _read(body: bytes, *, alone: bool = False) -> list[dict[str, Any]]:
    """The tasks of an array, each an object with a type and, unless it authenticates, a UUID of its own.

    Args:
        body: The array as JSON.
        alone: Whether an authentication may come without another task, and a ping, as over a WebSocket.

    Raises:
        _RefusedError: It is no such array.
    """
    try:
        tasks = json.loads(body)
    except ValueError as error:
        raise _RefusedError(400, "invalidJSON", f"The body is not JSON: {error}") from error
    if not isinstance(tasks, list) or not tasks:
        raise _RefusedError(400, "invalidRequest", "The body must be an array of task objects")
    for task in tasks:
        if not isinstance(task, dict) or not isinstance(task.get("taskType"), str):
            raise _RefusedError(400, "missingTaskType", "Every task is an object with a taskType")
        unnamed = {"authentication", "ping"} if alone else {"authentication"}
        if task["taskType"] not in unnamed and not _is_uuid(task.get("taskUUID"), version=4):
            raise _RefusedError(400, "invalidTaskUUID", "A taskUUID is a UUID v4", parameter="taskUUID")
    if [task["taskType"] for task in tasks] == ["authentication"] and not alone:
        raise _RefusedError(400, "missingTask", "An authentication task is followed by the tasks to be done")
    return tasks


def _check_addresses(sent: _Inference | _VideoInference) -> None:
    for name, url in (("webhookURL", sent.webhook), ("uploadEndpoint", sent.upload)):
        if url and not _is_callable(url):
            raise _RefusedError(400, _code("invalid", name), f"{name} is not a URL", parameter=name)


def _check_fields(sent: _VideoInference, rule: Rule, task: Mapping[str, Any]) -> None:
    """Refuse fields that the model does not have, and the lack of those that it needs."""
    own = {"positivePrompt", "negativePrompt", "width", "height", "resolution", "duration", "CFGScale", "inputs"}
    for name in sorted(({*own, "providerSettings"} & task.keys()) - rule.fields):
        raise _RefusedError(400, _code("unsupported", name), f"{name}: {sent.model} has no such field", parameter=name)
    for name in sorted(task.get("inputs", {}).keys() - rule.inputs):
        raise _RefusedError(
            400, _code("unsupported", name), f"{sent.model} takes no {name}", parameter=f"inputs.{name}"
        )
    settings = task.get("providerSettings", {}).get("klingai", {})
    for name in sorted(settings.keys() - rule.settings):
        raise _RefusedError(
            400, _code("unsupported", name), f"{sent.model} has no {name}", parameter="providerSettings"
        )
    if rule.prompt and not sent.prompt:
        raise _RefusedError(400, "missingPositivePrompt", "positivePrompt is required", parameter="positivePrompt")


def _check_shape(sent: _VideoInference, rule: Rule) -> None:
    """Refuse values that do not go together."""
    inputs = sent.inputs
    o1 = sent.model in O1
    video = bool(inputs.videos or inputs.video)
    durations = rule.durations if not o1 or inputs.images or video else {5, 10}
    if sent.duration not in durations:
        message = f"duration must be one of {sorted(durations)}"
        raise _RefusedError(400, "invalidDuration", message, parameter="duration")
    places = [frame.frame for frame in inputs.frames]
    if places not in ([], ["first"], ["first", "last"]) or ("last" in places and not rule.last):
        raise _RefusedError(400, "invalidFrameImages", "frames are not supported", parameter="inputs.frameImages")
    given = [bool(inputs.frames), bool(sent.size), *([bool(inputs.images) and not video] if o1 else [])]
    if sum(given) != 1:
        message = "Provide exactly one of frameImages, referenceImages (O1) or width/height"
        raise _RefusedError(400, "incompatibleParameters", message, parameter=["inputs", "width", "height"])
    if sent.size and sent.size not in rule.sizes.split():
        message = f"{sent.size} is not supported by {sent.model}"
        raise _RefusedError(400, "unsupportedDimensions", message, parameter=["width", "height"])
    if sent.resolution and (sent.size or not inputs.frames):
        raise _RefusedError(400, "incompatibleParameters", "resolution is for frameImages", parameter="resolution")
    if rule.resolutions is not None and sent.negative_prompt and not inputs.frames:
        raise _RefusedError(400, "incompatibleParameters", "negativePrompt needs frameImages", parameter="inputs")
    if video and len(inputs.images) > _BESIDE_A_VIDEO:
        raise _RefusedError(400, "invalidReferenceImages", "at most 4 beside a video", parameter="inputs")


_BESIDE_A_VIDEO = 4


def _is_callable(url: str) -> bool:
    """HTTPS only. Plain http is let through to this machine, where tests listen."""
    parts = urlsplit(url)
    on_this_machine = parts.scheme == "http" and parts.hostname in {"127.0.0.1", "localhost", "::1"}
    return bool(parts.hostname) and (parts.scheme == "https" or on_this_machine)


def _is_uuid(value: object, version: int | None = None) -> bool:
    try:
        parsed = uuid.UUID(value) if isinstance(value, str) else None
    except ValueError:
        return False
    return parsed is not None and str(parsed) == str(value).lower() and version in {None, parsed.version}


def _checked(kind: type[T], task: dict[str, Any]) -> T:
    """The task, if its fields are what the pages say.

    Raises:
        _RefusedError: One is not. It names the first.
    """
    try:
        return kind.model_validate(task)
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False)[0]
        parameter = ".".join(str(part) for part in problem["loc"])
        kinds = {"extra_forbidden": "unsupported", "missing": "missing"}
        limits = {{"ge": "min", "le": "max"}.get(k, k): v for k, v in problem.get("ctx", {}).items() if k != "error"}
        code = _code(kinds.get(problem["type"], "invalid"), str(problem["loc"][0]))
        raise _RefusedError(400, code, problem["msg"], parameter=parameter, **limits) from error


def _code(problem: str, parameter: str) -> str:
    """Such as `invalidWidth`."""
    return f"{problem}{parameter[:1].upper()}{parameter[1:]}"


def _as_data_uri(image: str) -> str:
    """Bare base64 as the data URI that it lacks the head of."""
    try:
        head = base64.b64decode(image[:16], validate=True)
    except (binascii.Error, ValueError) as error:
        raise BadImageError("neither a URL, a data URI, a UUID nor base64") from error
    kind = "png" if head.startswith(b"\x89PNG") else "webp" if head.startswith(b"RIFF") else "jpeg"
    return f"data:image/{kind};base64,{image}"


def _named(task: Mapping[str, Any]) -> dict[str, Any]:
    """An acknowledgement."""
    return {"taskType": task["taskType"], "taskUUID": task["taskUUID"]}


def _task(job: Job) -> dict[str, Any]:
    return {"taskType": f"{job.order.params['kind']}Inference", "taskUUID": job.id}


def _failure(job: Job, file: File) -> str | None:
    code = file.failure or job.failure
    return None if code is None else _CODES.get(code, code)


def _error(job: Job, code: str) -> dict[str, Any]:
    message = _REASONS.get(code, "The generation failed.")
    return {"code": code, "message": message, "documentation": _DOCS, "taskUUID": job.id}


def _inline(job: Job, file: File, image: bytes) -> dict[str, str]:
    text = base64.b64encode(image).decode("ascii")
    if job.order.params["output"] == "base64Data":
        return {"imageBase64Data": text}
    kind = file.media.format if isinstance(file.media, Picture) else "jpeg"
    return {"imageDataURI": f"data:image/{kind};base64,{text}"}
