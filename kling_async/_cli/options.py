"""How typer learns of a command: its options are the fields of a dataclass, and its help is shown as it was written."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, TypeAlias, TypeVar

import typer
from typer.core import TyperCommand, TyperGroup

__all__ = [
    "AsJson",
    "Command",
    "FileName",
    "Group",
    "JobOutput",
    "Output",
    "PreferOption",
    "Timeout",
    "options_from",
    "preference",
]

OptionsT = TypeVar("OptionsT")

Output: TypeAlias = Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Output directory.")]
JobOutput: TypeAlias = Annotated[
    Path, typer.Option("--output", "-o", metavar="PATH", help="The output directory, or the file, such as boat.mp4.")
]
FileName: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--name",
        metavar="NAME",
        help="File names; {key}, {index}, {id}, {endpoint} are replaced.",
        show_default=False,
    ),
]
AsJson: TypeAlias = Annotated[bool, typer.Option("--json", help="Write JSON lines to standard output.")]
Timeout: TypeAlias = Annotated[
    float | None,
    typer.Option(
        metavar="SECONDS",
        help="Stop waiting for a job after this time. The job goes on.",
        show_default="the endpoint's own",
    ),
]


PreferOption: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--prefer",
        metavar="WHO",
        help="Who makes video and image: cheapest, fastest, or providers in order, such as kling,runblob.",
        show_default="cheapest",
    ),
]


def preference(text: str | None) -> Any:
    """The preference that ``--prefer`` names, as the client takes it. None if it is not given."""
    if text is None or text in {"cheapest", "fastest"}:
        return text
    return [name.strip() for name in text.split(",")]


def options_from(kind: type[OptionsT]) -> Callable[[Callable[[OptionsT], None]], Callable[..., None]]:
    """Have typer read the options of a command from the fields of a dataclass, of which the command is given one.

    Typer reads a signature. A command with many options would have one that nobody else wants to read.

    Args:
        kind: Its fields are annotated as typer wants parameters to be.
    """

    def taken(command: Callable[[OptionsT], None]) -> Callable[..., None]:
        @wraps(command)
        def called(**given: Any) -> None:
            command(kind(**given))

        called.__signature__ = inspect.signature(kind, eval_str=True)  # type: ignore[attr-defined]  # as PEP 362 has it
        return called

    return taken


class Command(TyperCommand):
    """A command whose flags take no value in its help, either, and whose paragraphs fill the line."""

    def __init__(self, *names: Any, **settings: Any) -> None:
        super().__init__(*names, **settings)
        self.help = _flowing(self.help)

    def get_params(self, ctx: Any) -> list[Any]:
        """The parameters, ``--help`` among them."""
        return _flagged(super().get_params(ctx))

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the arguments. An option of one value is refused where it stands twice."""
        if not ctx.resilient_parsing:  # a shell that completes
            given: list[Any] = self.make_parser(ctx).parse_args(args=list(args))[2]
            for option in given:
                once = option.param_type_name == "option" and not (option.multiple or option.is_flag or option.count)
                if once and given.count(option) > 1:
                    name = max(option.opts, key=len)
                    such = f", such as {name} 5usd,200credits" if option.metavar == "AMOUNT" else ""
                    ctx.fail(f"{name} is given more than once, and only the last one would count; give it once{such}")
        return super().parse_args(ctx, args)

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """The parts of the usage line. Some versions of typer put more brackets around an argument than it has."""
        pieces = [piece.strip("{}") for piece in super().collect_usage_pieces(ctx)]
        return [re.sub(r"^\[(\[.*\])\]\.*$", r"\1", piece) for piece in pieces]


class Group(TyperGroup):
    """The commands together, in the same manner."""

    def get_params(self, ctx: Any) -> list[Any]:
        """The parameters, ``--help`` among them."""
        return _flagged(super().get_params(ctx))


def _flagged(parameters: list[Any]) -> list[Any]:
    """The same. Some versions of typer say of a flag that it takes a ``<bool>``, which it refuses."""
    for parameter in parameters:
        if getattr(parameter, "is_flag", False):
            parameter.metavar = ""
        if parameter.param_type_name == "argument":  # its name says what it is, and "<str>" nothing more
            parameter.display_type_rich = lambda **_: None
    return parameters


def _flowing(text: str | None) -> str:
    """Each paragraph on one line, for a terminal of any width to break."""
    return re.sub(r"(?<!\n)\n(?!\n)", " ", inspect.cleandoc(text or ""))
