"""`.env` and `config.toml`: what they set, what comes before them, and what they may not do."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from kling_async.sandbox import Sandbox
from support.cli_process import PHOTO, QUICK, Run

BUY = ("generate", PHOTO, "a fox", *QUICK, "--no-wait")


@pytest.fixture
def places(monkeypatch: pytest.MonkeyPatch, sandbox: Sandbox, tmp_path: Path) -> tuple[Path, Path]:
    """Where `.env` and `config.toml` are. The environment has no key any more."""
    for name in ("RUNBLOB_API_KEY", "RUNBLOB_BASE_URL"):
        monkeypatch.delenv(name)
    config = Path(os.environ["XDG_CONFIG_HOME"]) / "kling" / "config.toml"
    config.parent.mkdir(parents=True)
    return tmp_path / ".env", config


def access(sandbox: Sandbox, key: str | None = None) -> dict[str, str]:
    return {"RUNBLOB_API_KEY": key or sandbox.api_key("runblob"), "RUNBLOB_BASE_URL": sandbox.base_url("runblob")}


def lines(variables: dict[str, str], mark: str = "") -> str:
    return "".join(f"{name}={mark}{value}{mark}\n" for name, value in variables.items())


def test_keys_come_from_the_environment_then_dotenv_then_the_file_of_the_user(
    kling: Run, sandbox: Sandbox, places: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    dotenv, config = places
    before = dict(os.environ)
    assert kling(*BUY).code == 3
    config.write_text("[environment]\n" + lines(access(sandbox), '"'))
    assert kling(*BUY).code == 0
    dotenv.write_text("# a project's\nOTHER=1\nexport " + lines(access(sandbox, "wrong-key")))
    refused = kling(*BUY)
    assert refused.code == 3, refused
    assert "wrong-key" not in refused.err
    monkeypatch.setenv("RUNBLOB_API_KEY", sandbox.api_key("runblob"))
    assert kling(*BUY).code == 0
    monkeypatch.delenv("RUNBLOB_API_KEY")
    assert dict(os.environ) == before
    assert sandbox.counters.jobs_bought == 2


def test_options_come_from_the_argument_then_the_environment_then_the_file_of_the_user(
    kling: Run, sandbox: Sandbox, places: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    dotenv, config = places
    dotenv.write_text(lines(access(sandbox)))
    config.write_text('[generate]\nledger = "file.db"\nno-wait = true\n')
    assert kling("generate", PHOTO, "a fox", *QUICK).code == 0
    assert Path("file.db").exists()
    monkeypatch.setenv("KLING_LEDGER", "variable.db")
    assert kling(*BUY).code == 0
    assert Path("variable.db").exists()
    assert kling(*BUY, "--ledger", "argument.db").code == 0
    assert Path("argument.db").exists()
    assert sandbox.counters.jobs_bought == 3


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("ledger = 1", "kling has no command 'ledger'"),
        ("[genrate]\n", "did you mean generate?"),
        ("[generate]\noutptu = 'x'", "did you mean output?"),
        ("[generate]\noutput = {a = 1}", "give a text"),
        ("[generate]\ntimeout = 'soon'", "--timeout"),
        ("[bulk]\nbudget = '5usd'\n[generate]\nyes = true", "it is decided each time"),
        ("[environment]\nRUNBLOB_API_KEI = 'sk-secret'", "did you mean RUNBLOB_API_KEY?"),
        ("[environment]\nRUNBLOB_API_KEY = 1", "has names and texts"),
        ("[environment]\nRUNBLOB_API_KEY = sk-secret", "is not TOML at line 2"),
        ("generate = 3", "are a table"),
    ],
)
def test_a_file_with_a_mistake_is_refused_and_shows_no_value(
    kling: Run, sandbox: Sandbox, places: tuple[Path, Path], text: str, words: str
) -> None:
    dotenv, config = places
    dotenv.write_text(lines(access(sandbox)))
    config.write_text(text)
    answer = kling(*BUY)
    assert answer.code == 2, answer
    assert words in " ".join(answer.err.split())
    assert "sk-secret" not in answer.err
    assert sandbox.counters.jobs_bought == 0


def test_an_address_in_dotenv_gets_no_key_of_the_environment(
    kling: Run, sandbox: Sandbox, places: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder from elsewhere may have a `.env`."""
    dotenv, _ = places
    monkeypatch.setenv("RUNBLOB_API_KEY", "sk-mine")
    monkeypatch.setenv("RUNBLOB_BASE_URL", "")
    dotenv.write_text("RUNBLOB_BASE_URL=https://thief.invalid\n")
    answer = kling("quote", "a fox", "--endpoint", PHOTO)
    assert "RUNBLOB_BASE_URL is not used" in answer.err, answer
    dotenv.write_text(lines({"RUNBLOB_BASE_URL": sandbox.base_url("runblob")}))
    assert "is not used" not in kling("quote", "a fox", "--endpoint", PHOTO).err


def test_a_line_that_cannot_be_read_is_named_and_passed_over(
    kling: Run, sandbox: Sandbox, places: tuple[Path, Path]
) -> None:
    dotenv, _ = places
    dotenv.write_text("RUNBLOB_API_KEY 'sk-secret\n" + lines(access(sandbox)))
    answer = kling(*BUY)
    assert answer.code == 0, answer
    assert ".env, line 1: it is not NAME=value" in answer.err
    assert "sk-secret" not in answer.err
    dotenv.write_bytes(b"\xff\xfe\x00")
    assert "it is not UTF-8 text" in kling(*BUY).err


def test_another_file_may_be_named_and_must_then_be_there(
    kling: Run, sandbox: Sandbox, places: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, config = places
    config.write_text("[nonsense]\n")
    monkeypatch.setenv("KLING_CONFIG", "")
    assert kling(*BUY).code == 3
    monkeypatch.setenv("KLING_CONFIG", "none.toml")
    missing = kling(*BUY)
    assert missing.code == 2
    assert "none.toml cannot be read" in missing.err
