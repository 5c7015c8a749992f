"""A worker that may be killed at any moment: it loses no job, and buys none twice.

python examples/crash_recovery.py

The first client leaves its jobs as a crash would. The second one is the worker started again: it goes on with what is
unfinished, reports what needs a person, and follows jobs for which nobody waits.
"""

import asyncio
from pathlib import Path

from kling_async import Client, Image, Job, KlingError, SqliteLedger
from kling_async.sandbox import sandbox_without_key


async def submit(ledger: Path) -> None:
    async with Client(ledger=SqliteLedger(ledger)) as client:
        for number in range(3):
            job = await client.submit(Image(f"paper boat {number}"), key=f"boat-{number}")
            print("submitted", job.key, job.ref)


async def finish(job: Job) -> None:
    try:
        result = await job
        print("saved", job.key, *await result.save("out", name="{key}"))
    except KlingError as error:  # of this job alone
        print(job.key, error)


async def recover(ledger: Path) -> None:
    async with Client(ledger=SqliteLedger(ledger)) as client, asyncio.TaskGroup() as group:
        for job in await client.resume():
            group.create_task(finish(job))
        for submission in await client.unresolved():
            print(submission.key, "may have been bought:", submission.reason, *submission.remedies)
        # The same submission again returns the same job, and costs nothing.
        again = await client.submit(Image("paper boat 0"), key="boat-0")
        print("not bought again:", again.ref)


async def main() -> None:
    ledger = Path("jobs.db")
    await submit(ledger)
    # Here the process may have been killed. Nothing but the ledger is left.
    await recover(ledger)


if __name__ == "__main__":
    with sandbox_without_key():
        asyncio.run(main())
