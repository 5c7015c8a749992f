"""The same client without await: a script that makes three pictures at once and saves them.

python examples/sync_script.py
"""

from kling_async import Image
from kling_async.sandbox import sandbox_without_key
from kling_async.sync import Client

PROMPTS = ("a paper boat", "a paper plane", "a paper crane")


def main() -> None:
    with Client() as client:
        jobs = [client.submit(Image(prompt)) for prompt in PROMPTS]  # all three are being made now
        for prompt, job in zip(PROMPTS, jobs, strict=True):
            result = job.result(timeout=600)
            [path] = result.save("out")
            print(f"{prompt}: {path}, {result.cost}, by {job.ref.provider}")


if __name__ == "__main__":
    with sandbox_without_key():
        main()
