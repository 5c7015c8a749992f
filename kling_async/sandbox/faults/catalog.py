"""The faults that the sandbox can simulate, and the registry that decides which requests they affect."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Literal, Self, TypedDict, Unpack, get_args

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence


Hint = Literal["seconds", "date", "body", "absent", "unreadable"]


class Fault(StrEnum):
    """Everything that the sandbox can do wrong. The value is the name in text form."""

    description: str

    def __new__(cls, name: str, description: str = "") -> Self:
        """Make a member out of its name and a sentence for users."""
        member = str.__new__(cls, name)
        member._value_ = name
        member.description = description
        return member

    # The connection.
    reset_before_reading = "reset-before-reading", "The connection is reset before the body is read; nothing was done."
    accept_then_reset = "accept-then-reset", "The request is carried out, then the connection is reset."
    idle_drop = "idle-drop", "Connections are closed after they were idle for `seconds`."
    # Refusals: nothing was done, unless `accepted`.
    rate_limited = "rate-limited", "429 with a `hint` when to try again."
    unavailable = "unavailable", "503 with a `hint` when to try again."
    server_error = "server-error", "500, or `status`."
    # Answers: the request is carried out, but the answer cannot be used.
    truncated_json = "truncated-json", "Only the first half of the body."
    cut_off = "cut-off", "The first half of the body under the Content-Length of the whole, then the connection ends."
    html = "html", "A web page with status 200."
    empty_json = "empty-json", "The body is `{}`."
    wrong_types = "wrong-types", "Texts become numbers, and numbers become texts."
    unknown_status = "unknown-status", "A status word (or number) that no client knows."
    drip = "drip", "One byte every `seconds`."
    delay = "delay", "The answer comes after `seconds`."
    huge_body = "huge-body", "The answer stands behind `size` bytes of white space."
    huge_headers = "huge-headers", "A header of `size` bytes."
    # Jobs.
    not_found_at_first = "not-found-at-first", "The first `polls` status calls after the submission get 404."
    stuck = "stuck", "The job never ends."
    # Downloads.
    wrong_content = "wrong-content", "A web page under the content type of the file."
    empty_file = "empty-file", "Zero bytes."
    short_file = "short-file", "Half of the file under the Content-Length of the whole."
    expired = "expired", "The URL stops working (403, or `status`); a new status report has another one."
    # Webhooks.
    webhook_early = "webhook-early", "The job ends at once, and its webhook comes before the submit response."
    webhook_late = "webhook-late", "The webhook comes `seconds` (simulated) after the end."
    webhook_twice = "webhook-twice", "The webhook is sent twice."
    webhook_out_of_order = "webhook-out-of-order", "A webhook with the status `processing` follows the last one."
    webhook_forged = "webhook-forged", "Forged webhooks come before the real one."
    webhook_never = "webhook-never", "No webhook is sent."


_JOB = {Fault.not_found_at_first, Fault.stuck, Fault.webhook_early}
_DOWNLOAD = {Fault.wrong_content, Fault.empty_file, Fault.short_file, Fault.expired}
_WEBHOOK = {fault for fault in Fault if fault.startswith("webhook-")} - _JOB
_IN_JSON = {Fault.empty_json, Fault.wrong_types, Fault.unknown_status}
#: Kinds that are not requests to a provider's API. A fault affects them only if it is made for them, or names them.
_BESIDE_THE_API = {"download", "webhook", "job"}
_KINDS = ("submit", "status", "cancel", "list", "upload", "stream", "download")


class FaultOptions(TypedDict, total=False):
    """The options of `FaultRegistry.add`. See `Rule`."""

    provider: str
    kind: str
    every: int
    times: int
    skip: int
    probability: float
    seconds: float
    hint: Hint
    status: int
    bare: bool
    accepted: bool
    size: int
    polls: int


@dataclass(slots=True)
class Rule:
    """One fault, the requests that it affects, and its options.

    Args:
        fault: The fault.
        provider: The provider whose requests it affects. If None, every provider.
        kind: The kind of request: `submit`, `status`, `cancel`, `list`, `upload`, `stream`, `download`. If None, the
            kind that the fault is made for, otherwise every request to a provider's API.
        every: Affect only every n-th of these requests.
        times: Affect at most this many. If None, there is no limit.
        skip: Leave the first ones alone.
        probability: Affect each with this probability, decided by the seed. If None, affect all.
        seconds: For `rate-limited` and `unavailable`, the wait in the hint. For `drip`, the pause between two bytes.
            For `delay`, the time before the answer. For `idle-drop`, how long a connection may be idle (all in real
            seconds). For `webhook-late`, the time after the end of the job (simulated).
        hint: The form of the wait: a `Retry-After` header in `seconds` or as a `date`, a field of the JSON `body`,
            `absent`, or `unreadable`.
        status: HTTP status of `server-error` (500) and `expired` (403).
        bare: For refusals, the page of a gateway instead of the provider's own error.
        accepted: For refusals, carry the request out although it is refused.
        size: Bytes of `huge-body` and `huge-headers`.
        polls: Status calls of `not-found-at-first`.
    """

    fault: Fault
    provider: str | None = None
    kind: str | None = None
    every: int = 1
    times: int | None = None
    skip: int = 0
    probability: float | None = None
    seconds: float | None = None
    hint: Hint = "seconds"
    status: int | None = None
    bare: bool = False
    accepted: bool = False
    size: int | None = None
    polls: int = 2
    seen: int = field(default=0, init=False)
    injected: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        made_for = self._made_for()
        if made_for is not None and self.kind not in {None, made_for}:
            raise ValueError(f"{self.fault} affects {made_for}s, not {self.kind} requests: leave the kind out")
        if self.kind not in {None, made_for, *_KINDS}:
            raise ValueError(f"{self.fault}: kind {self.kind} is unknown; there are {', '.join(_KINDS)}")
        if self.fault in _IN_JSON and self.kind == "download":
            raise ValueError(f"{self.fault} changes JSON, and a download is a file: use {Fault.wrong_content}")
        if self.probability is not None and not 0 <= self.probability <= 1:
            raise ValueError(f"{self.fault}: probability={self.probability} is not between 0 and 1")
        if self.seconds is not None and not 0 <= self.seconds < math.inf:
            raise ValueError(f"{self.fault}: seconds={self.seconds} is not a duration; give 0 or more")
        if self.every < 1 or self.skip < 0 or (self.times is not None and self.times < 1):
            raise ValueError(f"{self.fault}: every and times are 1 or more, skip is 0 or more")
        if self.hint not in get_args(Hint):
            raise ValueError(f"{self.fault}: hint={self.hint} is unknown; there are {', '.join(get_args(Hint))}")

    def matches(self, provider: str, kind: str) -> bool:
        """Whether the rule counts requests of that kind at that provider."""
        if self.provider not in {None, provider} or self.fault is Fault.idle_drop:
            return False
        made_for = self._made_for() or self.kind
        return kind not in _BESIDE_THE_API if made_for is None else kind == made_for

    def due(self, rng: random.Random) -> bool:
        """Count one matching request. Returns whether the fault affects it."""
        self.seen += 1
        spent = self.times is not None and self.injected >= self.times
        if spent or self.seen <= self.skip or (self.seen - self.skip) % self.every:
            return False
        if self.probability is not None and rng.random() >= self.probability:
            return False
        self.injected += 1
        return True

    def as_dict(self) -> dict[str, Any]:
        """The rule as plain JSON, with its counts so far."""
        return {item.name: getattr(self, item.name) for item in fields(self)}

    def _made_for(self) -> str | None:
        if self.fault in _JOB:
            return "job"
        if self.fault in _DOWNLOAD:
            return "download"
        return "webhook" if self.fault in _WEBHOOK else None


def parse(text: str) -> Rule:
    """Parse the text form of a fault: `accept-then-reset:submit:every=10`, `rate-limited:status:times=3,hint=date`.

    The name, then the kind (if any), then options of `Rule` as `name=value`, separated by colons or commas.

    Raises:
        ValueError: The text is not a fault. The message lists what exists.
    """
    name, *words = text.strip().replace(",", ":").split(":")
    try:
        fault = Fault(name)
    except ValueError:
        raise ValueError(f"unknown fault {name!r}; there are: {', '.join(Fault)}") from None
    options: dict[str, Any] = {}
    for word in filter(None, words):
        option, equals, value = word.partition("=")
        if not equals:
            options["kind"] = option
        elif option in _OPTIONS:
            options[option] = _value(option, value, text)
        else:
            raise ValueError(f"{text!r}: unknown option {option!r}; there are: {', '.join(_OPTIONS)}")
    return Rule(fault, **options)


_OPTIONS: dict[str, type] = {
    "provider": str,
    "every": int,
    "times": int,
    "skip": int,
    "probability": float,
    "seconds": float,
    "hint": str,
    "status": int,
    "bare": bool,
    "accepted": bool,
    "size": int,
    "polls": int,
}


def _value(option: str, value: str, text: str) -> Any:
    kind = _OPTIONS[option]
    try:
        if kind is bool:
            return {"true": True, "yes": True, "false": False, "no": False}[value]
        return kind(value)
    except (ValueError, KeyError):
        raise ValueError(f"{text!r}: {option}={value} is not {_WORDS[kind]}") from None


_WORDS = {bool: "yes or no", int: "a whole number", float: "a number", str: "a text"}


class FaultRegistry:
    """The active faults. Change them from any thread, at any time.

    Args:
        seed: Decides which requests a `probability` affects.
        providers: Names that a rule may give.
    """

    def __init__(self, seed: int = 0, providers: Collection[str] = ()) -> None:
        self._providers = providers
        self._rules: tuple[Rule, ...] = ()
        self._rng = random.Random(seed)  # noqa: S311 - a simulation

    @property
    def rules(self) -> Sequence[Rule]:
        """The active faults, in the order in which they were added."""
        return self._rules

    def add(self, fault: Fault | Rule | str, **options: Unpack[FaultOptions]) -> Rule:
        """Switch a fault on. If several affect one request, the one that was added first is applied.

        Args:
            fault: A fault, a text form (see `parse`), or a rule.
            options: See `Rule`. Only with a `Fault`.

        Raises:
            ValueError: There is no such fault or option, or the options contradict each other.
        """
        if isinstance(fault, Fault):
            unknown = [option for option in options if option not in FaultOptions.__annotations__]
            if unknown:
                known = ", ".join(FaultOptions.__annotations__)
                raise ValueError(f"{fault}: unknown option {unknown[0]!r}; there are: {known}")
            rule = Rule(fault, **options)
        elif options:
            raise ValueError(f"{fault!r} brings its own options; leave {', '.join(options)} out")
        else:
            rule = parse(fault) if isinstance(fault, str) else fault
        if rule.provider is not None and rule.provider not in self._providers:
            known = ", ".join(self._providers)
            raise ValueError(f"{rule.fault}: provider {rule.provider} is unknown; there are {known}")
        self._rules = (*self._rules, rule)
        return rule

    def remove(self, rule: Rule) -> None:
        """Switch one off. Does nothing if it is off."""
        self._rules = tuple(other for other in self._rules if other is not rule)

    def clear(self) -> None:
        """Switch all faults off."""
        self._rules = ()

    def draw(self, provider: str, kind: str) -> Rule | None:
        """The fault that affects this request, or None."""
        for rule in self._rules:
            if rule.matches(provider, kind) and rule.due(self._rng):
                return rule
        return None

    def idle_limit(self) -> float | None:
        """Real seconds after which idle connections are closed, or None without such a fault."""
        limits = [rule.seconds or 0.0 for rule in self._rules if rule.fault is Fault.idle_drop]
        return min(limits, default=None)
