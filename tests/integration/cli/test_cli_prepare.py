"""``--prepare``: photos as they are, from the command line."""

from __future__ import annotations

import builtins
import json
from hashlib import sha256
from pathlib import Path
from typing import Any

import anyio
import pytest
from PIL import Image

from kling_async import inspect_ledger, prepare_image
from kling_async.sandbox import Sandbox
from support.cli_process import Run

PHOTO = "runblob/o3-photo"


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """A scan that lies on its side and is too large: no endpoint takes a TIFF."""
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation
    Image.radial_gradient("L").convert("CMYK").resize((900, 600)).save(tmp_path / "scan.tiff", exif=exif)
    Image.new("RGB", (320, 320), "teal").save(tmp_path / "good.png")
    return tmp_path / "scan.tiff"


def sent(ledger: Path) -> list[Any]:
    """The images of the requests that were submitted, as the ledger describes them."""
    contents = anyio.run(inspect_ledger, ledger)
    return [submission.request["references"] for submission in contents.submissions]


def digest(path: Path) -> str:
    """How the ledger describes the content of a file."""
    return f"sha256:{sha256(path.read_bytes()).hexdigest()}"


@pytest.mark.usefixtures("sandbox")
def test_an_image_is_converted_and_scaled_and_a_line_says_so(kling: Run, photo: Path) -> None:
    answer = kling(
        *("generate", PHOTO, "a boat", "--reference", "scan.tiff", "--reference", "good.png"),
        *("--prepare", "--max-side", "450", "--no-wait", "--ledger", "kling.db"),
    )
    assert answer.code == 0, answer
    Path("made.png").write_bytes(prepare_image(photo, max_side=450))
    assert sent(Path("kling.db")) == [[digest(Path("made.png")), digest(Path("good.png"))]]
    [line] = [line for line in answer.err.splitlines() if line.startswith(photo.name)]
    for what in ("PNG 300x450", "converted from TIFF to PNG", "CMYK", "scaled down from 600x900"):
        assert what in line
    assert "good.png: PNG 320x320, 1 KiB: nothing was changed" in answer.err


@pytest.mark.usefixtures("photo")
def test_without_it_the_error_names_it(kling: Run, sandbox: Sandbox) -> None:
    answer = kling("generate", PHOTO, "a boat", "--reference", "scan.tiff", "--no-wait")
    assert answer.code == 2
    assert "is a TIFF by its content" in answer.err
    assert "kling --prepare" in answer.err
    assert not sandbox.state.jobs


@pytest.mark.parametrize(
    ("name", "reason"), [("missing.heic", "cannot be read: No such file"), ("words.png", "no image that Pillow")]
)
def test_what_cannot_be_prepared_buys_nothing(
    kling: Run, sandbox: Sandbox, tmp_path: Path, name: str, reason: str
) -> None:
    (tmp_path / "words.png").write_text("these are words")
    answer = kling("generate", PHOTO, "a boat", "--reference", name, "--prepare", "--no-wait")
    assert answer.code == 2
    assert name in answer.err
    assert reason in answer.err
    assert not sandbox.state.jobs


@pytest.mark.usefixtures("photo")
@pytest.mark.parametrize("command", ["generate", "bulk"])
def test_without_the_extra_the_remedy_is_told(
    kling: Run, sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    real = builtins.__import__

    def without_pillow(name: str, *rest: Any, **named: Any) -> Any:
        if name == "PIL":
            raise ModuleNotFoundError("No module named 'PIL'", name="PIL")
        return real(name, *rest, **named)

    monkeypatch.setattr(builtins, "__import__", without_pillow)
    (tmp_path / "rows.jsonl").write_text(json.dumps({"prompt": "a boat", "references": ["scan.tiff"]}))
    arguments = {
        "generate": ("generate", PHOTO, "a boat", "--reference", "scan.tiff", "--prepare", "--no-wait"),
        "bulk": ("bulk", "rows.jsonl", "-o", "out", "--endpoint", PHOTO, "--prepare"),
    }
    answer = kling(*arguments[command])
    assert answer.code == 2
    assert "--prepare" in answer.err
    assert "pip install 'kling-async[images]'" in answer.err
    assert not sandbox.state.jobs


@pytest.mark.sandbox(speed=600)
@pytest.mark.usefixtures("photo")
def test_rows_have_their_images_prepared_once_and_stay_the_same_rows(
    kling: Run, sandbox: Sandbox, tmp_path: Path
) -> None:
    rows = [{"prompt": prompt, "references": ["scan.tiff", "good.png"]} for prompt in ("a boat", "a fox")]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    command = ("bulk", "rows.jsonl", "--endpoint", PHOTO, "--max-side", "450")
    dry = kling(*command, "--dry-run")
    assert dry.code == 0, dry
    answer = kling(*command, "-o", "out")
    assert answer.code == 0, answer
    assert "2 images are prepared: 1 changed (in out/prepared), 1 as before" in answer.err
    [made] = (tmp_path / "out" / "prepared").iterdir()
    page = (tmp_path / "out" / "report.html").read_text("utf-8")
    data = json.loads(page.partition('id="data">')[2].partition("</script>")[0])
    shown = [row["references"] for row in data["rows"]]
    assert [[one["src"] for one in each] for each in shown] == 2 * [[f"prepared/{made.name}", "../good.png"]]
    assert [[one["name"] for one in each] for each in shown] == 2 * [["scan.tiff", "good.png"]]
    with Image.open(made) as image:
        assert (image.format, image.size, image.mode) == ("PNG", (300, 450), "RGB")
    assert sent(tmp_path / "out" / "ledger.db") == [[digest(made), digest(tmp_path / "good.png")]] * 2
    records = [json.loads(line) for line in (tmp_path / "out" / "results.jsonl").read_text().splitlines()]
    assert {tuple(record["request"]["references"]) for record in records} == {("scan.tiff", "good.png")}

    more = kling("bulk", "out/results.jsonl", "-o", "more", "--dry-run")
    assert more.code == 2, more  # its images are TIFFs still, and --prepare is not given
    assert "scan.tiff) is a TIFF by its content" in more.err

    (tmp_path / "out").rename(tmp_path / "moved")
    again = kling(*command, "-o", "moved")
    assert again.code == 0, again
    assert len(sandbox.state.jobs) == 2, "the rows are known, wherever their prepared images are"


@pytest.mark.usefixtures("photo")
def test_a_row_with_an_image_that_cannot_be_prepared_is_named(kling: Run, sandbox: Sandbox, tmp_path: Path) -> None:
    (tmp_path / "broken.tiff").write_bytes((tmp_path / "scan.tiff").read_bytes()[:5000])
    rows = [{"prompt": "a boat", "references": [name]} for name in ("scan.tiff", "broken.tiff", "missing.heic")]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    answer = kling("bulk", "rows.jsonl", "-o", "out", "--endpoint", PHOTO, "--prepare")
    assert answer.code == 2
    assert "line 2: references: broken.tiff is damaged or not complete" in answer.err
    assert "line 3: references: missing.heic cannot be read" in answer.err
    assert "line 1" not in answer.err
    assert not sandbox.state.jobs
