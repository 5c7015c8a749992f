"""A notebook is executed, cell by cell, by a real kernel. What its cells show is read from its outputs."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import nbclient
import nbformat
import pytest

from kling_async import Artifact, Client, JobRef, Result, runblob
from kling_async.notebook import live
from kling_async.sandbox import Sandbox

NOTEBOOK = """\
from kling_async import Client, runblob
client = Client()
---
job = await client.submit(runblob.O3Photo('a <b>boat</b>', resolution='1k'))
await job.wait()
job
---
await job
---
await client.run(runblob.O3Photo('another boat', resolution='1k'), save_to='out')
---
from kling_async.notebook import live
rows = [(f'boat {n}', runblob.O3Photo(f'boat {n}', resolution='1k')) for n in range(3)]
async with client.map(rows, save_to='out') as outcomes:
    async for outcome in live(outcomes):
        pass
---
outcomes
---
job = await client.submit(runblob.O3Photo('a live boat', resolution='1k'))
async for event in live(job):
    pass
---
job.events
---
await client.aclose()
---
from kling_async.sync import Client as SyncClient
client = SyncClient()
with client.map([request for _, request in rows]) as outcomes:
    done = [outcome.result is not None for outcome in live(outcomes)]
client.close()
done
---
outcomes
"""


@pytest.mark.slow
@pytest.mark.sandbox(environment=True)
def test_a_notebook_shows_jobs_and_results(sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KLING_SANDBOX_SPEED", "600")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in NOTEBOOK.split("---\n")])
    kernel = {"display_name": "Python", "language": "python", "name": "python3"}
    notebook.metadata["kernelspec"] = kernel
    nbclient.NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(tmp_path)}}).execute()
    job, linked, saved, bulk, run, followed, log, _, without_await, closed = (
        "".join(
            str(output["data"].get("text/html", output["data"]["text/plain"]))
            for output in cell.outputs
            if "data" in output
        )
        for cell in notebook.cells[1:]
    )
    assert "completed" in job
    assert "save_to" in linked
    assert "<img" not in linked
    assert any(f'src="out/{file.name}"' in saved for file in (tmp_path / "out").iterdir())
    assert len(list((tmp_path / "out").iterdir())) == 4
    assert '<progress value="3" max="3"' in bulk
    assert bulk.count("<progress") == 1  # one bar that changed, not one for each row
    assert "3 of 3 rows: 3 done, $0.15" in bulk
    assert run == bulk
    assert followed.count("<table>") == 1
    assert "completed" in followed
    assert log in followed
    assert "3 of 3 rows: 3 done" in without_await
    assert without_await.endswith("[True, True, True]")
    assert closed in without_await
    assert sandbox.counters.jobs_bought == 9


@pytest.mark.asyncio
async def test_outside_of_a_notebook_nothing_is_shown(sandbox: Sandbox, capsys: pytest.CaptureFixture[str]) -> None:
    async with Client(sandbox.providers()) as client:
        requests = [runblob.O3Photo("a <b>boat</b>", resolution="1k")] * 2
        async with client.map(iter(requests)) as outcomes:
            assert outcomes._repr_html_() == "<div>0 rows</div>"
            assert [outcome.error async for outcome in live(outcomes)] == [None, None]
        assert outcomes._repr_html_() == "<div>2 rows: 2 done, $0.10</div>"
        job = await client.submit(requests[0])
        assert [event async for event in live(job)] == list(job.events)
        assert job.events._repr_html_().count("<td") == 3 * len(job.events)  # no column without a text
    assert capsys.readouterr().out == ""
    with pytest.raises(TypeError, match="takes a bulk run or a job, not an object of type list"):
        live([])  # type: ignore[call-overload]


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
