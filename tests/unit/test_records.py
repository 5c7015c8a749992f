"""Plain values: as dataclasses, in less time."""

from __future__ import annotations

import copy
import pickle
from dataclasses import FrozenInstanceError, dataclass, field, fields, replace
from typing import Any

import pytest

from kling_async._exchange.calls import Call, Effect
from kling_async._records import record
from kling_async.providers._base.choices import ImageInput
from kling_async.providers._base.endpoint import Endpoint, Features
from kling_async.providers._base.offers import ImageOffer, Option, Unmet, VideoOffer
from kling_async.providers._base.price import Price


@record
class Point:
    x: float
    tags: tuple[str, ...] = ()
    secret: str = field(default="", repr=False)
    note: Any = field(default=None, hash=False)
    _read: list[int] = field(default_factory=list, init=False, repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class Reference:
    x: float
    tags: tuple[str, ...] = ()
    secret: str = field(default="", repr=False)
    note: Any = field(default=None, hash=False)
    _read: list[int] = field(default_factory=list, init=False, repr=False, compare=False)


@record
class Named:
    name: str

    def __repr__(self) -> str:
        return f"<{self.name}>"


@record
class Other:
    name: str


def test_it_is_shown_compared_and_copied_as_a_dataclass() -> None:
    given: list[tuple[Any, ...]] = [(1.0,), (1.0, ("a",)), (2.0, (), "key"), (1.0, (), "", "n")]
    for values in given:
        point = Point(*values)
        assert repr(point) == repr(Reference(*values)).replace("Reference", "Point")
        assert "key" not in repr(point)
        for others in given:
            assert (point == Point(*others)) is (Reference(*values) == Reference(*others))
        assert replace(point, x=7.0) == Point(7.0, *values[1:])
        assert not hasattr(point, "__dict__")
    assert Point(1.0, note=[]) == Point(1.0, note=[])
    assert hash(Point(1.0, note=[])) == hash(Point(1.0)), "the note is no part of it"
    assert hash(Point(1.0)) != hash(Point(2.0))
    assert len({Point(1.0), Point(1.0), Point(2.0)}) == 2


def test_what_is_not_compared_does_not_count() -> None:
    one, two = Point(1.0), Point(1.0)
    one._read.append(1)
    assert one == two
    assert hash(one) == hash(two)


def test_its_own_methods_and_its_kind_count() -> None:
    assert repr(Named("a")) == "<a>"
    assert Named("a") == Named("a")
    others: list[object] = [Other("a"), "a"]
    assert Named("a") not in others
    assert Other("a") in others


def test_it_can_be_copied_and_sent_to_another_process() -> None:
    call = Call.get("/v1/status", headers={"x": "1"})
    for same in (copy.copy(call), copy.deepcopy(call), pickle.loads(pickle.dumps(call))):  # noqa: S301  # our own
        assert same == call
    assert call != Call("GET", "/v1/status", Effect.PAID)


@pytest.mark.parametrize("kind", [Endpoint, Features, ImageInput, ImageOffer, Option, Price, Unmet, VideoOffer])
def test_what_users_hold_refuses_assignment_at_run_time_too(kind: Any) -> None:
    held = object.__new__(kind)
    with pytest.raises(FrozenInstanceError):
        setattr(held, fields(kind)[0].name, None)
