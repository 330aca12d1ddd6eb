"""What a notebook shows of a run, and its DataFrame."""

import sys

import numpy as np
import pytest
from run_folders import result_of, write_run

import mnistlab
from mnistlab.analysis import stats
from mnistlab.analysis.claims import Claim
from mnistlab.comparison.notebook import Summary
from mnistlab.errors import UserError

SEEDS = (3, 4, 5, 6, 7, 8)
LOW = 0.9 + 0.01 * np.random.default_rng(0).standard_normal(6)
QUESTION = Claim("a", "high <b>is</b> higher", "test_accuracy", "high", ">", "low")


@pytest.fixture
def run(tmp_path):
    curve = np.linspace(0, 1, 18).reshape(6, 3)
    high = result_of(LOW + 0.02, SEEDS, val_loss=curve)
    seconds = np.where(curve == curve[1, 2], np.nan, 1.0)  # the second run stopped after two epochs
    results = {"high": high._replace(epoch_seconds=seconds), "low": result_of(LOW, SEEDS)}
    return mnistlab.read_run(write_run(tmp_path / "run", results, questions=[QUESTION])), curve


def test_a_run_and_a_summary_show_their_table_and_verdicts(run):
    folder, _ = run
    page = folder._repr_html_()
    assert page == Summary(folder.summary)._repr_html_()
    assert "<td>high</td><td>1</td><td>0.9" in page and "± 0.0" in page and "(n=6)" in page
    assert "high &lt;b&gt;is&lt;/b&gt; higher</td><td>holds</td>" in page
    assert "mnist, protocol controlled, 6 seed(s)" in page


def test_what_is_printed_of_a_run_fits_in_a_line(run):
    folder, _ = run
    assert repr(folder) == f"RunFolder({folder.path}: high, low; 6 seed(s))"
    mean = f"{LOW.mean():.4f}"
    assert repr(folder.variants["low"]) == f"Result(mnist: 6 run(s), 3 epoch(s), mean test accuracy {mean})"
    assert "mean" not in repr(result_of([np.nan], (0,)))  # it diverged


def test_a_comparison_shows_its_sentence():
    shown = stats.judge([stats.compare(LOW + 0.02, LOW)])[0]._repr_html_()
    assert shown.startswith("<p>&quot;A &gt; B&quot; in what was measured: holds; mean difference +0.02")


def test_a_dataframe_has_a_row_for_each_epoch_or_each_seed(run):
    pytest.importorskip("pandas")
    folder, curve = run
    frame = folder.to_dataframe()
    assert list(frame.columns)[:3] == ["variant", "seed", "epoch"]
    assert len(frame) == 2 * 6 * 3 - 1  # an epoch was not trained
    of_one = frame[(frame.variant == "high") & (frame.seed == 5)]
    np.testing.assert_allclose(of_one.val_loss, curve[2], rtol=1e-6)
    seeds = folder.to_dataframe(rows="seed")
    assert len(seeds) == 12 and seeds[seeds.variant == "low"].test_accuracy.tolist() == LOW.tolist()


def test_without_pandas_and_with_other_rows_it_is_said_in_a_line(run, monkeypatch):
    folder, _ = run
    with pytest.raises(UserError, match="expected one of seed, epoch"):
        folder.to_dataframe(rows="week")
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(UserError, match="pandas, which is not installed"):
        folder.to_dataframe()
