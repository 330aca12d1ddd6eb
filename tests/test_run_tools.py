"""show, open and prune on a run of training, from their command lines."""

import html
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from command_lines import run_all_with_data

import mnistlab
from mnistlab.comparison import listing, prune, workdirs
from mnistlab.errors import UserError

ROOT = Path(__file__).parents[1]
MAIN = "experiments.cli.main"
SMALL = ["--variants=dense,lenet5", "--epochs=1", "--limit_examples=200", "--batch_size=100", "--progress=none"]
TRAIN = ["run", "lenet_vs_dense", *SMALL]


@pytest.fixture(scope="module")
def trained(little_flags, tmp_path_factory):
    """(folder, what the run printed): two seeds of two variants in its run/."""
    folder = tmp_path_factory.mktemp("tools")
    line = [*TRAIN, *little_flags, "--seeds=2", "--workdir=run"]
    (ended,) = run_all_with_data([(MAIN, line)], folder, pictures=False)
    assert ended.status == 0, ended.err
    return folder, ended.out


@pytest.fixture
def run(trained, tmp_path):
    shutil.copytree(trained[0] / "run", tmp_path / "run")
    return tmp_path / "run"


def test_show_prints_what_the_run_ended_with(trained):
    folder, printed = trained
    (shown,) = run_all_with_data([(MAIN, ["show", "run"])], folder)
    assert shown.status == 0, shown.err
    results = printed[printed.index("\nOurs (") : printed.index("\nreport: ")].strip()
    assert results in shown.out and "(a) LeNet-5 is more accurate" in results
    assert json.loads((folder / "run" / "summary.json").read_text())["answer"] in results
    assert "repeat: mnistlab run lenet_vs_dense --variants=dense,lenet5" in shown.out
    assert shown.out.strip().endswith("report: run/report.html")


def test_a_run_ends_with_what_to_do_next(trained):
    said = trained[1].strip().splitlines()[-1]
    assert said.startswith("next: 2 seeds are too few for a, d1; to answer it, keeping what was already run: mnistlab ")
    assert said.endswith(" --workdir=run --until=resolved") and said.count("--seeds") == 1
    command = said.partition("was run: ")[2]
    assert command in html.unescape((trained[0] / "run" / "report.html").read_text())  # the page says the same


def test_show_of_what_trained_nothing_and_of_no_run(tmp_path):
    summary = {
        "experiment": "compare",
        "protocol": ["reported", "controlled"],
        "data": None,
        "device": "cpu",
        "n_seeds": 1,
        "variants": {"a": {"metrics": {"error": {"mean": 2.5e-10, "ci95": [None, None], "n": 1, "values": [2.5e-10]}}}},
        "claims": [],
        "seconds": {},
    }
    workdirs.leave(
        tmp_path / "tool", identity={"experiment": "compare"}, command="", title="", blocks=[], summary=summary
    )
    shown, missing = run_all_with_data([(MAIN, ["show", "tool"]), (MAIN, ["show", "nowhere"])], tmp_path)
    assert shown.status == 0 and "2.50e−10 (n=1)" in shown.out
    assert missing.status == 2 and len(missing.err.splitlines()) == 1


def test_open_hands_the_page_to_the_browser(trained):
    folder, _ = trained
    command = [sys.executable, "-m", MAIN, "open"]
    environ = os.environ | {"PYTHONPATH": str(ROOT), "BROWSER": "echo opened %s"}
    done = subprocess.run([*command, "run"], cwd=folder, env=environ, capture_output=True, text=True, timeout=300)
    path = folder / "run" / "report.html"
    assert (done.returncode, done.stdout.splitlines()) == (0, [str(path), f"opened {path.as_uri()}"])
    done = subprocess.run([*command, "gone"], cwd=folder, env=environ, capture_output=True, text=True, timeout=300)
    assert done.returncode == 2 and "gone has no report.html" in done.stderr


def test_a_pruned_run_is_read_and_predicted_from_and_does_not_grow(trained, little_flags, run):
    image = np.random.default_rng(0).integers(0, 256, (3, 28, 28, 1), np.uint8)
    before = mnistlab.predict(mnistlab.read_run(run), "lenet5", image, seed=1)
    size, summary = listing.bytes_in(run), (run / "summary.json").read_bytes()
    pruned, again, same, grown = run_all_with_data(
        [
            (MAIN, ["prune", "run"]),
            (MAIN, ["prune", "run"]),
            (MAIN, [*TRAIN, *little_flags, "--seeds=2", "--workdir=run"]),
            (MAIN, [*TRAIN, *little_flags, "--seeds=3", "--workdir=run"]),
        ],
        run.parent,
    )
    left = listing.bytes_in(run)
    assert pruned.status == 0 and f"{size - left:,} bytes dropped" in pruned.out and left < 0.6 * size
    assert not list(run.glob("checkpoints/*/training")) and len(list(run.glob("checkpoints/*/last"))) == 2
    assert again.status == 0 and "0 bytes dropped" in again.out
    assert same.status == 0 and "(a) LeNet-5 is more accurate" in same.out  # it is shown, not trained
    assert grown.status == 2 and "run was pruned" in grown.err and len(grown.err.splitlines()) == 1
    assert (run / "summary.json").read_bytes() == summary
    np.testing.assert_array_equal(mnistlab.predict(mnistlab.read_run(run), "lenet5", image, seed=1), before)


def test_prune_takes_nothing_where_the_rest_is_not_whole(run):
    def training():
        return {path.parent.name for path in run.glob("checkpoints/*/training")}

    elsewhere = run.parent / "elsewhere"
    (run / "checkpoints" / "dense").rename(elsewhere)
    (run / "checkpoints" / "dense").symlink_to(elsewhere)
    with pytest.raises(UserError, match="behind a link"):
        prune.prune(run)
    (run / "checkpoints" / "dense").unlink()
    elsewhere.rename(run / "checkpoints" / "dense")
    with workdirs.locked(run), pytest.raises(UserError, match="another run is writing"):
        prune.prune(run)
    damaged = next(path for path in (run / "checkpoints" / "lenet5" / "last").rglob("d/*") if path.is_file())
    damaged.write_bytes(damaged.read_bytes()[:-1])
    with pytest.warns(UserWarning, match="damaged"), pytest.raises(UserError, match="damaged"):
        prune.prune(run)
    (run / "summary.json").unlink()
    with pytest.raises(UserError, match="not come to its end"):
        prune.prune(run)
    assert training() == {"dense", "lenet5"}


def test_a_prune_that_was_killed_is_ended_by_the_next(run):
    place = run / "checkpoints" / "dense"
    (place / "training").rename(place / prune.DOOMED)  # as far as a killed one came
    assert workdirs.is_pruned(run)
    expected = listing.bytes_in(place / prune.DOOMED) + listing.bytes_in(run / "checkpoints" / "lenet5" / "training")
    assert prune.prune(run) == expected
    assert sorted(path.name for path in place.iterdir()) == ["best", "last"]
    assert json.loads((run / "summary.json").read_text())["n_seeds"] == 2


def test_what_a_killed_prune_left_does_not_stand_in_the_way_of_the_next(run):
    place = run / "checkpoints" / "dense"
    shutil.copytree(place / "training", place / prune.DOOMED)  # and then the run was trained anew
    (place.parent / ".DS_Store").touch()
    prune.prune(run)
    assert sorted(path.name for path in place.iterdir()) == ["best", "last"]
