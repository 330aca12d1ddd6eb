"""compare, power, gather and the scoreboard on folders of others: odd names, odd numbers, odd JSON.

`MNISTLAB_STRANGERS=300 python -m pytest tests/test_strangers.py` tries so many folders with each tool (default 3).
"""

import json
import math
import os
import random
import shutil

import numpy as np
import pytest
from absl import flags
from absl.testing import flagsaver
from run_folders import result_of, write_run

from experiments import compare, gather, power, scoreboard
from mnistlab.analysis.claims import Claim
from mnistlab.comparison import saved
from mnistlab.errors import UserError

pytestmark = pytest.mark.usefixtures("near_sighted")
NUM_FOLDERS = int(os.environ.get("MNISTLAB_STRANGERS", "3"))
NAMES = ("$\\frac{1$", "$$", "$x$", "\\$", "a_{$", "a/b", "../x", "<b>&", "|", "`x`", "%s", "{x}", "_", "", " ", "a  b")
NAMES += ("dense learning_rate=nan", "learning_rate=x", "é日本", "x" * 190, "x" * 300, "a\nb", "\ud800", "\0", "holds")
FLOATS = (0.0, -0.0, 1.0, -1.0, 1e-320, 1e-300, 1e-17, 1e9, 3e38, 1e100, -1e100, 1e308, -1e308, math.nan, math.inf)
JUNK = (None, True, 0, -1, 10**30, 10**400, "1", [], {}, [None], *FLOATS, *NAMES)


@pytest.fixture(scope="module", autouse=True)
def defined():
    """The flags of all four tools, in this process."""
    before = set(flags.FLAGS)
    compare.define_flags()
    flags.DEFINE_string("claim", None, "")
    flags.DEFINE_list("difference", [], "")
    flags.DEFINE_bool("quick", False, "")
    flags.DEFINE_bool("run", False, "")
    flags.DEFINE_string("runs", None, "")
    for name in ("results", "learned", "bench"):
        flags.DEFINE_string(name, None, "")
    flags.FLAGS(["prog"])
    yield
    for name in set(flags.FLAGS) - before:
        delattr(flags.FLAGS, name)


def outcome(folder, tool, **given):
    """The one line with which a tool ended on `folder`/sweep with its runs a and b; empty where it came to its end."""
    a, b = folder / "sweep" / "a", folder / "sweep" / "b"
    calls = {
        "compare": lambda: compare.main(str(a), str(b)),
        "power": lambda: power.main(str(a)),
        "gather": lambda: gather.main(str(folder / "sweep")),
        "scoreboard": scoreboard.main,
    }
    if tool == "scoreboard":
        for run, name in ((a, "lenet_vs_dense"), (b, "lenet_vs_dense_controlled")):
            shutil.copytree(run, folder / "board" / name)
        path = folder / "board" / "lenet_vs_dense" / "summary.json"
        path.write_text(path.read_text().replace('"protocol": "controlled"', '"protocol": "reported"'))
    with flagsaver.flagsaver(workdir=str(folder / "out"), runs=str(folder / "board"), **given):
        try:
            calls[tool]()
        except UserError as error:
            assert str(error).isprintable() and len(str(error)) < 1000, repr(error)[:1000]
            return str(error)
    assert (folder / "out" / "report.html").exists()
    return ""


def two_runs(folder, tool, names=("lenet5", "dense"), values=None, **summary):
    """Folders sweep/a and sweep/b of runs with these variants, as from before there were digests."""
    (folder / "sweep").mkdir(parents=True)
    for number, name in enumerate("ab"):
        seeds = range(8 * number, 8 * number + 8) if tool == "gather" else range(8)
        rng = np.random.default_rng(number)
        results = {
            name: result_of(0.9 + 0.01 * rng.standard_normal(8) if values is None else values, seeds) for name in names
        }
        first, last = names[0], names[-1]
        questions = [
            Claim("a", "better", "test_accuracy", first, ">", last),
            Claim("b", "near", "test_accuracy", first, "about", 0.9, 0.05),
        ]
        given = {"experiment": "lenet_vs_dense"} | summary
        write_run(folder / "sweep" / name, results, questions=questions, digests=False, **given)
    return folder / "sweep" / "a"


TOOLS = ("compare", "power", "gather", "scoreboard")


@pytest.mark.parametrize("tool", TOOLS)
def test_names_that_matplotlib_would_take_for_formulas(tmp_path, tool):
    two_runs(tmp_path, tool, ("$\\frac{1$", "a_{$ b"))
    assert outcome(tmp_path, tool) == ""


@pytest.mark.filterwarnings("ignore:overflow")
@pytest.mark.parametrize("tool", TOOLS)
def test_numbers_that_no_run_has(tmp_path, tool):
    two_runs(tmp_path, tool, values=[1e308, -1e308] * 4)
    line = outcome(tmp_path, tool)
    assert "is damaged (" in line and "e+30" in line  # which of the numbers it names first does not matter


@pytest.mark.parametrize("tool", TOOLS)
def test_numbers_that_a_diverging_run_has(tmp_path, tool):
    two_runs(tmp_path, tool, values=[3e38, -3e38, math.nan, math.inf, 1e-45, 0.5, 0.5, 1e20])
    assert outcome(tmp_path, tool) == ""


@pytest.mark.parametrize("tool", ("compare", "power", "gather"))
def test_no_data(tmp_path, tool):
    two_runs(tmp_path, tool, data=None)
    assert "data is no object" in outcome(tmp_path, tool)


@pytest.mark.parametrize("experiment", ["scoreboard", "backprop_by_hand", "common", "nonsense"])
def test_runs_of_what_does_not_train_are_not_gathered(tmp_path, experiment):
    two_runs(tmp_path, "gather", experiment=experiment)
    assert "no experiment of this release that trains" in outcome(tmp_path, "gather")


def test_a_folder_with_too_long_a_name(tmp_path):
    long = str(tmp_path / ("x" * 300))
    with flagsaver.flagsaver(runs=long, workdir=str(tmp_path / "out")):
        for read in (
            lambda: compare.main(long, long),
            lambda: power.main(long),
            lambda: gather.main(long),
            scoreboard.main,
        ):
            with pytest.raises(UserError, match=r"cannot read|File name too long"):
                read()


def test_pictures_of_two_names_are_two_pictures(tmp_path):
    names = ("a/b", "a|b", "a" * 180, "a" * 181)
    two_runs(tmp_path, "gather", names)
    assert outcome(tmp_path, "gather") == ""
    assert len(list((tmp_path / "out" / "figures").glob("history_a*.svg"))) == len(names)


def test_a_pipe_is_not_waited_for(tmp_path):
    for name, words in (
        ("config.json", "no config.json"),
        ("history.csv", "no regular file"),
        ("summary.json", "no summary"),
    ):
        run = two_runs(tmp_path / name, "power")
        (run / name).unlink()
        os.mkfifo(run / name)
        assert words in outcome(tmp_path / name, "power")


def test_variants_with_spaces_in_their_names_are_read(tmp_path):
    run = saved.read_run(two_runs(tmp_path, "compare", ("my net", "my net learning_rate=0.1")))
    assert [result.runs[0].settings for result in run.variants.values()] == [{}, {"learning_rate": 0.1}]
    assert saved.differing_settings(run, "my net", run, "my net learning_rate=0.1") == [
        ("optimizer.learning_rate", 0.001, 0.1)
    ]


def spoilt(rng, tree):
    """`tree` with one part of it replaced, renamed or gone."""
    if not isinstance(tree, dict | list) or not tree or rng.random() < 0.15:
        return rng.choice(JUNK)
    copy = tree.copy()
    place = rng.choice(list(tree) if isinstance(tree, dict) else range(len(tree)))
    chance = rng.random()
    if chance < 0.03:
        del copy[place]
    elif chance < 0.06 and isinstance(tree, dict):
        copy = {rng.choice(NAMES) if name == place else name: value for name, value in tree.items()}
    else:
        copy[place] = spoilt(rng, tree[place])
    return copy


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("seed", range(NUM_FOLDERS))
@pytest.mark.parametrize("tool", TOOLS)
def test_any_folder(tmp_path, tool, seed):
    rng = random.Random(f"{tool} {seed}")
    scale = rng.choice([1e-310, 1e-30, 1.0, 1e30])
    odd = [rng.choice([rng.choice(FLOATS), scale * rng.gauss(0, 1)]) for _ in range(8)]
    names = tuple(rng.sample(NAMES, 2)) if rng.random() < 0.5 else ("lenet5", "dense")
    try:
        two_runs(tmp_path, tool, names, odd if rng.random() < 0.7 else None)
    except UnicodeEncodeError:
        pytest.skip("no file can hold this name")
    for path in sorted((tmp_path / "sweep").glob("*/*")):
        if rng.random() < 0.15:
            text = path.read_text()
            if path.suffix == ".json":
                path.write_text(json.dumps(spoilt(rng, json.loads(text))))
            else:
                path.write_text(
                    text.replace("0.5", rng.choice(["1e999", "nan", "1e308", "-1e99", ""]), rng.choice([1, 5]))
                )
    metric = rng.choice(["test_accuracy", "val_loss@1", "range_after_1:val_loss", "lowest_epoch:val_loss"])
    outcome(tmp_path, tool, metric=metric, difference=rng.choice([[], ["1e-300", "1e300"]]))
