"""`python -m kling_async.sandbox`: a sandbox in a process of its own, for benchmarks and for tests that kill.

When it serves it prints one line of JSON, `{"url": ..., "providers": {"runblob": {"base_url", "api_key"}}}`,
and runs until SIGINT or SIGTERM, or, with `--until-eof`, until its standard input closes: so that it ends
with its parent however that one ends.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
from typing import NoReturn

from kling_async.sandbox.emulator.jobs import DIRECTIVES
from kling_async.sandbox.faults.catalog import Fault
from kling_async.sandbox.server.sandbox import Sandbox


def main(arguments: list[str] | None = None) -> int:
    """Serve until asked to stop."""
    options = _parser().parse_args(arguments)
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        sandbox = Sandbox(
            speed=options.speed,
            seed=options.seed,
            port=options.port,
            scale=options.scale,
            rate_limit="documented" if options.rate_limit is None else options.rate_limit or None,
            credits=options.credits,
            lifetime=options.lifetime,
        )
        for option in options.option:
            sandbox.set_option(option)
        for fault in options.fault:
            sandbox.faults.add(fault)
        with sandbox:
            print(json.dumps(sandbox.describe()), flush=True)  # noqa: T201 - this line is the program's output
            if options.until_eof:
                sys.stdin.read()
            else:
                sandbox.wait()
    except KeyboardInterrupt:
        return 0
    except (OSError, ValueError) as error:
        print(f"kling_async.sandbox: {error}", file=sys.stderr)  # noqa: T201 - the user's terminal
        return 2
    return 0


def _interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt


def _epilog() -> str:
    """All faults and directives, for `--help`."""
    faults = [f"  {fault:22}{fault.description}" for fault in Fault]
    directives = [f"  {text:30}{effect}" for text, effect in DIRECTIVES.items()]
    return "\n".join(["faults (NAME:KIND:OPTION=VALUE):", *faults, "", "directives in a prompt:", *directives])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m kling_async.sandbox",
        description=__doc__,
        epilog=_epilog(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--port", type=int, default=0, help="TCP port on 127.0.0.1 (default: any free one)")
    parser.add_argument("--speed", type=float, default=1.0, help="simulated seconds per second")
    parser.add_argument(
        "--seed", type=int, help="decides keys, ids, durations and pictures (default: random keys, else as with 0)"
    )
    parser.add_argument("--scale", type=float, help="size of results relative to what was asked")
    parser.add_argument(
        "--rate-limit",
        type=int,
        help="status calls allowed in 60 simulated seconds, 0: no limit (default: what each provider documents)",
    )
    parser.add_argument("--credits", type=float, help="what each account can spend")
    parser.add_argument("--lifetime", type=float, help="simulated seconds that results can be downloaded for")
    parser.add_argument(
        "--fault",
        action="append",
        default=[],
        metavar="FAULT",
        help="such as accept-then-reset:submit:every=10",
    )
    parser.add_argument(
        "--option",
        action="append",
        default=[],
        metavar="PROVIDER.NAME=VALUE",
        help="how a provider answers where its versions differ, such as inferencesh.progress=yes",
    )
    parser.add_argument("--until-eof", action="store_true", help="end when standard input closes")
    return parser


if __name__ == "__main__":
    sys.exit(main())
