"""The client's notebook is executed against a whole Convscope, from its first cell to its last."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parents[2] / "docs" / "client.ipynb"


def said(notebook: Any, words: str) -> str:
    """What the one cell whose source has these words put out, as text."""
    (cell,) = (cell for cell in notebook.cells if cell.cell_type == "code" and words in cell.source)
    texts = [one.get("text") or one.get("data", {}).get("text/plain", "") for one in cell.outputs]
    return "".join(texts).strip()


@pytest.mark.timeout(400)
async def test_the_notebook_runs(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONVSCOPE_URL", address)
    committed = nbformat.read(NOTEBOOK, 4)
    notebook = nbformat.read(NOTEBOOK, 4)
    for cell in notebook.cells:
        cell.pop("outputs", None)
        if cell.cell_type == "code":
            cell.outputs = []
    folder = {"metadata": {"path": str(NOTEBOOK.parent)}}
    run = NotebookClient(notebook, timeout=180, startup_timeout=180, resources=folder)
    await asyncio.to_thread(run.execute)

    # What it shows to a reader is what it computes.
    for words in ("client.classify(", "upload_image", "array.shape", "maximize(", "await shift", ".name)", "id =="):
        assert said(notebook, words) == said(committed, words), words
    assert "Egyptian cat" in said(notebook, "client.classify(")
    pictures = [
        output for cell in notebook.cells for output in cell.get("outputs", ()) if "image/png" in output.get("data", {})
    ]
    assert len(pictures) == 3
