"""Who waits may give up, as long as nothing was sent."""

from __future__ import annotations

import anyio
import pytest
from anyio.lowlevel import checkpoint

from kling_async._errors import GivenUp
from kling_async._event_loop.patience import Patience

pytestmark = pytest.mark.anyio

PATIENCE = 120.0


@pytest.mark.parametrize("before", [False, True])
async def test_giving_up_ends_the_wait(before: bool) -> None:
    patience = Patience()
    if before:
        patience.give_up()
    with anyio.fail_after(PATIENCE):
        async with anyio.create_task_group() as group:
            with patience:
                if not before:
                    group.start_soon(_give_up, patience)
                await anyio.sleep_forever()
    assert patience.leaving


async def _give_up(patience: Patience) -> None:
    patience.give_up()


async def test_what_may_have_been_sent_goes_on_until_it_has_to_wait_again() -> None:
    steps = []
    with anyio.fail_after(PATIENCE), Patience() as patience:
        patience.note_sent(maybe=True)
        patience.give_up()
        assert not patience.leaving
        await checkpoint()
        steps.append("sent")
        patience.note_sent(maybe=False)
        await anyio.sleep_forever()
    assert (steps, patience.leaving) == (["sent"], True)


async def test_nothing_is_sent_any_more_and_the_block_ends() -> None:
    patience = Patience()
    patience.require()
    with patience:
        patience.note_sent(maybe=True)
        patience.give_up()
        with pytest.raises(GivenUp, match="nothing was sent"):
            patience.require()
        patience.require()
    with pytest.raises(ValueError, match="another"), Patience():
        raise ValueError("another")
