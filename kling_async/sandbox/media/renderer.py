"""Draws result files in worker threads: each at most once, only when somebody wants it."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from kling_async.sandbox.emulator.jobs import Clip, Picture
from kling_async.sandbox.media.render import clip_extension, draw_clip, draw_picture

if TYPE_CHECKING:
    from kling_async.sandbox.emulator.counters import Counters

_KEPT = 64 * 1024 * 1024  # bytes of finished files
_THREADS = 2  # drawing is mostly native code that runs beside the server's loop
_VIDEO_SCALE = 0.5  # of width and height, unless the user chose: quick to make, still good to see


class Renderer:
    """A bounded cache in front of the drawing.

    Args:
        scale: Size of results relative to what was asked. If None, pictures whole, video at half width and
            height.
        counters: Where drawings are counted.
    """

    def __init__(self, scale: float | None, counters: Counters) -> None:
        self._video_scale = _VIDEO_SCALE if scale is None else scale
        self._picture_scale = 1.0 if scale is None else scale
        self._counters = counters
        self._threads: ThreadPoolExecutor | None = None
        self._drawing: dict[Picture | Clip, asyncio.Future[bytes]] = {}
        self._kept: OrderedDict[Picture | Clip, bytes] = OrderedDict()
        self._size = 0

    @property
    def clip_extension(self) -> str:
        """How the name of a video file ends."""
        return clip_extension()

    async def draw(self, media: Picture | Clip) -> bytes:
        """The file that shows `media`. Who asks for the same at the same time waits for the same drawing."""
        if media in self._kept:
            self._kept.move_to_end(media)
            return self._kept[media]
        drawing = self._drawing.get(media)
        if drawing is None:
            if self._threads is None:
                self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="kling-sandbox-render")
            loop = asyncio.get_running_loop()
            drawing = self._drawing[media] = loop.run_in_executor(self._threads, self._make, media)
            drawing.add_done_callback(lambda done: self._keep(media, done))
        # Shielded: one customer who hangs up must not cost the others the file.
        return await asyncio.shield(drawing)

    def close(self) -> None:
        """End the threads, after what they are drawing. The next file starts new ones."""
        if self._threads is not None:
            self._threads.shutdown(cancel_futures=True)
        self._threads = None
        self._drawing.clear()

    def _make(self, media: Picture | Clip) -> bytes:
        if isinstance(media, Clip):
            return draw_clip(media, self._video_scale)
        return draw_picture(media, self._picture_scale)

    def _keep(self, media: Picture | Clip, done: asyncio.Future[bytes]) -> None:
        self._drawing.pop(media, None)
        if done.cancelled() or done.exception() is not None:
            return
        self._counters.renders += 1
        self._kept[media] = done.result()
        self._size += len(done.result())
        while self._size > _KEPT and len(self._kept) > 1:
            _, dropped = self._kept.popitem(last=False)
            self._size -= len(dropped)
