"""Rounds of seeds until every claim is answered. The oracle is a plain run with as many seeds."""

import dataclasses
import functools
import itertools
import json
import os
import signal
from pathlib import Path

import forks
import numpy as np
import pytest
import until_run
from test_distributed import two

import mnistlab
from experiments import keras_vs_scratch
from mnistlab.analysis import claims, history
from mnistlab.analysis.looks import Question
from mnistlab.analysis.sequential import ALPHA, sequential_p
from mnistlab.comparison import until
from mnistlab.comparison.spec import Options
from mnistlab.errors import UserError
from mnistlab.training import loop
from mnistlab.training.loop import Resources

pytestmark = pytest.mark.usefixtures("undrawn_pages")
ROOT = Path(__file__).parents[1]
ALL = "Every claim that seeds can answer is answered."
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


def epochs(said):
    return [line for line in said if " epoch " in line]


def options(**changes):
    return Options(Path(), until="resolved", **changes)


def num_seeds(folder):
    return {name: len(result.runs) for name, result in mnistlab.read_run(folder).variants.items()}


def start(folder, *flags):
    """Starts the command; a run has one device, as those in this process have."""
    asked = ("--until=resolved", "--max_seeds=10", "--devices=1", "--progress=lines", f"--workdir={folder}")
    return forks.start(
        "experiments.cli.main", ["run", str(ROOT / "tests" / "until_run.py"), *asked, *flags], pictures=False
    )


def whole(process):
    """The lines of a process that comes to its end."""
    said, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    return said.splitlines()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The folder of a run of the command, and how many epochs it said."""
    folder = tmp_path_factory.mktemp("undisturbed")
    said = whole(start(folder))
    assert num_seeds(folder) == SEEDS
    return folder, len(epochs(said))


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
    assert len(epochs(said)) == 2 * sum(SEEDS.values())  # every seed was trained once
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
    own, one = until_run.EXPERIMENT, Resources(population_size=1)
    fresh = {name: loop.train(net.config, own.data, range(10), resources=one) for name, net in own.controlled.items()}
    (tmp_path / "history.csv").write_text(history.to_csv({name: whole.result for name, whole in fresh.items()}))
    assert rows(plain) == rows(tmp_path)


def test_a_run_out_of_minutes_or_killed_in_a_round_ends_as_if_it_had_gone_on(resolved, tmp_path):
    ended = until_run.resolve(tmp_path, max_minutes=1e-9)["until"]
    assert ended.startswith("Open, since max_minutes is 1e-09; the same command goes on: (b) after 7 pairs, ")
    assert num_seeds(tmp_path) == dict.fromkeys(SEEDS, 7)
    process = start(tmp_path, "--population_size=1")
    first_epochs = (line for line in process.stdout if line.startswith("wide epoch 1/"))
    next(first_epochs), next(first_epochs)  # the eighth seed is whole, the ninth is not
    process.kill()
    process.communicate()
    assert not (tmp_path / "summary.json").exists()
    said = []
    until_run.resolve(tmp_path, said.append)
    assert len(epochs(said)) < 2 * 6  # what was kept was not trained again
    assert ending(tmp_path) == ending(resolved[0])


def first_epoch_of_a_round(process, number):
    """Reads what `process` says up to the first epoch after the end of so many rounds; yields the epochs."""
    for _ in range(number):
        ended = itertools.takewhile(lambda line: not line.startswith("seeds: "), process.stdout)
        yield from epochs(ended)
    yield next(line for line in process.stdout if " epoch " in line)


def planned(folder):
    """How many seeds the round has at which the run in `folder` is, by variant."""
    run = json.loads((folder / "config.json").read_text())["run"]
    return {name: len(run.get("seeds_of", {}).get(name, run["seeds"])) for name in run["variants"]}


def test_a_signal_in_the_first_or_in_a_later_round_changes_nothing_of_how_it_ends(undisturbed, tmp_path):
    status, said, begun = {signal.SIGTERM: os.EX_TEMPFAIL, signal.SIGINT: 130}, [], []
    for round_, number in enumerate((signal.SIGTERM, signal.SIGINT)):
        process = start(tmp_path)
        said += first_epoch_of_a_round(process, round_)
        process.send_signal(number)
        more, errors = process.communicate(timeout=60)
        assert process.returncode == status[number], errors
        assert f"stopped by {number.name} after a whole epoch" in errors.splitlines()[-1]
        assert not (tmp_path / "summary.json").exists()
        said += epochs(more.splitlines())
        begun.append(planned(tmp_path))
    assert begun[0] == dict.fromkeys(SEEDS, 7) and begun[1]["narrow"] == 7 < begun[1]["wide"]
    said += epochs(whole(start(tmp_path)))
    folder, num_epochs = undisturbed
    assert ending(tmp_path) == ending(folder)
    assert len(said) == num_epochs  # none is repeated


def test_two_processes_resolve_as_one_though_stopped_in_a_later_round(undisturbed, tmp_path):
    begin = functools.partial(two, functools.partial(start, tmp_path))
    both = begin()
    list(first_epoch_of_a_round(both[0], 1))
    both[1].terminate()
    assert [process.wait(60) for process in both] == [os.EX_TEMPFAIL] * 2
    assert planned(tmp_path)["narrow"] == 7 < planned(tmp_path)["wide"]
    both = begin()
    said = [whole(process) for process in both]
    assert epochs(said[0]) and not any(line.startswith(("seeds: ", "  (")) for line in said[1])  # one of them decides
    folder, _ = undisturbed
    alone, together = (mnistlab.read_run(path) for path in (folder, tmp_path))
    assert num_seeds(tmp_path) == SEEDS and together.summary["until"] == alone.summary["until"]
    for mine, theirs in zip(together.summary["claims"], alone.summary["claims"], strict=True):
        assert (mine["verdict"], mine["n"]) == (theirs["verdict"], theirs["n"])
    for name, result in together.variants.items():
        np.testing.assert_allclose(result.history["val_loss"], alone.variants[name].history["val_loss"], rtol=1e-5)


def test_the_first_round_can_answer_among_all_that_are_corrected_for():
    own = keras_vs_scratch.EXPERIMENT
    assert any(claims.is_of_the_clock(claim.metric) for claim in own.claims)  # which seeds never answer
    number = until.first_number(own.claims, own.controlled, options())
    best = len(own.claims) * sequential_p(np.ones(number))
    assert best[-1] <= ALPHA < best[-2]


def test_an_obvious_claim_stops_at_the_fewest_seeds(tmp_path):
    obvious = until_run.resolve(tmp_path, claims=until_run.CLAIMS[:1])
    assert obvious["n_seeds"] == 6 and obvious["claims"][0]["verdict"].startswith("holds")
    assert obvious["until"] == ALL


def test_a_twin_with_a_large_margin_stops_with_no_difference_that_matters(tmp_path):
    about = until_run.CLAIMS[1]
    done = until_run.resolve(tmp_path, claims=(dataclasses.replace(about, matters=0.9),), max_seeds=20)
    assert done["claims"][0]["verdict"] == "no difference that matters" and done["n_seeds"] < 20
    assert done["until"] == ALL


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
    assert until.next_round(asked[1:], counts, options(), 0.0) == (counts, ALL)


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
