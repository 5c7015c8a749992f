"""A picture for every row of a CSV file, each bought once, however often this is started again.

python examples/bulk_csv.py examples/prompts.csv out

The ledger in the output directory knows what was bought. `kling bulk` does the same without a program.
"""

import asyncio
import csv
import sys
from collections.abc import Iterator
from pathlib import Path

from kling_async import Budget, BulkStopped, Client, Image, SqliteLedger
from kling_async.sandbox import sandbox_without_key


def rows(source: Path) -> Iterator[tuple[str, Image, dict[str, str]]]:
    """A key, a request and tags for each row. A row is read when there is room for it."""
    with source.open(newline="", encoding="utf-8-sig") as file:
        for row in csv.DictReader(file):
            yield row["key"], Image(row["prompt"]), {"customer": row["customer"]}


async def main(source: Path, output: Path) -> None:
    output.mkdir(parents=True, exist_ok=True)
    ledger = SqliteLedger(output / "jobs.db")
    with (output / "results.csv").open("w", newline="", encoding="utf-8") as file:
        results = csv.writer(file)
        results.writerow(["key", "customer", "cost", "file", "error"])
        async with Client(ledger=ledger, budget=Budget(usd=5)) as client:
            run = client.map(rows(source), in_flight=20, save_to=output, retry_failed=1)
            async with run as outcomes:
                try:
                    async for outcome in outcomes:
                        cost = outcome.result.cost if outcome.result else None
                        files = " ".join(str(path) for path in outcome.files)
                        results.writerow([outcome.key, outcome.tags["customer"], cost, files, outcome.error])
                        print(outcome.key, files or outcome.error, "" if outcome.new else "(bought before)")
                except BulkStopped as error:  # no credits, a spent budget: what was bought is saved
                    print(error)
            print(run.statistics())


if __name__ == "__main__":
    with sandbox_without_key():
        asyncio.run(main(Path(sys.argv[1]), Path(sys.argv[2] if len(sys.argv) > 2 else "out")))
