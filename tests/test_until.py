"""Rounds of seeds until every claim is answered. The oracle is a plain run with as many seeds."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import until_run

import mnistlab
from mnistlab.analysis.looks import Question
from mnistlab.comparison import until
from mnistlab.comparison.spec import Options
from mnistlab.errors import UserError

ROOT = Path(__file__).parents[1]
SEEDS = {"narrow": 7, "wide": 10, "close": 10}  # 7 pairs are the fewest that can answer two claims


def rows(folder, variant=""):
    """history.csv without the seconds."""
    lines = (folder / "history.csv").read_text().splitlines()[1:]
    return [line.rpartition(",")[0] for line in lines if line.startswith(variant)]


def ending(folder):
    """Rows, digests of all weights, verdicts and what was said of the end."""
    summary = json.loads((folder / "summary.json").read_text())
    digests = {
        path.parts[-5]: json.loads(path.read_text())["digest"]
        for path in sorted((folder / "checkpoints").glob("*/last/0/meta/metadata"))
    }
    return rows(folder), digests, [claim["verdict"] for claim in summary["claims"]], summary["until"]


def options(**changes):
    return Options(Path(), until="resolved", **changes)


def num_seeds(folder):
    return {name: len(result.runs) for name, result in mnistlab.read_run(folder).variants.items()}


@pytest.fixture(scope="module")
def resolved(tmp_path_factory):
    """A run that ended at max_seeds, all that it said, and when weights were last written by the end of each round."""
    folder, said, times = tmp_path_factory.mktemp("resolved"), [], []

    def log(line):
        said.append(line)
        if line.startswith("seeds: "):
            written = (folder / "checkpoints").glob("*/last/0/meta/metadata")
            times.append({path.parts[-5]: path.stat().st_mtime_ns for path in written})

    until_run.resolve(folder, log)
    return folder, said, times


def test_seeds_are_added_to_what_an_open_claim_needs_and_to_nothing_else(resolved):
    folder, said, times = resolved
    assert num_seeds(folder) == SEEDS
    assert next(line for line in said if line.startswith("seeds: ")) == "seeds: narrow 7, wide 7, close 7"
    assert sum("epoch" in line for line in said) == 2 * sum(SEEDS.values())  # every seed was trained once
    assert all(round_["narrow"] == times[0]["narrow"] for round_ in times) and times[-1]["wide"] > times[0]["wide"]
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["claims"][0]["verdict"].startswith("holds") and summary["claims"][0]["n"] == 7
    assert summary["claims"][1]["verdict"].startswith("not resolved") and summary["claims"][1]["n"] == 10
    assert summary["until"].startswith("Open, since max_seeds is 10: (b) after 10 pairs, ")
    assert "(b) after 10 pairs" in (folder / "report.html").read_text()
    assert "over 7 to 10 seeds" in "".join(said)


def test_every_seed_is_that_of_a_plain_run_and_a_folder_goes_on_either_way(resolved, tmp_path):
    folder, _, _ = resolved
    plain = tmp_path / "plain"
    until_run.resolve(plain, until=None, num_seeds=8)
    until_run.resolve(plain)  # from 8 on
    assert num_seeds(plain) == SEEDS | {"narrow": 8}
    assert rows(plain, "wide") == rows(folder, "wide") and rows(plain, "close") == rows(folder, "close")
    with pytest.raises(UserError, match="seeds 10 -> 9"):
        until_run.resolve(plain, until=None, num_seeds=9)
    until_run.resolve(plain, until=None, num_seeds=10)
    assert num_seeds(plain) == dict.fromkeys(SEEDS, 10) and rows(plain, "narrow")[:14] == rows(folder, "narrow")
    assert "until" not in json.loads((plain / "summary.json").read_text())
    fresh = tmp_path / "fresh"
    until_run.resolve(fresh, until=None, num_seeds=10)
    assert rows(plain) == rows(fresh)


def test_a_run_out_of_minutes_or_killed_in_a_round_ends_as_if_it_had_gone_on(resolved, tmp_path):
    ended = until_run.resolve(tmp_path, max_minutes=1e-9)["until"]
    assert ended.startswith("Open, since max_minutes is 1e-09; the same command goes on: (b) after 7 pairs, ")
    assert num_seeds(tmp_path) == dict.fromkeys(SEEDS, 7)
    script = [sys.executable, ROOT / "tests" / "until_run.py", tmp_path]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(script, env=env, stdout=subprocess.PIPE, text=True) as process:
        first_epochs = (line for line in process.stdout if line == "wide epoch 1\n")
        next(first_epochs), next(first_epochs)  # the eighth seed is whole, the ninth is not
        process.kill()
    assert not (tmp_path / "summary.json").exists()
    said = []
    until_run.resolve(tmp_path, said.append)
    assert sum("epoch" in line for line in said) < 2 * 6  # what was kept was not trained again
    assert ending(tmp_path) == ending(resolved[0])


def test_an_obvious_claim_stops_at_the_fewest_seeds(tmp_path):
    obvious = until_run.resolve(tmp_path, claims=until_run.CLAIMS[:1])
    assert obvious["n_seeds"] == 6 and obvious["claims"][0]["verdict"].startswith("holds")
    assert obvious["until"] == "Every claim is answered."


def test_a_twin_with_a_large_margin_stops_with_no_difference_that_matters(tmp_path):
    about = until_run.CLAIMS[1]
    done = until_run.resolve(tmp_path, claims=(dataclasses.replace(about, matters=0.9),), max_seeds=20)
    assert done["claims"][0]["verdict"] == "no difference that matters" and done["n_seeds"] < 20
    assert done["until"] == "Every claim is answered."


@pytest.mark.parametrize(
    "num_more, expected",
    [
        (1, {"a": 10, "b": 16, "c": 10}),  # by a quarter at least
        (4, {"a": 12, "b": 16, "c": 12}),
        (42, {"a": 16, "b": 16, "c": 16}),  # twice as many at most
    ],
)
def test_a_round_is_of_what_is_expected_within_bounds(num_more, expected):
    asked = [Question("1", ("a", "c"), 8, num_more, ""), Question("2", ("a", "b"), 8, 0, "")]
    counts = {"a": 8, "b": 16, "c": 8}
    assert until.next_round(asked, counts, options(), 0.0) == (expected, "")
    assert until.next_round(asked[1:], counts, options(), 0.0) == (counts, "Every claim is answered.")


@pytest.mark.parametrize(
    "change, words",
    [
        ({"max_seeds": 6}, "2 claims take 7 at least"),
        ({"max_seeds": 9, "num_seeds": 10}, "--seeds is 10"),
        ({"variants": ("wide",)}, "no claim is about these variants"),
        ({"sweep": {"initial_scale": (0.5, 1.0)}}, "no claim is about a swept variant"),
        ({"until": "bored"}, "until is 'bored'; expected one of resolved"),
        ({"max_minutes": 0.0}, "max_minutes is 0.0"),
        ({"first_seed": 2**32 - 8}, "too large"),
    ],
)
def test_what_cannot_be_resolved_is_one_line_before_anything_is_written(tmp_path, change, words):
    with pytest.raises(UserError, match=words):
        until_run.resolve(tmp_path / "run", **change)
    assert not (tmp_path / "run" / "config.json").exists()
