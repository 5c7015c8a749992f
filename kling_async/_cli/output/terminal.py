"""The lower part of a terminal, drawn anew as things change, and words above it."""

from __future__ import annotations

from collections.abc import Callable

from rich.console import Console, RenderableType
from rich.constrain import Constrain
from rich.live import Live
from rich.text import Text

from kling_async._cli.output.formatting import printable

__all__ = ["Display", "terminal"]

_FRAMES = 10  # a second
_ECHO = 3  # columns, for ^C and the cursor


def terminal() -> Console | None:
    """The terminal behind standard error, or None if there is none, or none that can be drawn on."""
    console = Console(stderr=True, highlight=False)
    return console if console.is_terminal and not console.is_dumb_terminal else None


class Display:
    """What is drawn on a terminal, from `start` to `stop`. Its last state stays. Both may be called again.

    Args:
        console: The terminal.
        draw: What is to be seen now. It is asked for several times a second, in a thread of its own.
    """

    def __init__(self, console: Console, draw: Callable[[], RenderableType]) -> None:
        self._console = console
        self._draw = draw
        self._live: Live | None = None

    @property
    def width(self) -> int:
        """Its columns. The terminal's own ^C gets room beside it, else it would move the last line."""
        return self._console.width - _ECHO

    @property
    def ascii_only(self) -> bool:
        """Whether it shows nothing but ASCII."""
        return self._console.options.ascii_only

    @property
    def moving(self) -> bool:
        """Whether it is being drawn."""
        return self._live is not None

    def start(self) -> None:
        """Draw it from now on."""
        if self._live is None:
            self._live = Live(
                console=self._console,
                get_renderable=lambda: Constrain(self._draw(), self.width),
                refresh_per_second=_FRAMES,
                redirect_stdout=False,
                redirect_stderr=False,
            )
            self._live.start()

    def stop(self) -> None:
        """Let it stand still."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def say(self, text: str) -> None:
        """Words for a human, above it."""
        self._console.print(Text(printable(text)), soft_wrap=True)
