"""Every entry point from its command line: the files of the contract, and one line for bad input."""

import csv
import json
import re
import subprocess
import sys
from pathlib import Path

import forks
import published
import pytest
from metrics_doc import unnamed

from experiments import common
from mnistlab.comparison import saved
from mnistlab.errors import UserError

ROOT = Path(__file__).parents[1]
TRAINING = [
    "cnn_variants",
    "fashion_lenet_regularizers",
    "fashion_mlp",
    "keras_vs_scratch",
    "lenet5_adadelta",
    "lenet_vs_dense",
]
OURS = ["lenet5_at_its_best", "small_budgets", "small_budgets_fashion"]  # without a reported protocol
QUICK = ("--limit_examples=256", "--epochs=1", "--batch_size=64", "--progress=none")
EPOCHS = {
    "cnn_variants": 100,
    "fashion_lenet_regularizers": 10,
    "fashion_mlp": 20,
    "keras_vs_scratch": 70,
    "lenet5_adadelta": 12,
    "lenet_vs_dense": 20,
    "lenet5_at_its_best": 40,
    "small_budgets": 20,
    "small_budgets_fashion": 20,
}
CHEAPEST = {
    "cnn_variants": "A",
    "fashion_lenet_regularizers": "baseline",
    "fashion_mlp": "mlp_128_64",
    "keras_vs_scratch": "scratch",
    "lenet5_adadelta": "lenet5_dropout",
    "lenet_vs_dense": "dense",
    "lenet5_at_its_best": "plain",
    "small_budgets": "under_8000",
    "small_budgets_fashion": "under_110000",
}


@pytest.fixture(scope="session")
def run_main(shared_cache):
    """Runs `python -m experiments.<name>` with the session's data and programs; it draws where it is asked to."""
    environ = {"PATH": "/usr/bin:/bin", "HOME": str(shared_cache), "XDG_CACHE_HOME": str(shared_cache)}

    def run(name: str, *arguments: str, pictures: bool = False) -> subprocess.CompletedProcess[str]:
        return forks.run(f"experiments.{name}", arguments, folder=ROOT, environ=environ, pictures=pictures)

    return run


def test_lists_the_entry_points_with_a_line_each(run_main):
    done = subprocess.run([sys.executable, "-m", "experiments"], cwd=ROOT, capture_output=True, text=True, check=True)
    listed = done.stdout.strip().removeprefix("Experiments\n")
    experiments, tools = (part.splitlines() for part in listed.split("Tools\n"))
    assert [line.split()[0] for line in experiments] == common.names() and len(experiments) == 12
    assert [line.split()[0] for line in tools] == common.TOOLS and {"compare", "power"} <= set(common.TOOLS)
    assert all(len(line.split()) > 4 for line in experiments + tools)


@pytest.mark.parametrize("name", TRAINING + OURS)
def test_leaves_the_files_of_the_contract(run_main, little_flags, tmp_path, name):
    variant, data = CHEAPEST[name], () if name in ("keras_vs_scratch", "lenet_vs_dense") else little_flags
    asked = (f"--variants={variant}", f"--workdir={tmp_path}", "--seeds=2")
    drawn = name in ("fashion_mlp", "fashion_lenet_regularizers")  # which have every kind of figure
    done = run_main(name, *QUICK, *data, *asked, pictures=drawn)
    assert done.returncode == 0, done.stderr
    *_, report, following = done.stdout.splitlines()
    assert report == f"report: {tmp_path / 'report.html'}" and following.startswith("next: ")

    config = json.loads((tmp_path / "config.json").read_text())
    assert config["run"]["variants"][variant]["config"]["batch_size"] == 64
    assert {"versions", "device", "data", "command", "git_revision"} <= set(config)
    with (tmp_path / "history.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == [
        "variant", "seed", "epoch", "train_loss", "train_accuracy", "val_loss", "val_accuracy", "seconds",
    ]  # fmt: skip
    assert [(row["variant"], row["seed"], row["epoch"]) for row in rows] == [(variant, "0", "1"), (variant, "1", "1")]
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert {"experiment", "protocol", "data", "device", "n_seeds", "variants", "claims", "seconds"} <= set(summary)
    assert not unnamed(summary) and not published.errors(summary)
    metric = summary["variants"][variant]["metrics"]["test_accuracy"]
    assert metric["n"] == 2 and len(metric["values"]) == 2 and metric["ci95"][0] <= metric["mean"] <= metric["ci95"][1]
    for claim in summary["claims"]:
        assert {"id", "text", "verdict", "delta", "ci95", "p", "n"} <= set(claim)
        assert claim["verdict"].startswith(("changed run: not resolved", "not measured"))  # two seeds resolve nothing
    page = (tmp_path / "report.html").read_text()
    departed = {"trained on the first 256 examples", f"epochs {EPOCHS[name]} -> 1"}
    assert departed <= set(summary["departures"])
    for change in departed:  # in the title, the notice, the table's caption and each sentence to quote
        assert page.partition("</h1>")[0].count(change.replace(">", "&gt;")) == 2
        assert change in done.stdout.partition("\n\n")[0]
    assert "reported is" not in page and "as reported" not in page and ">reported</th>" not in page
    quoted = page.partition("Measured on")[2]  # where two variants, or one and a number, were compared
    assert not quoted or f"a changed run of protocol {summary['protocol']}" in quoted.partition("seeds:")[0]
    assert page.count("<svg") >= 3 and "://" not in page.split("<footer>")[0]
    figures = {path.name for path in (tmp_path / "figures").iterdir()}
    assert f"history_{variant}.svg" in figures and f"history_{variant}.png" in figures
    if name in ("fashion_mlp", "cnn_variants"):  # they answer by a metric, not by a claim
        assert {figure for figure in figures if figure.startswith("seeds_")} == {
            "seeds_test_accuracy.svg", "seeds_test_accuracy.png",
        }  # fmt: skip
    headings = re.findall("<h2[^>]*>(.*?)</h2>", page)
    assert headings and len(headings) == len(set(headings))
    assert (tmp_path / "checkpoints" / variant / "last").is_dir()
    assert (tmp_path / "checkpoints" / variant / "best").is_dir()


SWEEP = ("--sweep=learning_rate=1e-4,1e-3", "--seeds=2", "--variants=dense", "--limit_examples=500", "--epochs=1")


def test_a_sweep_shows_how_sensitive_validation_is_and_is_resumed(run_main, tmp_path):
    done = run_main("lenet_vs_dense", *SWEEP, f"--workdir={tmp_path}", "--progress=lines")
    assert done.returncode == 0, done.stderr
    assert "4 of 4 runs share a program" in done.stdout
    summary = json.loads((tmp_path / "summary.json").read_text())
    slow, fast = (summary["variants"][f"dense learning_rate={rate}"]["metrics"] for rate in ("0.0001", "0.001"))
    assert max(slow["val_accuracy"]["values"]) < min(fast["val_accuracy"]["values"])  # 2 steps of 1e-4 go nowhere
    page = (tmp_path / "report.html").read_text()
    assert "Sensitivity to the learning rate" in page
    figures = {path.name for path in (tmp_path / "figures").iterdir()}
    assert {"sweep_val_accuracy.svg", "sweep_val_loss.svg"} <= figures

    before = (tmp_path / "history.csv").read_text()
    parts = tmp_path / "checkpoints" / "dense" / "training" / "parts.json"
    assert json.loads(parts.read_text())["parts"] == [[2, 4]]
    # Another size would not find the populations that were kept, and train them again.
    done = run_main("lenet_vs_dense", *SWEEP, f"--workdir={tmp_path}", "--progress=lines", "--population_size=3")
    assert done.returncode == 0, done.stderr
    assert "epoch 1/1" not in done.stdout and (tmp_path / "history.csv").read_text() == before
    parts.write_text("many")
    done = run_main("lenet_vs_dense", *SWEEP, f"--workdir={tmp_path}")
    assert done.returncode == 2 and "parts.json is damaged" in done.stderr


def test_a_run_grows_by_seeds_and_variants_and_trains_those_alone(run_main, little_flags, tmp_path):
    few = ("keras_vs_scratch", "--protocol=controlled", *little_flags, "--limit_examples=200", "--epochs=1")
    few += ("--batch_size=50", "--progress=lines", f"--workdir={tmp_path}")
    done = run_main(*few, "--variants=keras", "--seeds=2")
    assert done.returncode == 0, done.stderr
    first = (tmp_path / "history.csv").read_text().splitlines()
    done = run_main(*few, "--variants=keras,without_biases", "--seeds=4")
    assert done.returncode == 0, done.stderr
    trained = [line for line in done.stdout.splitlines() if line.startswith("keras ") and "/1" in line]
    assert [line.partition(" epoch")[0] for line in trained] == ["keras seeds 2-3"]
    rows = (tmp_path / "history.csv").read_text().splitlines()
    assert rows[: len(first)] == first and len(rows) == 1 + 2 * 4
    assert json.loads((tmp_path / "summary.json").read_text())["variants"]["keras"]["metrics"]["test_loss"]["n"] == 4
    alone = run_main(*few[:-1], f"--workdir={tmp_path / 'alone'}", "--variants=keras", "--seeds=1", "--seed=2")
    assert alone.returncode == 0 and alone_row(tmp_path / "alone") == pytest.approx(alone_row(tmp_path, 2), rel=1e-5)
    before = (tmp_path / "summary.json").read_text()
    done = run_main(*few, "--variants=keras", "--seeds=4")
    assert done.returncode == 2 and "another run" in done.stderr
    assert (tmp_path / "summary.json").read_text() == before


def alone_row(folder, number=0):
    """The losses and accuracies of a row of history.csv."""
    return [float(cell) for cell in (folder / "history.csv").read_text().splitlines()[1 + number].split(",")[3:7]]


def test_debug_nans_ends_a_sweep_in_one_line_that_names_what_diverged(run_main, tmp_path):
    sweep = ("--sweep=learning_rate=1e-3,1e30", "--variants=dense")
    done = run_main("lenet_vs_dense", *QUICK, *sweep, "--optimizer=sgd", "--debug_nans", f"--workdir={tmp_path}")
    assert done.returncode == 1 and len(done.stderr.strip().splitlines()) == 1
    assert "made by dot_general of layer dense_2, forward, nets/layers.py:" in done.stderr
    assert "seed 0, learning_rate 1e+30, epoch 1, step 2; 1 of 2 runs" in done.stderr


def test_an_unwritable_workdir_is_one_line_and_status_2(run_main, tmp_path):
    (tmp_path / "file").write_text("")
    for bad in (f"--workdir={tmp_path / 'file'}", "--workdir=/proc/run", f"--data_dir={tmp_path / 'file'}"):
        done = run_main("lenet_vs_dense", *QUICK, f"--workdir={tmp_path / 'run'}", bad)
        assert done.returncode == 2 and len(done.stderr.strip().splitlines()) == 1


def test_a_limit_that_the_data_does_not_reach_replaces_nothing(run_main, workdir):
    before = (workdir / "history.csv").read_text()
    arguments = ("--variants=dense", "--limit_examples=60001", "--noresume", f"--workdir={workdir}")
    done = run_main("lenet_vs_dense", *arguments)
    assert done.returncode == 2 and "limit_examples" in done.stderr and len(done.stderr.strip().splitlines()) == 1
    assert (workdir / "history.csv").read_text() == before


@pytest.fixture(scope="module")
def workdir(run_main, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    done = run_main("lenet_vs_dense", *QUICK[:1], "--epochs=3", "--variants=dense", f"--workdir={folder}")
    assert done.returncode == 0, done.stderr
    return folder


def test_a_damaged_finding_is_written_again_by_the_same_command(run_main, workdir):
    command = ("lenet_vs_dense", *QUICK[:1], "--epochs=3", "--variants=dense", f"--workdir={workdir}")
    whole = saved.read_run(workdir)
    for name in ("history.csv", "summary.json"):
        path = workdir / name
        path.write_text(re.sub(r"(?<=\.)\d", lambda digit: str(9 - int(digit[0])), path.read_text(), count=1))
        with pytest.raises(UserError, match=name):
            saved.read_run(workdir)
        done = run_main(*command, "--progress=lines")
        assert done.returncode == 0 and "epoch 1/3" not in done.stdout, done.stderr  # nothing is trained again
        assert repr(saved.read_run(workdir).variants) == repr(whole.variants)
    checkpoints = sorted((workdir / "checkpoints").rglob("*"))
    for path in (workdir / "config.json", workdir / "checkpoints" / "dense" / "training" / "parts.json"):
        before = path.read_text()
        path.write_text(before.replace("1", "2", 1))
        done = run_main(*command)
        assert done.returncode == 2 and f"{path} is damaged" in done.stderr and len(done.stderr.splitlines()) == 1
        path.write_text(before)
    assert sorted((workdir / "checkpoints").rglob("*")) == checkpoints


def test_the_scoreboard_reads_what_is_there(run_main, workdir, tmp_path):
    (tmp_path / "lenet_vs_dense").mkdir()
    (tmp_path / "lenet_vs_dense" / "summary.json").write_bytes((workdir / "summary.json").read_bytes())
    done = run_main("scoreboard", "--norun", f"--workdir={tmp_path / 'scoreboard'}")
    assert done.returncode == 0, done.stderr
    mean = json.loads((workdir / "summary.json").read_text())["variants"]["dense"]["metrics"]["test_accuracy"]["mean"]
    board = (tmp_path / "scoreboard" / "scoreboard.md").read_text()
    changed = "changed run: epochs 20 -> 3; trained on the first 256 examples"
    assert f"| lenet_vs_dense | reported | dense | accuracy | {mean:.4f} | 1 | {changed.partition(': ')[2]} |" in board
    assert "0.9780" not in board and "side |" not in board  # neither the reported number nor inside or outside
    assert "1 of 1 are changed runs" in (tmp_path / "scoreboard" / "report.html").read_text().partition("</h1>")[0]
    summary = json.loads((tmp_path / "scoreboard" / "summary.json").read_text())
    assert not published.errors(summary, None)
    assert {claim["experiment"] for claim in summary["claims"]} == {"lenet_vs_dense"}


def test_a_scoreboard_takes_no_runs_place(run_main, workdir):
    before = (workdir / "summary.json").read_text()
    done = run_main("scoreboard", "--norun", f"--runs={workdir.parent}", f"--workdir={workdir}")
    assert done.returncode == 2 and "holds another run" in done.stderr and len(done.stderr.strip().splitlines()) == 1
    assert (workdir / "summary.json").read_text() == before


def test_a_scoreboard_of_nothing_is_one_line_and_status_2(run_main, tmp_path):
    done = run_main("scoreboard", "--norun", f"--workdir={tmp_path / 'scoreboard'}")
    assert done.returncode == 2 and len(done.stderr.strip().splitlines()) == 1 and "--norun" in done.stderr


def rows_without_seconds(workdir):
    return [line.rpartition(",")[0] for line in (workdir / "history.csv").read_text().splitlines()]


def test_deterministic_adds_its_flag_to_the_users_before_jax_starts():
    code = """
import os, jax
from jax._src import xla_bridge
from experiments import common
from mnistlab.comparison import saved
from mnistlab.errors import UserError
def body():
    print(xla_bridge.backends_are_initialized(), os.environ["XLA_FLAGS"], jax.device_count())
common.define_run_flags()
common.enter(body)
"""
    ours, users = "--xla_gpu_deterministic_ops=true", "--xla_force_host_platform_device_count=3"
    done = subprocess.run(
        [sys.executable, "-c", code, "--deterministic", "--compile_cache=off"],
        cwd=ROOT,
        env={"PATH": "/usr/bin:/bin", "JAX_PLATFORMS": "cpu", "XLA_FLAGS": users},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.stdout.split() == ["False", users, ours, "3"], done.stderr


class TestResume:
    def run_again(self, run_main, workdir, *more):
        return run_main("lenet_vs_dense", *QUICK[:1], "--epochs=3", "--variants=dense", f"--workdir={workdir}", *more)

    def test_the_same_command_reads_what_is_there(self, run_main, workdir):
        history = (workdir / "history.csv").read_text()
        done = self.run_again(run_main, workdir)
        assert done.returncode == 0, done.stderr
        assert "epoch 1/3" not in done.stdout
        assert (workdir / "history.csv").read_text() == history

    def test_another_config_is_refused(self, run_main, workdir):
        summary = (workdir / "summary.json").read_text()
        done = self.run_again(run_main, workdir, "--learning_rate=0.1")
        assert done.returncode == 2 and "--workdir" in done.stderr and len(done.stderr.strip().splitlines()) == 1
        assert (workdir / "summary.json").read_text() == summary

    def test_damaged_checkpoints_are_named(self, run_main, workdir):
        for path in (workdir / "checkpoints" / "dense" / "training").rglob("*"):
            if path.is_file() and path.stat().st_size > 1000:
                data = bytearray(path.read_bytes())
                data[len(data) // 2] ^= 0xFF
                path.write_bytes(bytes(data))
        history = (workdir / "history.csv").read_text()
        done = self.run_again(run_main, workdir)
        assert done.returncode == 2
        assert "damaged" in done.stderr.strip().splitlines()[-1] and "Traceback" not in done.stderr
        assert (workdir / "history.csv").read_text() == history

    def test_noresume_replaces_it_with_the_same_bits(self, run_main, workdir):
        before = rows_without_seconds(workdir)
        done = self.run_again(run_main, workdir, "--noresume", "--deterministic")
        assert done.returncode == 0 and "epoch 3/3" in done.stdout
        assert rows_without_seconds(workdir) == before and len(before) == 1 + 3
        assert "--xla_gpu_deterministic_ops=true" in json.loads((workdir / "config.json").read_text())["xla_flags"]
