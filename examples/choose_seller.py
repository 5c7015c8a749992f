"""One request, any provider: who makes exactly this clip, at which price, how soon, and why the others do not.

python examples/choose_seller.py
"""

import asyncio

from kling_async import Client, Video
from kling_async.sandbox import sandbox_without_key

WANTED = Video("a paper boat in the rain", duration=10, resolution="1080p", audio=True)
PATIENCE = 300  # seconds that the clip may take, usually


async def main() -> None:
    async with Client() as client:
        quotes = await client.quote(WANTED, prefer="cheapest")
        for quote in quotes:
            if quote.available:
                print(f"{quote.endpoint:28} {quote.shown_cost:12} usually {quote.median:.0f} s")
            else:
                print(f"{quote.endpoint:28} no: {quote.reason}")
        soon = [quote.endpoint for quote in quotes if quote.available and (quote.median or 0) <= PATIENCE]
        job = await client.submit(WANTED, prefer=soon or "fastest", max_cost=5)
        print(job.choice)
        result = await job
        print(result.cost, *await result.save("out"))


if __name__ == "__main__":
    with sandbox_without_key():
        asyncio.run(main())
