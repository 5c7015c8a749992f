"""Results straight into an object store, without a temporary file.

python examples/save_to_s3.py s3://bucket/boats

Needs kling-async[cloud]. gs://bucket/prefix and az://container/prefix do the same. The credentials are those of the
environment: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION, or the role of the machine.
"""

import asyncio
import sys

from kling_async import Client, ConfigurationError, Image
from kling_async.sandbox import sandbox_without_key


async def main(place: str) -> int:
    requests = [Image(f"a paper boat, study {number}") for number in range(3)]
    async with Client() as client:
        try:
            async with client.map(requests, save_to=place) as outcomes:
                async for outcome in outcomes:
                    print(*outcome.files or [outcome.error])
        except ConfigurationError as error:  # no such bucket, no credentials: known before anything is bought
            print(error)
            return 1
    return 0


if __name__ == "__main__":
    with sandbox_without_key():
        sys.exit(asyncio.run(main(sys.argv[1])))
