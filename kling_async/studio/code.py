"""A request as code: Python, the command line and curl, with the key's variable in place of the key."""

from __future__ import annotations

import json
import shlex
import uuid
from collections.abc import Mapping
from typing import Any

from kling_async._exchange.calls import Effect
from kling_async.providers.base import Provider, Request

__all__ = ["as_code"]

_OPTIONS = ("duration", "aspect_ratio", "resolution", "model", "negative_prompt", "count")
_IMAGE = "https://example.com/"  # in place of an image that was sent inline
_REPLACE = f"# Put addresses of your images, or local files, in place of {_IMAGE}..."
_STAND_IN = "KEY-OF-THE-ACCOUNT-0123456789abcdef"


def as_code(kind: type[Provider] | None, model: type[Request], fields: Mapping[str, Any]) -> dict[str, str]:
    """The same request as Python, ``kling generate`` and curl.

    Args:
        kind: The provider. None for a portable request, which has no curl.
        model: The request class.
        fields: What was asked for. Images that were sent inline are named as files to replace.
    """
    usual = {name: info.get_default(call_default_factory=True) for name, info in model.model_fields.items()}
    given = {name: _named(name, value) for name, value in fields.items() if value != usual[name]}
    found = {"python": _python(kind, model, given), "kling": _command(model, given)}
    if kind is not None and (curl := _curl(kind, model, given)) is not None:
        found["curl"] = curl
    inline = any(_named(name, value) != value for name, value in fields.items())
    return {name: f"{_REPLACE}\n{text}" if inline else text for name, text in found.items()}


def _named(name: str, value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_named(f"{name}-{number}", one) for number, one in enumerate(value, 1)]
    if isinstance(value, str) and value.startswith(("data:", "sha256:")):
        return f"{_IMAGE}{name}.png"
    return value


def _python(kind: type[Provider] | None, model: type[Request], given: Mapping[str, Any]) -> str:
    rest = [f"        {name}={value!r}," for name, value in given.items()]
    source, maker = (kind.name, f"{kind.name}.{model.__name__}") if kind else (model.__name__, model.__name__)
    if kind is None and "prompt" in given:
        rest = [f"        {given['prompt']!r},", *(line for line in rest if not line.startswith("        prompt="))]
    return "\n".join(
        [
            "import asyncio",
            "",
            f"from kling_async import Client, {source}",
            "",
            "",
            "async def main() -> None:",
            f"    request = {maker}(",
            *rest,
            "    )",
            "    async with Client() as client:",
            '        result = await client.run(request, save_to="out")',
            "        print(result.files)",
            "",
            "",
            "asyncio.run(main())",
            "",
        ]
    )


def _command(model: type[Request], given: Mapping[str, Any]) -> str:
    words = ["kling", "generate", model.endpoint, str(given.get("prompt", ""))]
    for name, value in given.items():
        if name in {"references", "reference"}:
            for one in value if isinstance(value, list) else [value]:
                words += ["--reference", str(one)]
        elif name != "prompt":
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            words += [f"--{name.replace('_', '-')}", text] if name in _OPTIONS else ["--set", f"{name}={text}"]
    return shlex.join(words) + "\n"


def _curl(kind: type[Provider], model: type[Request], given: Mapping[str, Any]) -> str | None:
    """The paid call. None where another call comes before it."""
    provider = kind(api_key=_STAND_IN)
    call = next(provider.submit(model.model_validate(given), str(uuid.uuid4()), None))
    if call.effect is not Effect.PAID:
        return None
    address = f"{provider.base_url}{call.url}" if call.url.startswith("/") else call.url
    headers = {**provider.credentials(), **call.headers}
    words = [f"curl -X {call.method} {shlex.quote(address)}"]
    for name, value in headers.items():
        if _STAND_IN in value:
            words.append(f'  -H "{name}: {value.replace(_STAND_IN, "$" + kind.env_vars[0])}"')
        else:
            words.append(f"  -H {shlex.quote(f'{name}: {value}')}")
    words.append(f"  --data {shlex.quote(call.body.decode())}")
    return " \\\n".join(words).replace(_STAND_IN, "$" + kind.env_vars[0]) + "\n"
