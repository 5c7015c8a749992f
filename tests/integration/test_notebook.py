"""A notebook is executed, cell by cell, by a real kernel. What its cells show is read from its outputs."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import nbclient
import nbformat
import pytest

from kling_async import Artifact, JobRef, Result
from kling_async.sandbox import Sandbox

CELLS = [
    "from kling_async import Client, runblob\nclient = Client()",
    "job = await client.submit(runblob.O3Photo('a <b>boat</b>', resolution='1k'))\nawait job.wait()\njob",
    "await job",
    "await client.run(runblob.O3Photo('another boat', resolution='1k'), save_to='out')",
    "await client.aclose()",
]


@pytest.mark.slow
@pytest.mark.sandbox(environment=True)
def test_a_notebook_shows_jobs_and_results(sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KLING_SANDBOX_SPEED", "600")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in CELLS])
    kernel = {"display_name": "Python", "language": "python", "name": "python3"}
    notebook.metadata["kernelspec"] = kernel
    nbclient.NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(tmp_path)}}).execute()
    job, linked, saved = (
        "".join(output["data"]["text/html"] for output in cell.outputs if "data" in output)
        for cell in notebook.cells[1:4]
    )
    assert "completed" in job
    assert "not saved" in linked
    assert "<img" not in linked
    [file] = (tmp_path / "out").iterdir()
    assert f'src="out/{file.name}"' in saved
    assert sandbox.counters.jobs_bought == 2


def shown(artifact: Artifact, *files: object) -> str:
    html: str = Result(JobRef("runblob", "o3-photo", "1"), (artifact,), files=files)._repr_html_()
    return html


def test_a_clip_that_was_saved_plays() -> None:
    html = shown(Artifact("video", "https://cdn.test/a.mp4"), Path("out/a boat.mp4"))
    assert '<video controls loop src="out/a%20boat.mp4"' in html


def test_what_came_inline_is_shown() -> None:
    assert 'src="data:image/png;base64,iVBORw0KGgo' in shown(Artifact("image", data=b"\x89PNG\r\n\x1a\n" + bytes(8)))


@pytest.mark.parametrize("url", ["javascript:alert(1)", 'https://cdn.test/"><script>alert(1)</script>'])
def test_an_address_of_a_provider_cannot_run_a_script(url: str) -> None:
    html = shown(Artifact("image", url))
    assert "<script" not in html
    assert "javascript:" not in html.partition("</div>")[2]
