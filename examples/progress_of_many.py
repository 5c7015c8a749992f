"""Many jobs at once, each with a line of its own that changes while it is made.

python examples/progress_of_many.py

Needs rich, which kling-async[cli] has. Every event comes from the job itself: no thread, no loop over all jobs.
"""

import asyncio

from rich.live import Live
from rich.table import Table

from kling_async import Client, Image, Job, KlingError, Video
from kling_async.sandbox import sandbox_without_key

REQUESTS = [
    Image("a paper boat"),
    Image("a paper plane"),
    Image("a paper crane", count=2),
    Video("the boat sails away"),
]


def table(jobs: list[Job], notes: dict[str, str]) -> Table:
    made = Table("job", "status", "seconds", "")
    for job in jobs:
        latest = job.events[-1]
        made.add_row(job.ref.endpoint, str(job.status), f"{latest.elapsed:.0f}", notes.get(job.ref, ""))
    return made


async def main() -> None:
    notes: dict[str, str] = {}
    async with Client() as client:
        jobs = [await client.submit(request) for request in REQUESTS]
        with Live(table(jobs, notes)) as live:

            async def follow(job: Job) -> None:
                async for event in job:
                    notes[job.ref] = event.message or ""
                    live.update(table(jobs, notes))
                try:
                    files = await (await job).save("out")
                    notes[job.ref] = " ".join(str(path) for path in files)
                except KlingError as error:
                    notes[job.ref] = error.message
                live.update(table(jobs, notes))

            async with asyncio.TaskGroup() as group:
                for job in jobs:
                    group.create_task(follow(job))


if __name__ == "__main__":
    with sandbox_without_key():
        asyncio.run(main())
