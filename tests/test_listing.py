"""list: which runs a folder holds, in any state, and what is said of each."""

import json
import os

import numpy as np
import pytest
from command_lines import run_all
from run_folders import result_of, write_run

from mnistlab.analysis.claims import Claim
from mnistlab.comparison import listing
from mnistlab.errors import UserError

NOON = 1_000_036_800  # 2001-09-09 of UTC and of nearly every zone
SEEDS = tuple(range(8))
LOW = 0.9 + 0.01 * np.random.default_rng(0).standard_normal(8)
QUESTIONS = (
    Claim("a", "high is higher", "test_accuracy", "high", ">", "low"),
    Claim("b", "low is higher", "test_accuracy", "low", ">", "high"),
    Claim("c", "never run", "test_accuracy", "high", ">", "other"),
)


@pytest.fixture
def folder(tmp_path):
    results = {"high": result_of(LOW + 0.02, SEEDS), "low": result_of(LOW, SEEDS)}
    (tmp_path / "sweep").mkdir()
    write_run(tmp_path / "sweep" / "whole", results, questions=QUESTIONS)
    write_run(tmp_path / "damaged", results)
    (tmp_path / "damaged" / "history.csv").write_text("variant\n")
    write_run(tmp_path / "begun", results)
    (tmp_path / "begun" / "summary.json").unlink()
    (tmp_path / "another").mkdir()
    (tmp_path / "another" / "config.json").write_text(json.dumps({"editor": "vi"}))
    kept = tmp_path / "sweep" / "whole" / "checkpoints" / "high" / "last"
    kept.mkdir(parents=True)
    (kept / "weights").write_bytes(b"x" * 5000)
    (kept / "elsewhere").symlink_to(tmp_path / "damaged", target_is_directory=True)
    for number, name in enumerate(("damaged", "sweep/whole", "begun")):
        for path in (tmp_path / name).iterdir():
            os.utime(path, (NOON + 100 * number, NOON + 100 * number))
    return tmp_path


def test_runs_are_found_in_any_state_the_newest_first(folder):
    found = {entry.path.name: entry for entry in listing.find_runs(folder)}
    assert list(found) == ["begun", "whole", "damaged"]
    assert found["begun"].outcome.startswith("not finished") and found["begun"].num_seeds == 8
    assert found["damaged"].outcome.startswith("damaged: history.csv")
    whole = found["whole"]
    assert (whole.protocol, whole.num_seeds, whole.outcome) == ("controlled", 8, "1 holds, 1 reversed")
    assert whole.when.timestamp() == NOON + 100


def test_the_size_is_that_of_all_files_and_of_nothing_behind_a_link(folder):
    run = folder / "sweep" / "whole"
    own = sum((run / name).stat().st_size for name in ("config.json", "summary.json", "history.csv"))
    assert listing.bytes_in(run) == own + 5000
    assert {entry.num_bytes for entry in listing.find_runs(run)} == {own + 5000}


def test_what_was_made_of_runs_on_several_devices_is_whole(tmp_path):
    run = write_run(tmp_path / "board", {"low": result_of(LOW, SEEDS)}, device=["cpu: cpu", "gpu: NVIDIA H100"])
    (entry,) = listing.find_runs(run)
    assert entry.outcome == "no claims"  # not: damaged


def test_a_folder_that_is_none_is_an_error(tmp_path):
    with pytest.raises(UserError, match="cannot list"):
        listing.find_runs(tmp_path / "nowhere")


def test_the_command_lists_what_can_be_run_and_the_runs_under_results(folder, tmp_path):
    (folder / "results").mkdir()
    (folder / "sweep").rename(folder / "results" / "sweep")
    alone, of_folder, empty, refused = run_all(
        [("experiments.cli.main", line) for line in (["list"], ["list", "."], ["list", "another"], ["list", "no"])],
        folder,
    )
    assert "  lenet_vs_dense  " in alone.out and "results/sweep/whole  2001-09-09" in alone.out
    assert "begun" not in alone.out  # it lies elsewhere
    assert "lenet_vs_dense" not in of_folder.out and of_folder.out.count("2001-09-09") == 3
    assert (empty.status, empty.out) == (0, "no runs under another\n")
    assert refused.status == 2 and len(refused.err.splitlines()) == 1


def test_a_config_of_another_program_with_its_own_run_is_no_run(folder):
    (folder / "another" / "config.json").write_text(json.dumps({"run": {"seeds": 8}}))
    assert "another" not in {entry.path.name for entry in listing.find_runs(folder)}


def test_a_file_that_a_training_run_deletes_meanwhile_has_no_size(tmp_path, monkeypatch):
    (tmp_path / "kept").write_bytes(b"123")
    monkeypatch.setattr(listing.os, "walk", lambda folder: [(str(folder), [], ["kept", "gone"])])
    assert listing.bytes_in(tmp_path) == 3
