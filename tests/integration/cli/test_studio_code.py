"""The studio's "as code": what it shows runs as it is, and is the same request."""

from __future__ import annotations

import ast
import json
import os
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

import kling_async
from kling_async import Request
from kling_async._cli.request_arguments import build, parse_settings
from kling_async._rows.requests import find
from kling_async.providers import ALL_PROVIDERS, find_provider
from kling_async.providers.base import Endpoint
from kling_async.sandbox import Sandbox
from kling_async.studio.code import as_code
from support.cli_process import PATIENCE, Run, environment_of

EVERY = [endpoint for kind in ALL_PROVIDERS for endpoint in kind.endpoints if endpoint.name != "kling/lip-sync"]
PLACES = ["runblob/o3-photo", "kling/text-to-video", "fal/image"]
PROMPT = 'it\'s a "boat" in $HOME; `true` \\ and <b>rain</b>\non two lines'
CLIP = "https://example.com/clip.mp4"
NEEDED: dict[str, dict[str, Any]] = {
    "kling/motion-control": {"motion_video": CLIP},
    "kling/expand-image": {"up": 0.5},
    "kling/avatar": {"sound": "https://example.com/a.mp3"},
    "kling/video-to-audio": {"video_url": CLIP},
    "kling/effects": {"scene": "hug"},
    "runblob/motion-control": {"reference_video": CLIP},
    "inferencesh/app": {"app": "falai/kling-video", "input": {"prompt": PROMPT, "n": [1, {"a": None}]}},
    "pixeldojo/reference-to-video": {"references": ["https://example.com/a.png"]},
    "pixeldojo/motion-control": {"reference_video": CLIP},
    "replicate/kling-lip-sync": {"video": CLIP, "speech": "hello, it's me"},
    "replicate/model": {"model": "kwaivgi/kling-v9", "input": {"prompt": PROMPT}},
    "fal/video-edit": {"video": CLIP},
    "fal/motion-control": {"motion_video": CLIP, "character_orientation": "image"},
    "fal/avatar": {"sound": "https://example.com/a.mp3"},
    "fal/lip-sync": {"video": CLIP, "sound": "https://example.com/a.mp3"},
    "fal/model": {"model": "fal-ai/kling-video/v9", "input": {"prompt": PROMPT}},
}
"""Beside what `example` has."""


@pytest.fixture
def sandbox_defaults() -> dict[str, Any]:
    return {"speed": 600, "scale": 0.05, "environment": [kind.name for kind in ALL_PROVIDERS]}


def settings(endpoint: Endpoint[Any]) -> dict[str, Any]:
    """What a form would send: what is needed, a prompt that is hard to quote, and the last of each field's values."""
    request = endpoint.request
    fields = {**request.example(), **NEEDED.get(endpoint.name, {})}
    if "prompt" in request.model_fields:
        fields["prompt"] = PROMPT
    for name, choices in endpoint.all_choices(request.model_validate(fields)).items():
        try:
            request.model_validate({**fields, name: choices[-1].value})
        except ValueError:
            continue
        fields[name] = choices[-1].value
    return fields


def from_python(code: str) -> Request:
    """The request that the code makes."""
    made, _ = [node.value for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Assign)]  # request, result
    found: Request = eval(compile(ast.Expression(made), "as code", "eval"), dict(vars(kling_async)) | _rooms())  # noqa: S307
    return found


def _rooms() -> dict[str, Any]:
    return {kind.name: getattr(kling_async, kind.name) for kind in ALL_PROVIDERS}


def from_command(line: str) -> Request:
    """The request that ``kling generate`` makes of the line, whose options are read as its own parser would."""
    program, command, place, prompt, *rest = shlex.split(line)
    assert (program, command) == ("kling", "generate")
    given: dict[str, str] = {}
    references = []
    for option, value in zip(rest[::2], rest[1::2], strict=True):
        if option == "--reference":
            references.append(value)
        else:
            given |= parse_settings([value if option == "--set" else f"{option.removeprefix('--')}={value}"])
    return build(find(place)[1], prompt, references, given)


@pytest.mark.parametrize("endpoint", EVERY, ids=lambda endpoint: endpoint.name)
def test_in_every_language_it_is_the_same_request(endpoint: Endpoint[Any]) -> None:
    fields = settings(endpoint)
    code = as_code(find_provider(endpoint.name.partition("/")[0]), endpoint.request, fields)
    wanted = endpoint.request.model_validate(fields)
    assert from_python(code["python"]) == wanted
    assert from_command(code["kling"]) == wanted
    if "curl" in code and "prompt" in endpoint.request.model_fields:
        words = shlex.split(code["curl"])
        sent = json.dumps(json.loads(words[words.index("--data") + 1]), ensure_ascii=False)
        assert json.dumps(PROMPT, ensure_ascii=False)[1:-1] in sent
    assert "KEY-OF-THE-ACCOUNT" not in "".join(code.values())


@pytest.mark.parametrize("place", PLACES)
def test_it_runs_as_it_is_shown(kling: Run, sandbox: Sandbox, tmp_path: Path, place: str) -> None:
    """Python, the command and curl: each buys that one generation."""
    kind, endpoint = find(place)
    fields = {"prompt": PROMPT}
    code = as_code(kind, endpoint.request, fields)
    exec(compile(code["python"], "as code", "exec"), {"__name__": "__main__"})  # noqa: S102
    assert sandbox.counters.jobs_bought == 1
    assert len(list((tmp_path / "out").iterdir())) == 1
    answer = kling(*shlex.split(code["kling"])[1:])
    assert answer.code == 0, answer
    assert sandbox.counters.jobs_bought == 2
    if "curl" in code and shutil.which("curl"):
        provider = kind(api_key="none")
        script = code["curl"].replace(provider.base_url, sandbox.base_url(kind.name))
        ran = subprocess.run(
            ["/bin/sh", "-c", script.replace("curl ", "curl -sS --fail-with-body ", 1)],
            env={**os.environ, **environment_of(sandbox)},
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert ran.returncode == 0, (script, ran.stdout, ran.stderr)
        assert sandbox.counters.jobs_bought == 3


def test_an_image_of_ones_own_is_named_to_be_replaced() -> None:
    _, endpoint = find("runblob/o3-video")
    fields = {"prompt": "a boat", "references": ["data:image/png;base64,AAAA", "https://example.org/a.png"]}
    for text in as_code(find_provider("runblob"), endpoint.request, fields).values():
        assert text.startswith("# Put addresses of your images, or local files, in place of https://example.com/")
        assert "https://example.com/references-1.png" in text
        assert "https://example.org/a.png" in text
        assert "base64" not in text
