"""One clip, from the prompt to the file: events while it is made, a limit on the time and the cost, and every error.

python examples/await_one.py "a paper boat in the rain"
"""

import asyncio
import sys

from kling_async import (
    Client,
    ContentRejected,
    Event,
    GenerationFailed,
    GenerationTimeout,
    KlingError,
    SubmissionUnknown,
    Video,
)
from kling_async.sandbox import sandbox_without_key


def show(event: Event) -> None:
    print(f"{event.elapsed:4.0f} s  {event.status}")


async def main(prompt: str) -> int:
    async with Client() as client:
        try:
            result = await client.run(Video(prompt, duration=5), timeout=900, max_cost=2, on_event=show, save_to="out")
        except ContentRejected as error:
            print(f"change the prompt: {error.message}")
        except GenerationFailed as error:
            print(f"it failed ({error.code}):", "submit it again" if error.retryable else "change the request")
        except GenerationTimeout as error:
            print(f"it still runs, and is paid for. Later: await client.attach({error.ref!r})")
        except SubmissionUnknown as error:
            print(f"it may have been bought: {error}")  # never submit it again before you know
        except KlingError as error:
            print(f"nothing was bought: {error}")
        else:
            print(f"saved {result.files[0]}, cost {result.cost}")
            return 0
    return 1


if __name__ == "__main__":
    with sandbox_without_key():
        sys.exit(asyncio.run(main(" ".join(sys.argv[1:]) or "a paper boat in the rain")))
