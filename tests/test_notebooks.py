"""The notebooks run from their first cell to their last, and what their texts say is what comes out."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SAID = {
    "one_run_proves_nothing": (
        'units_34 > units_32" in test accuracy: not resolved',
        'units_64 > units_8" in test accuracy: holds',
    ),
    "double_softmax": ('one_softmax > two" in test accuracy: holds', "log(1 + 9/e) = 1.4612"),
    "your_own": ('convolutional > flat" in test accuracy: holds', "certainty 0."),
}
nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")
pytest.importorskip("ipykernel")
pytest.importorskip("pandas")


def test_every_notebook_is_run():
    assert {path.stem for path in (ROOT / "notebooks").glob("*.ipynb")} == set(SAID)


@pytest.mark.parametrize("name", SAID)
def test_a_notebook_runs_and_says_what_it_says(name, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), str(ROOT / "tests")]))
    for home in ("HOME", "IPYTHONDIR"):  # the data are the session's
        monkeypatch.setenv(home, str(tmp_path))
    notebook = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells)  # what is stored grows old
    assert notebook.cells[0].source.startswith("# ")
    # What a notebook draws is drawn; the pages that its runs leave have empty pictures.
    notebook.cells.insert(0, nbformat.v4.new_code_cell("import undrawn; undrawn.apply()"))
    where = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(notebook, timeout=300, kernel_name="python3", resources=where).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    printed = "".join(output.get("text", "") for output in outputs)
    for words in SAID[name]:
        assert words in printed
    shown = [kind for output in outputs for kind in output.get("data", {})]
    assert "text/html" in shown and "image/png" in shown
    assert (tmp_path / "results").is_dir()
