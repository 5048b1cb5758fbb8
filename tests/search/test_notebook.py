"""The notebook runs from its first cell to its last, in an empty folder."""

import re
import shutil
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient
from traitlets.config import Config

import search.api as crossfront

NOTEBOOK = Path(__file__).parents[2] / "examples" / "crossfront.ipynb"


@pytest.fixture
def notebook() -> Any:
    return nbformat.read(NOTEBOOK, as_version=4)


def test_notebook_is_stored_without_outputs(notebook: Any) -> None:
    for cell in notebook.cells:
        assert "outputs" not in cell or (cell.outputs, cell.execution_count) == ([], None), cell.id
        assert cell.metadata == {}
    assert set(notebook.metadata) == {"kernelspec", "language_info"}


@pytest.mark.ray
def test_notebook_runs(
    notebook: Any, tmp_path: Path, empty_database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    storage = tmp_path / "studies"
    storage.mkdir()
    shutil.copy(empty_database, storage / "mlflow.db")
    kernel = {"transport": "ipc", "connection_file": str(tmp_path / "kernel.json")}
    client = NotebookClient(
        notebook,
        timeout=300,
        resources={"metadata": {"path": str(tmp_path)}},
        config=Config({"KernelManager": kernel}),
    )
    client.execute()
    client.execute()  # a second run finds the study and the exports of the first
    shown = {
        cell.id: "".join(str(part.get("text") or part["data"]) for part in cell.outputs)
        for cell in notebook.cells
        if cell.cell_type == "code"
    }
    assert "certified: True, readings that differ: 0" in shown["verify"]
    study = crossfront.open_study("notebook", storage)
    assert study.counts()["complete"] == 6
    rows = re.findall(r"│ +(\d+) │", shown["front"])
    assert {member["number"] for member in crossfront.pareto(study)} == set(map(int, rows))
    assert "Plotly.newPlot" in shown["figure"]
    assert "<- in best/" in shown["export"]
