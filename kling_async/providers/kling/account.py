"""What a Kling account has besides jobs: elements, voices, and money. ``client.kling`` is a `KlingAccount`."""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Self, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from kling_async._errors import ConfigurationError
from kling_async._exchange.calls import Call, Effect, Flow
from kling_async.providers._base.images import NO_IMAGES, References
from kling_async.providers.kling.errors import KlingErrors
from kling_async.providers.kling.media import VideoUrl, images, wire
from kling_async.providers.kling.video import Element, Id, Voice

__all__ = [
    "AccountElement",
    "AccountVoice",
    "KlingAccount",
    "KlingCollection",
    "KlingElements",
    "KlingVoices",
    "NewElement",
    "NewVoice",
]

Label: TypeAlias = Annotated[str, StringConstraints(min_length=1, max_length=20)]
ElementImages: TypeAlias = Annotated[References, images(4)]

Run = Callable[[Flow[Any]], Awaitable[Any]]
_MOST_ON_A_PAGE = 500


class NewElement(BaseModel):
    """An element to make: a character or a thing, from images or from one video.

    Source: a public copy of the page "element management" and three public clients, which agree.

    Args:
        name: 1 to 20 characters.
        description: 1 to 100 characters.
        images: The front view first, then other views: 2 to 4 JPEG or PNG, 10 MB each (the number is unverified). Local
            files are passed as their bytes. In place of `video_url`.
        video_url: URL of one MP4 or MOV of 3 to 8 s, 1080p. It makes a video character. In place of `images`.
        voice_id: A voice of the account. Only for a video character.
        tags: Ids of Kling's tags, such as ``o_102``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Label
    description: Annotated[str, StringConstraints(min_length=1, max_length=100)]
    images: ElementImages = NO_IMAGES
    video_url: VideoUrl | None = None
    voice_id: Id | None = None
    tags: tuple[Id, ...] = ()

    @model_validator(mode="after")
    def _check(self) -> Self:
        if bool(self.images) == (self.video_url is not None):
            raise ValueError("give one of images and video_url")
        if any(isinstance(image, Path) for image in self.images):
            raise ValueError("images has a local file; pass its bytes (path.read_bytes())")
        if self.voice_id is not None and self.video_url is None:
            raise ValueError(f"voice_id is {self.voice_id!r}; only an element from a video takes a voice")
        return self

    def body(self) -> dict[str, Any]:
        """The body of the call."""
        body: dict[str, Any] = {"element_name": self.name, "element_description": self.description}
        if self.video_url is not None:
            body |= {"reference_type": "video_refer"}
            body["element_video_list"] = {"refer_videos": [{"video_url": self.video_url}]}
        else:
            front, *others = (wire(image) for image in self.images)
            body |= {"reference_type": "image_refer"}
            body["element_image_list"] = {
                "frontal_image": front,
                "refer_images": [{"image_url": image} for image in others],
            }
        if self.voice_id is not None:
            body["element_voice_id"] = self.voice_id
        if self.tags:
            body["tag_list"] = [{"tag_id": tag} for tag in self.tags]
        return body


class NewVoice(BaseModel):
    """A voice to make, from a recording of one speaker.

    Source: a public copy of the page "voice management" and three public clients, which agree.

    Args:
        name: 1 to 20 characters.
        url: URL of an MP3, WAV, MP4 or MOV of 5 to 30 s. In place of `video_id`.
        video_id: The id of a video with speech that Kling made. In place of `url`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Label
    url: Annotated[str, Field(pattern=r"^https?://")] | None = None
    video_id: Id | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.url is None) == (self.video_id is None):
            raise ValueError("give one of url and video_id")
        return self

    def body(self) -> dict[str, Any]:
        """The body of the call."""
        source = {"voice_url": self.url} if self.url is not None else {"video_id": self.video_id}
        return {"voice_name": self.name, **source}


@dataclass(frozen=True, slots=True)
class AccountElement:
    """An element that exists.

    Attributes:
        id: Its id.
        name: The name that it was given.
        description: Its description.
        video_character: Whether it was made from a video.
        owned_by: The id of its maker, or ``kling`` for a preset.
        status: In Kling's own word. Empty if it says none.
        raw: What Kling says about it.
    """

    id: str
    name: str
    description: str
    video_character: bool
    owned_by: str
    status: str
    raw: Mapping[str, Any] = field(repr=False)

    def named(self, name: str) -> Element:
        """The input of a request, under the name that the prompt uses for it."""
        return Element(id=self.id, name=name, video_character=self.video_character)


@dataclass(frozen=True, slots=True)
class AccountVoice:
    """A voice that exists.

    Attributes:
        id: Its id.
        name: The name that it was given.
        url: Where it can be heard. Empty if Kling says none.
        owned_by: The id of its maker, or ``kling`` for a preset.
        status: In Kling's own word. Empty if it says none.
        raw: What Kling says about it.
    """

    id: str
    name: str
    url: str
    owned_by: str
    status: str
    raw: Mapping[str, Any] = field(repr=False)

    def named(self, name: str) -> Voice:
        """The input of a request, under the name that the prompt uses for it."""
        return Voice(id=self.id, name=name)


class KlingCollection:
    """The elements or the voices of an account.

    A task makes each. The fields of a task are returned as Kling writes them; `made` reads what a task made.
    """

    def __init__(self, run: Run, errors: KlingErrors, own: str, presets: str, removal: str) -> None:
        self._run = run
        self._errors = errors
        self._own, self._presets, self._removal = own, presets, removal

    async def create(
        self, fields: NewElement | NewVoice | Mapping[str, Any], *, attempt_id: str | None = None
    ) -> Mapping[str, Any]:
        """Make one. Kling makes it in the background: `get` returns it when it is ready.

        Args:
            fields: A `NewElement` or a `NewVoice`, or the body in Kling's own words.
            attempt_id: Our id of the purchase, as Kling stores it (``external_task_id``). Creating again under the same
                id makes nothing twice. If None, a new one.

        Returns:
            The task: ``task_id``, ``task_status`` and so on.

        Raises:
            KlingError: It was refused, or the answer was lost (create it again under the same `attempt_id`).
        """
        given = fields if isinstance(fields, Mapping) else fields.body()
        body = {**given, "external_task_id": attempt_id or str(uuid.uuid4())}
        call = Call.post(self._own, body, Effect.PAID, repeatable=True)
        found: Mapping[str, Any] = await self._run(self._data(call))
        return found

    async def get(self, task_id: str) -> Mapping[str, Any]:
        """The task that makes one, by Kling's id or by our `attempt_id`.

        Raises:
            KlingError: It is not known, or the call failed.
        """
        if not task_id or not all(letter.isalnum() or letter in "-_" for letter in task_id):
            raise ConfigurationError(f"{task_id!r:.80} cannot be the id of a task", provider="kling")
        found: Mapping[str, Any] = await self._run(self._data(Call.get(f"{self._own}/{task_id}")))
        return found

    async def list(self, *, presets: bool = False, page: int = 1, page_size: int = 100) -> Sequence[Mapping[str, Any]]:
        """One page of them.

        Args:
            presets: List those that Kling offers to everybody, not the account's own.
            page: From 1 to 1 000.
            page_size: From 1 to 500.

        Raises:
            KlingError: The call failed.
        """
        if not (1 <= page <= 1000 and 1 <= page_size <= _MOST_ON_A_PAGE):  # noqa: PLR2004  # Kling's limits
            raise ConfigurationError(
                f"page={page}, page_size={page_size}: Kling allows 1 to 1000, and 1 to {_MOST_ON_A_PAGE}",
                provider="kling",
            )
        path = self._presets if presets else self._own
        found = await self._run(self._data(Call.get(f"{path}?pageNum={page}&pageSize={page_size}")))
        return found if isinstance(found, list) else []

    async def delete(self, one: str | AccountElement | AccountVoice | Mapping[str, Any]) -> None:
        """Delete one.

        Args:
            one: The element or the voice, its id, or the body in Kling's own words.

        Raises:
            KlingError: The call failed.
        """
        identity = one.id if isinstance(one, AccountElement | AccountVoice) else one
        body = dict(identity) if isinstance(identity, Mapping) else {self.id_field: identity}
        await self._run(self._data(Call.post(self._removal, body, Effect.WRITE)))

    id_field = ""
    """What Kling calls the id in a deletion."""

    def _made(self, task: Mapping[str, Any], name: str) -> Iterator[Mapping[str, Any]]:
        """What a task made, in either form of a task."""
        result = task.get("task_result")
        listed = result.get(f"{name}s") if isinstance(result, Mapping) else None
        outputs = listed if isinstance(listed, list) else task.get("outputs")
        for item in outputs if isinstance(outputs, list) else ():
            if isinstance(item, Mapping) and item.get("type", name) == name:
                yield item

    def _data(self, call: Call) -> Flow[Any]:
        return self._errors.data((yield call))


class KlingElements(KlingCollection):
    """The elements of an account."""

    id_field = "element_id"

    def made(self, task: Mapping[str, Any]) -> list[AccountElement]:
        """The elements that a task made. Empty as long as it runs."""
        return [
            AccountElement(
                id=str(item.get("element_id", item.get("id", ""))),
                name=str(item.get("element_name", item.get("name", ""))),
                description=str(item.get("element_description", item.get("description", ""))),
                video_character=item.get("reference_type", item.get("element_type")) in _FROM_VIDEO,
                owned_by=str(item.get("owned_by", "")),
                status=str(item.get("status", "")),
                raw=item,
            )
            for item in self._made(task, "element")
        ]


class KlingVoices(KlingCollection):
    """The voices of an account."""

    id_field = "voice_id"

    def made(self, task: Mapping[str, Any]) -> list[AccountVoice]:
        """The voices that a task made. Empty as long as it runs."""
        return [
            AccountVoice(
                id=str(item.get("voice_id", item.get("id", ""))),
                name=str(item.get("voice_name", item.get("name", ""))),
                url=str(item.get("trial_url", item.get("url", ""))),
                owned_by=str(item.get("owned_by", "")),
                status=str(item.get("status", "")),
                raw=item,
            )
            for item in self._made(task, "voice")
        ]


_FROM_VIDEO = frozenset({"video_refer", "video"})


class KlingAccount:
    """A Kling account, besides its jobs.

    Attributes:
        elements: Characters and things that requests may refer to.
        voices: Voices that requests may refer to.
    """

    def __init__(self, run: Run, errors: KlingErrors) -> None:
        self._run = run
        self._errors = errors
        base = "/v1/general"
        self.elements = KlingElements(
            run,
            errors,
            f"{base}/advanced-custom-elements",
            f"{base}/advanced-presets-elements",
            f"{base}/delete-advanced-elements",
        )
        self.voices = KlingVoices(
            run, errors, f"{base}/custom-voices", f"{base}/presets-voices", f"{base}/delete-voices"
        )

    @classmethod
    def of(cls, client: Any) -> Self:
        """The account of a client's Kling provider: same as ``client.kling``, for type checkers."""
        found: Self = client.kling
        return found

    async def balance(self) -> Mapping[str, Any]:
        """What the account has left, as Kling writes it: no public source names the fields.

        Raises:
            KlingError: The call failed.
        """
        found: Mapping[str, Any] = await self._run(self._data(Call.post("/account/billing/balance", {}, Effect.READ)))
        return found

    async def costs(self, start: datetime, end: datetime) -> Mapping[str, Any]:
        """What the resource packs were used for, up to 12 hours late. Kling allows one such call a second.

        Args:
            start: Aware.
            end: Aware.

        Raises:
            KlingError: The call failed.
        """
        if start.tzinfo is None or end.tzinfo is None or end <= start:
            raise ConfigurationError("costs() takes two aware moments, the earlier one first", provider="kling")
        times = f"start_time={int(start.timestamp() * 1000)}&end_time={int(end.timestamp() * 1000)}"
        found: Mapping[str, Any] = await self._run(self._data(Call.get(f"/account/costs?{times}")))
        return found

    def _data(self, call: Call) -> Flow[Any]:
        return self._errors.data((yield call))
