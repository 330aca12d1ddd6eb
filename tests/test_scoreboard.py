"""Which runs of the scoreboard stand beside the source, and which do not."""

import json

import numpy as np
import pytest
from run_folders import result_of, write_run

from experiments import scoreboard
from mnistlab.analysis import claims, departures
from mnistlab.analysis.claims import Claim
from mnistlab.comparison import saved, workdirs
from mnistlab.errors import UserError

QUESTIONS = (Claim("a", "LeNet-5 is more accurate", "test_accuracy", "lenet5", ">", "dense"),)
RESULTS = {
    "lenet5": result_of(0.97 + 0.001 * np.arange(8), range(8)),
    "dense": result_of([*(0.98 + 0.001 * np.arange(7) ** 0.5), np.nan], range(8)),
}
CHANGES = ["learning_rate 0.001 -> 1e-05"]


def board(tmp_path, monkeypatch, change=lambda summary: summary, has_page=True):
    """(scoreboard.md, summary.json, report.html) of one run of lenet_vs_dense, its summary changed."""
    folder = write_run(tmp_path / "run", RESULTS, questions=QUESTIONS, experiment="lenet_vs_dense", protocol="reported")
    if has_page:
        (folder / "report.html").touch()
    monkeypatch.setattr(scoreboard.common, "command", lambda: "")
    out = tmp_path / "board"
    scoreboard._write(
        out,
        {("lenet_vs_dense", "reported"): change(saved.read_summary(folder))},
        [],
        {("lenet_vs_dense", "reported"): folder},
    )
    return [(out / name).read_text() for name in ("scoreboard.md", "summary.json", "report.html")]


def test_a_run_of_the_protocol_stands_beside_the_source(tmp_path, monkeypatch):
    text, summary, page = board(tmp_path, monkeypatch)
    assert json.loads(summary)["departures"] == [] and "hanged run" not in page and "hanged run" not in text
    assert '<a href="../run/report.html">lenet_vs_dense</a>' in page
    assert "under the reported protocol, 1 reversed" in page
    assert "| lenet_vs_dense | dense | accuracy | 0.9780 |" in text and "side |" in text
    assert "reversed" in text and "| 7, 1 diverged |" in text


def test_a_run_whose_page_was_not_published_is_not_linked(tmp_path, monkeypatch):
    _, _, page = board(tmp_path, monkeypatch, has_page=False)
    assert "lenet_vs_dense" in page and "../run" not in page


def test_a_changed_run_does_not(tmp_path, monkeypatch):
    def changed(summary):
        checked = departures.of_changed_run(claims.check(QUESTIONS, RESULTS), CHANGES)
        return summary | {"departures": CHANGES, "claims": [item.to_dict() for item in checked]}

    text, summary, page = board(tmp_path, monkeypatch, changed)
    assert json.loads(summary)["departures"] == ["lenet_vs_dense/reported: learning_rate 0.001 -> 1e-05"]
    assert "0.9780" not in text and "side |" not in text and "| reversed" not in text
    assert "| 7, 1 diverged | learning_rate 0.001 -> 1e-05 |" in text and "changed run: the opposite holds" in text
    assert "1 of 1 are changed runs" in page.partition("</h1>")[0]


def test_a_run_of_before_departures_were_named_may_have_changed_anything(tmp_path, monkeypatch):
    text, _, _ = board(tmp_path, monkeypatch, lambda summary: {k: v for k, v in summary.items() if k != "departures"})
    assert "0.9780" not in text and "side |" not in text and "| reversed" not in text
    assert f"| {departures.UNKNOWN}: no verdict |" in text


def test_seeds_that_all_diverged_are_on_the_board(tmp_path, monkeypatch):
    monkeypatch.setitem(RESULTS, "dense", result_of(np.full(8, np.nan), range(8)))
    text, _, _ = board(tmp_path, monkeypatch)
    assert "| lenet_vs_dense | dense | accuracy | 0.9780 | – | 0, 8 diverged |" in text


def test_the_tables_take_the_place_of_those_before_and_leave_the_words_around_them(tmp_path):
    path = tmp_path / "results.md"
    path.write_text("# Results\n\nWhat was found.\n")
    for tables in ("| a |\n", "| b |\n\n| c |\n"):
        scoreboard.write_into(path, tables)
    written = path.read_text().replace(f"{scoreboard.END}\n", f"{scoreboard.END}\n\nMore.\n")
    assert "| a |" not in written and written.startswith("# Results\n\nWhat was found.\n\n<!-- tables")
    path.write_text(written)
    scoreboard.write_into(path, "| b |\n\n| c |\n")
    assert path.read_text() == written
    path.write_text(written.replace(scoreboard.END, ""))
    with pytest.raises(UserError, match="put that back"):
        scoreboard.write_into(path, "| d |")
    assert "More." in path.read_text()


def test_a_folder_that_holds_another_run_than_its_name_says_is_refused(tmp_path):
    folder = write_run(tmp_path / "lenet_vs_dense", RESULTS, experiment="lenet_vs_dense", protocol="controlled")
    with pytest.raises(UserError, match=r"protocol 'controlled', and not lenet_vs_dense, reported"):
        scoreboard._read(folder, "lenet_vs_dense", "reported")
    assert scoreboard._read(folder, "lenet_vs_dense", "controlled")["n_seeds"] == 8
    assert scoreboard._read(tmp_path / "nothing", "lenet_vs_dense", "reported") is None


def test_a_folder_of_a_run_is_no_place_for_it(tmp_path):
    folder = write_run(tmp_path / "run", RESULTS, experiment="lenet_vs_dense", protocol="controlled")
    with pytest.raises(UserError, match="holds another run"):
        workdirs.holds(folder, "scoreboard")
    assert not workdirs.holds(tmp_path / "nothing", "scoreboard")
