"""Kling's own API: both generations behind one provider.

Wire facts: ``kling.ai/document-api`` and public reports of calls with a paid account, September 2026. See
``docs/providers/kling.md``.

- The id of a job is the ``external_task_id`` that we choose: the attempt's UUID. Kling accepts it once in an account,
  across products and generations, so a submission whose answer was lost is found by it, or sent again under it. A task
  that was made elsewhere is followed by Kling's own number.
- ``GET /tasks`` reads the tasks of both generations, 20 at most. An id that it does not know is simply missing.
- With an access key and a secret key instead of an API key, only ``/v1`` works: there jobs are read one by one.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar, Literal

from pydantic import SecretStr

from kling_async._errors import ConfigurationError, JobNotFound, KlingError, Remedy
from kling_async._event_loop.clock import Clock
from kling_async._exchange.calls import Call, Effect, Flow, Reply
from kling_async._models import JobRef, StatusReport
from kling_async._scheduling.schedules import DurationPrior, Progressive
from kling_async.providers._base.credentials import ProviderConfig, Secret
from kling_async.providers._base.endpoint import Endpoint, Features
from kling_async.providers._base.error_mapping import ErrorMapper
from kling_async.providers._base.offers import Offer
from kling_async.providers._base.provider import Accepted, Provider, WebhookItem, path_id
from kling_async.providers.kling.account import KlingAccount
from kling_async.providers.kling.errors import TOKEN_EXPIRED, TOKEN_TOO_NEW, KlingErrors
from kling_async.providers.kling.legacy import (
    Avatar,
    Effects,
    ExpandImage,
    ImageGeneration,
    LegacyRequest,
    LipSync,
    MultiImageToImage,
    OmniImage,
    TextToAudio,
    TextToSpeech,
    VideoToAudio,
    VirtualTryOn,
)
from kling_async.providers.kling.portable import OFFERS
from kling_async.providers.kling.prices import price
from kling_async.providers.kling.responses import external_id, is_task, task_id, task_report
from kling_async.providers.kling.tokens import TokenMaker
from kling_async.providers.kling.video import ImageToVideo, MotionControl, OmniVideo, TextToVideo, VideoRequest

__all__ = ["Kling"]

_HOSTS = {"global": "https://api-singapore.klingai.com", "china": "https://api-beijing.klingai.com"}
_OURS = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_NO_WATERMARK = frozenset({TextToAudio, VideoToAudio})
_FACES = "/v1/videos/identify-face"
_SPEECH = "kling/text-to-speech"
_MONTH = 30 * 86400.0
_VIDEO = Progressive(10, 10, 10, 15, first=20)
_PICTURE = Progressive(3, 3, 4, 5, 10, first=6)


def _video_duration(request: Any) -> DurationPrior:
    """A 3 s clip of the turbo model took 28 s. The others are not documented: set from the times of resellers."""
    if request is None:
        return DurationPrior(240, 0.6)
    seconds = getattr(request, "duration", 10)
    per_second = 9.0 if getattr(request, "model", "") == "kling-3.0-turbo" else 22.0
    factor = {"1080p": 1.3, "4k": 2.0}.get(getattr(request, "resolution", ""), 1.0)
    return DurationPrior(min(20 + per_second * seconds * factor, 900), 0.5)


def _video(kind: type[Any], deadline: float = 3600.0) -> Endpoint[Any]:
    return Endpoint(kind, _VIDEO, deadline, _video_duration, _variant, price)


def _picture(kind: type[Any]) -> Endpoint[Any]:
    # 24 s for a picture: measured by others with a paid account.
    return Endpoint(kind, _PICTURE, 1200.0, lambda _: DurationPrior(24, 0.5), _variant, price)


def _variant(request: Any) -> str:
    names = ("model", "resolution", "duration", "audio", "mode", "count", "series")
    return " ".join(f"{name}={value}" for name in names if (value := getattr(request, name, None)) is not None)


class Kling(Provider):
    """Kling's own API, https://kling.ai.

    Environment: ``KLING_API_KEY`` (or ``KLINGAI_API_KEY``), ``KLING_BASE_URL``. Instead of an API key
    ``KLING_ACCESS_KEY`` with ``KLING_SECRET_KEY`` (or ``KLINGAI_ACCESS_KEY`` with ``KLINGAI_SECRET_KEY``).

    Args:
        api_key: The API key. It works for everything.
        base_url: Another address than Kling's own.
        region: Which site the account belongs to. Keys of one are not valid at the other. Not with `base_url`.
        access_key: With `secret_key` in place of the API key: for the endpoints under ``/v1``, which are all but the
            four of videos. Needs the package ``pyjwt`` (``pip install 'kling-async[kling]'``).
        secret_key: See `access_key`.

    Raises:
        ConfigurationError: A secret or the address cannot be used.
    """

    name: ClassVar[str] = "kling"
    display_name: ClassVar[str] = "Kling"
    default_url: ClassVar[str] = _HOSTS["global"]
    env_vars: ClassVar[tuple[str, str]] = ("KLING_API_KEY", "KLING_BASE_URL")
    webhook_secret_variable: ClassVar[str | None] = "KLING_WEBHOOK_SECRET"  # noqa: S105  # its name, not its value
    other_secrets: ClassVar[tuple[tuple[Secret, ...], ...]] = (
        (Secret("api_key", "KLINGAI_API_KEY"),),
        (Secret("access_key", "KLING_ACCESS_KEY"), Secret("secret_key", "KLING_SECRET_KEY")),
        (Secret("access_key", "KLINGAI_ACCESS_KEY"), Secret("secret_key", "KLINGAI_SECRET_KEY")),
    )
    features: ClassVar[Features] = Features(
        webhook=True, batch=20, client_chosen_id=True, client_id_lifetime=_MONTH, cost_unit="USD", refunds=True
    )
    portable: ClassVar[Sequence[Offer]] = OFFERS
    error_mapper: ClassVar[type[ErrorMapper]] = KlingErrors
    errors: KlingErrors
    endpoints: ClassVar[tuple[Endpoint[Any], ...]] = (
        _video(TextToVideo),
        _video(ImageToVideo),
        _video(OmniVideo),
        _video(MotionControl),
        _picture(OmniImage),
        _picture(ImageGeneration),
        _picture(MultiImageToImage),
        _picture(ExpandImage),
        _picture(VirtualTryOn),
        _video(Avatar, 7200.0),
        _video(LipSync, 7200.0),
        _picture(TextToAudio),
        _picture(VideoToAudio),
        _picture(TextToSpeech),
        _video(Effects),
    )

    def __init__(
        self,
        api_key: str | SecretStr | None = None,
        base_url: str | None = None,
        *,
        region: Literal["global", "china"] | None = None,
        access_key: str | SecretStr | None = None,
        secret_key: str | SecretStr | None = None,
    ) -> None:
        if region is not None and region not in _HOSTS:
            raise ConfigurationError(
                f"Kling(region={region!r:.40}): it must be 'global' or 'china'", provider=self.name
            )
        if region is not None and base_url is not None:
            raise ConfigurationError("Kling takes region or base_url, not both", provider=self.name)
        if (access_key is None) != (secret_key is None):
            raise ConfigurationError(
                "Kling's access_key and secret_key belong together, and one of them is missing", provider=self.name
            )
        secrets = {"api_key": api_key, "access_key": access_key, "secret_key": secret_key}
        address = base_url if region is None else _HOSTS[region]
        self.configure(ProviderConfig.create(self.identity(), secrets, address))

    def configure(self, config: ProviderConfig) -> None:
        """Use this configuration from now on."""
        super().configure(config)
        self._tokens: TokenMaker | None = None
        self._clock = Clock()

    @property
    def uses_tokens(self) -> bool:
        """Whether it authenticates by access key and secret key, for lack of an API key."""
        return "api_key" not in self.config.values and self.config.complete

    def credentials(self) -> Mapping[str, str]:
        """The API key, or a JWT that the secret key signs."""
        if not self.uses_tokens:
            return super().credentials()
        if self._tokens is None:
            secrets = self.config.values
            self._tokens = TokenMaker(
                secrets["access_key"].get_secret_value(), secrets["secret_key"].get_secret_value()
            )
        return {"authorization": f"Bearer {self._tokens.token(self._clock.now())}"}

    def deduplicates(self, endpoint: str) -> bool:
        """All endpoints but text to speech, which takes no id of ours."""
        return endpoint != _SPEECH

    def client_chosen_id(self, request: Any, attempt_id: str) -> str | None:
        """The attempt's UUID. None for text to speech."""
        return None if isinstance(request, TextToSpeech) else attempt_id

    def account(self, run: Callable[[Flow[Any]], Awaitable[Any]]) -> KlingAccount:
        """Elements, voices and money."""
        return KlingAccount(run, self.errors)

    def submit(self, request: Any, attempt_id: str, callback_url: str | None) -> Flow[Accepted]:
        """One paid POST under an id of ours. "Already exists" means that Kling has it, which a read confirms."""
        if isinstance(request, TextToSpeech):
            return (yield from self._speak(request))
        self._require_api_key(request)
        body = yield from self._body(request)
        path = _path(request)
        address = request.callback_url or callback_url
        options: dict[str, Any] = {"external_task_id": attempt_id}
        if address is not None:
            options["callback_url"] = address
        if type(request) not in _NO_WATERMARK:
            options["watermark_info"] = {"enabled": request.watermark}
        whole = {**body, "options": options} if isinstance(request, VideoRequest) else {**body, **options}
        call = Call.post(path, whole, Effect.PAID, repeatable=True, slot=_slot(request))
        reply = yield from self._send(call)
        if self.errors.says_it_exists(reply):
            found = yield from self.find(request, attempt_id)
            if found is None:
                raise self.errors.unreadable("it says that the task exists, and then does not know the task")
            return found
        task = self._submitted(reply)
        return Accepted(attempt_id, self._report(task, None) if is_task(task) else StatusReport(None, raw=task))

    def _submitted(self, reply: Reply) -> Any:
        data = self.errors.data(reply)
        if not isinstance(data, dict) or task_id(data) is None:
            raise self.errors.unreadable("it reports success and names no task")
        return data

    def _report(self, task: Mapping[str, Any], ref: JobRef | None) -> StatusReport:
        try:
            return self.errors.redact_report(task_report(task))
        except ValueError as error:
            if ref is None:  # the answer to a submission: the task exists, with any fault in the rest
                return StatusReport(None, unrecognized=str(error), raw=dict(task))
            raise self.errors.unreadable(str(error), ref) from error

    def _body(self, request: Any) -> Flow[dict[str, Any]]:
        """What describes the generation."""
        if isinstance(request, TextToVideo):
            return {"prompt": request.prompt, "settings": request.settings()}
        if isinstance(request, VideoRequest):
            return {"contents": request.contents(), "settings": request.settings()}
        if isinstance(request, LipSync):
            session, face = request.session_id, request.face_id
            if session is None or face is None:
                session, face = yield from self._find_face(request)
            return request.body_for(session, face)
        body = request.body()
        return {name: value for name, value in body.items() if value is not None}

    def _find_face(self, request: LipSync) -> Flow[tuple[str, str]]:
        """Search the video for faces: paid, and not deduplicated by Kling, so it is never sent again."""
        reply = yield from self._send(Call.post(_FACES, request.search_body(), Effect.PAID))
        data = self.errors.data(reply)
        session = data.get("session_id") if isinstance(data, dict) else None
        faces = data.get("face_data") if isinstance(data, dict) else None
        found = [
            str(face["face_id"])
            for face in (faces if isinstance(faces, list) else ())
            if isinstance(face, dict) and "face_id" in face
        ]
        if not isinstance(session, str) or not session:
            raise self.errors.unreadable("the search for faces names no session")
        if request.face >= len(found):
            raise self.errors.make_error(
                reply.status, "1201", f"the video shows {len(found)} faces, and face is {request.face} (from 0)"
            )
        return session, found[request.face]

    def _speak(self, request: TextToSpeech) -> Flow[Accepted]:
        """Text to speech: the answer is the result. There is no id of ours, so it is never sent again."""
        body = {name: value for name, value in request.body().items() if value is not None}
        reply = yield from self._send(Call.post(request.path, body, Effect.PAID))
        task = self._submitted(reply)
        identity = task_id(task)
        assert identity is not None  # noqa: S101  # `_submitted` refuses such a task
        try:
            JobRef(self.name, request.endpoint.partition("/")[2], identity)
        except ValueError as error:
            raise self.errors.unreadable(
                f"it reports success, and its job id cannot be used: {identity!r:.200}"
            ) from error
        return Accepted(identity, self._report(task, None))

    def _send(self, call: Call) -> Flow[Reply]:
        """Send a call, and once more with a fresh token where Kling refused the token for its time."""
        reply = yield call
        if self.uses_tokens and not reply.ok and self._tokens is not None:
            code = self.errors.code(reply)
            if code in {TOKEN_EXPIRED, TOKEN_TOO_NEW}:
                self._tokens.renew(earlier=code == TOKEN_TOO_NEW)
                reply = yield call
        return reply

    def _require_api_key(self, request: Any) -> None:
        if self.uses_tokens and isinstance(request, VideoRequest):
            raise ConfigurationError(
                f"{request.endpoint} needs an API key: Kling accepts an access key and a secret key only for its older "
                "endpoints, which are the pictures, avatar, lip-sync, sound and effects. Nothing was sent",
                provider=self.name,
                remedies=(
                    Remedy("configure", detail="set KLING_API_KEY"),
                    Remedy("configure", detail="pass Kling(api_key=...)"),
                ),
            )

    def find(self, request: Any, attempt_id: str) -> Flow[Accepted | None]:
        """The task of an attempt, by its external id."""
        ref = JobRef(self.name, request.endpoint.partition("/")[2], attempt_id)
        answer = (yield from self.poll([ref]))[ref]
        if isinstance(answer, StatusReport):
            return Accepted(attempt_id, answer)
        if isinstance(answer, JobNotFound):
            return None
        raise answer

    def poll(self, refs: Sequence[JobRef]) -> Flow[Mapping[JobRef, StatusReport | KlingError]]:
        """One call for our ids and one for Kling's own numbers, of which a client's jobs have none."""
        if self.uses_tokens:
            return (yield from self._poll_each(refs))
        found: dict[JobRef, StatusReport | KlingError] = {}
        for name, group in (("external_task_ids", _OURS.fullmatch), ("task_ids", _is_number)):
            chosen = [ref for ref in refs if bool(group(ref.id))]
            for start in range(0, len(chosen), self.features.batch):
                found |= yield from self._poll_some(name, chosen[start : start + self.features.batch])
        return found

    def _poll_some(self, name: str, refs: Sequence[JobRef]) -> Flow[dict[JobRef, StatusReport | KlingError]]:
        """One status call. If one id makes the answer useless for all, they are asked about in halves."""
        reply = yield from self._send(Call.get(f"/tasks?{name}={','.join(path_id(ref) for ref in refs)}"))
        if reply.status == _BAD_REQUEST and len(refs) > 1:
            middle = len(refs) // 2
            found = yield from self._poll_some(name, refs[:middle])
            return found | (yield from self._poll_some(name, refs[middle:]))
        if reply.status == _BAD_REQUEST and self.errors.says_it_is_absent(reply):
            return {ref: self.errors.absent(ref.id, reply) for ref in refs}
        data = self.errors.data(reply)
        rows = data if isinstance(data, list) else [data]
        identify = external_id if name == "external_task_ids" else task_id
        tasks = {identify(row): row for row in rows if is_task(row)}
        return {
            ref: self._answer(tasks[ref.id], ref) if ref.id in tasks else self.errors.absent(ref.id, reply)
            for ref in refs
        }

    def _answer(self, task: Mapping[str, Any], ref: JobRef) -> StatusReport | KlingError:
        try:
            return self._report(task, ref)
        except KlingError as error:
            return error

    def _poll_each(self, refs: Iterable[JobRef]) -> Flow[dict[JobRef, StatusReport | KlingError]]:
        """One call a job, under ``/v1``: `/tasks` does not take a JWT."""
        found: dict[JobRef, StatusReport | KlingError] = {}
        for ref in refs:
            kind = self.endpoint(ref.endpoint).request
            if not issubclass(kind, LegacyRequest):
                found[ref] = ConfigurationError(
                    f"{ref.endpoint} needs an API key: Kling accepts an access key and a secret key only for its older "
                    "endpoints",
                    provider=self.name,
                    ref=str(ref),
                    remedies=(Remedy("configure", detail="set KLING_API_KEY"),),
                )
                continue
            reply = yield from self._send(Call.get(f"{kind.path}/{path_id(ref)}"))
            if self.errors.says_it_is_absent(reply):
                found[ref] = self.errors.absent(ref.id, reply)
                continue
            try:
                data = self.errors.data(reply)
                if not is_task(data) or ref.id not in {external_id(data), task_id(data)}:
                    raise self.errors.unreadable("it is about another job, or about none", ref)
                found[ref] = self._report(data, ref)
            except KlingError as error:
                found[ref] = error
        return found

    def parse_webhook(self, body: bytes, headers: Mapping[str, str]) -> Sequence[WebhookItem]:
        """A task in either form, flat or in an envelope. It is sent on every change of status."""
        del headers
        data = Reply(200, content=body).json()
        task = data.get("data") if isinstance(data, dict) and is_task(data.get("data")) else data
        if not is_task(task):
            raise self.errors.unreadable("a webhook body that names no task")
        ours = external_id(task)
        try:
            report = self._report(task, JobRef(self.name, "webhook", ours or task_id(task) or "none"))
        except ValueError as error:
            raise self.errors.unreadable(f"a webhook body with an unusable id: {error}") from error
        return [WebhookItem(ours or task_id(task), report)]


_BAD_REQUEST = 400


def _is_number(identity: str) -> bool:
    return _OURS.fullmatch(identity) is None


def _path(request: Any) -> str:
    if isinstance(request, VideoRequest):
        return f"/{request.product}/{request.value('model')}"
    path: str = request.path
    return path


def _slot(request: Any) -> str:
    """What Kling counts running tasks by: the kind of pack and the model."""
    return f"{request.endpoint} {getattr(request, 'model', '')}".strip()
