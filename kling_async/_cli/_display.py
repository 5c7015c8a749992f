"""The lower part of a terminal, drawn anew as things change, and words above it."""

from __future__ import annotations

from collections.abc import Callable

from rich.console import Console, RenderableType
from rich.live import Live
from rich.text import Text

from kling_async._cli._text import printable

__all__ = ["Display", "terminal"]

_FRAMES = 10  # a second


def terminal() -> Console | None:
    """The terminal behind standard error; None: there is none, or none that can be drawn on."""
    console = Console(stderr=True, highlight=False)
    return console if console.is_terminal and not console.is_dumb_terminal else None


class Display:
    """What is drawn on a terminal, from `start` to `stop`; its last state stays.

    Args:
        console: The terminal.
        draw: What is to be seen now; it is asked for several times a second, in a thread of its own.
    """

    def __init__(self, console: Console, draw: Callable[[], RenderableType]) -> None:
        self._console = console
        self._live = Live(
            console=console,
            get_renderable=draw,
            refresh_per_second=_FRAMES,
            redirect_stdout=False,
            redirect_stderr=False,
        )

    @property
    def moving(self) -> bool:
        """Whether it is being drawn."""
        return self._live.is_started

    def start(self) -> None:
        """Draw it from now on."""
        self._live.start()

    def stop(self) -> None:
        """Let it stand still."""
        self._live.stop()

    def say(self, text: str) -> None:
        """Words for a human, above it."""
        self._console.print(Text(printable(text)), soft_wrap=True)
