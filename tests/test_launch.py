"""What starts runs: the scripts are clean, and Open MPI's two processes end as one."""

import csv
import importlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from absl import flags
from absl.testing import flagsaver

from experiments import common, scoreboard
from mnistlab.comparison import spec

ROOT = Path(__file__).parents[1]
TOOLS = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])

WITH_SEEDS = set(scoreboard.EXPERIMENTS) - {"backprop_by_hand", "jacobian_eigen", "matmul_devices"}


def tool(name):
    path = shutil.which(name, path=TOOLS)
    if path is None:
        pytest.skip(f"{name} is not installed")
    return path


def test_scripts_are_clean():
    scripts = [*sorted((ROOT / "launch").iterdir()), ROOT / ".ci" / "run"]
    done = subprocess.run(
        [tool("shellcheck"), "--external-sources", *scripts], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout


def history(workdir):
    with (workdir / "history.csv").open() as file:
        return [[float(row[name]) for name in ("epoch", "train_loss", "val_accuracy")] for row in csv.DictReader(file)]


def test_two_processes_of_mpirun_end_as_one(tmp_path, shared_cache):
    mpirun = tool("mpirun")
    command = [sys.executable, "-m", "experiments.lenet_vs_dense", "--variants=dense", "--limit_examples=600"]
    command += ["--batch_size=100", "--epochs=2", "--seeds=2", "--progress=lines", "--optimizer=sgd"]
    as_root = {
        f"{prefix}_ALLOW_RUN_AS_ROOT{suffix}": "1"
        for prefix in ("OMPI", "PRTE_MCA_prte")
        for suffix in ("", "_CONFIRM")
    }
    environ = {"PATH": TOOLS, "HOME": str(tmp_path), "XDG_CACHE_HOME": str(shared_cache), "TMPDIR": "/tmp", **as_root}

    def run(name, *before):
        arguments = [*before, *command, f"--workdir={tmp_path / name}"]
        return subprocess.run(arguments, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=300)

    alone, both = run("alone"), run("both", mpirun, "-n", "2", "--bind-to", "none", "--oversubscribe")
    assert alone.returncode == 0, alone.stderr
    assert both.returncode == 0, both.stderr
    for mine, expected in zip(history(tmp_path / "both"), history(tmp_path / "alone"), strict=True):
        assert mine == pytest.approx(expected, rel=1e-5)
    assert both.stdout.count("report: ") == 1  # the first process alone speaks


def run_results(tmp_path, *flags, failing="none", status=1):
    """launch/results.sh with a Python that notes what it was asked, and fails for one experiment."""
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\necho "$*" >> {tmp_path}/asked\ncase "$2" in *.{failing}) exit {status} ;; esac\n')
    python.chmod(0o755)
    environ = {"PATH": TOOLS, "PYTHON_OF_RUNS": str(python), "RESULTS": str(tmp_path / "runs"), "TABLES": "tables.md"}
    environ |= {"PUBLISHED": str(tmp_path / "published")}
    environ |= {"LEARNED": "learned.md", "BENCH": "bench/summary.json"}
    script = [ROOT / "launch" / "results.sh", *flags]
    done = subprocess.run(script, env=environ, capture_output=True, text=True, timeout=60)
    return done, [line.split() for line in (tmp_path / "asked").read_text().splitlines()]


def test_results_runs_every_comparison_where_the_scoreboard_reads_it_and_goes_on_when_one_fails(tmp_path):
    done, asked = run_results(tmp_path, "--max_minutes=5", failing="fashion_mlp", status=3)
    assert done.returncode == 1
    assert done.stderr.split("\n")[:2] == [
        "failed: fashion_mlp (status 3)",
        "failed: fashion_mlp_controlled (status 3)",
    ]
    *runs, last = asked
    board = ["-m", "experiments.scoreboard", "--norun", f"--workdir={tmp_path}/runs/scoreboard"]
    board += [f"--runs={tmp_path}/published", "--results=tables.md"]
    assert last == [*board, "--learned=learned.md", "--bench=bench/summary.json"]
    expected = {
        (
            f"experiments.{name}",
            f"--protocol={protocol}",
            f"--workdir={tmp_path}/runs/{name}{'_controlled' * (protocol != 'reported')}",
        )
        for name in scoreboard.EXPERIMENTS
        for protocol in spec.PROTOCOLS[name in scoreboard.OURS :]
    }
    assert {(line[1], line[3], line[2]) for line in runs} == expected and len(runs) == len(expected)
    trained = [line for line in runs if line[1].removeprefix("experiments.") in WITH_SEEDS]
    assert len(trained) == 15 and all({"--until=resolved", "--max_minutes=5"} <= set(line) for line in trained)
    assert sum(line.endswith(" h") for line in done.stdout.splitlines()) == len(runs)  # how long each took


def test_results_publishes_the_numbers_of_what_ended(tmp_path):
    for name in ("fashion_mlp", "fashion_mlp_controlled"):
        (tmp_path / "runs" / name / "checkpoints").mkdir(parents=True)
        for file in ("config.json", "summary.json", "history.csv", "report.html"):
            (tmp_path / "runs" / name / file).write_text(f"{file} of {name}")
    run_results(tmp_path, failing="fashion_mlp")
    assert not (tmp_path / "published" / "fashion_mlp").exists()  # it ended with status 1
    run_results(tmp_path)
    published = tmp_path / "published" / "fashion_mlp_controlled"
    assert {path.name: path.read_text() for path in published.iterdir()} == {
        name: f"{name} of fashion_mlp_controlled" for name in ("config.json", "summary.json", "history.csv")
    }


def test_results_refuses_a_folder_that_cannot_be_before_it_trains(tmp_path):
    (tmp_path / "asked").touch()
    (tmp_path / "published").touch()  # a file
    done, asked = run_results(tmp_path)
    assert (done.returncode, asked) == (2, []) and len(done.stderr.splitlines()) == 1


def test_results_ends_where_it_is_stopped(tmp_path):
    done, asked = run_results(tmp_path, failing="lenet_vs_dense", status=143)
    assert done.returncode == 143 and asked[-1][1] == "experiments.lenet_vs_dense"


def test_every_line_of_results_is_one_that_its_experiment_takes(tmp_path, training_flags):
    _, asked = run_results(tmp_path, "--max_minutes=5", "--max_seeds=20")
    for _, module, *given in asked[:-1]:
        experiment = getattr(importlib.import_module(module), "EXPERIMENT", None)
        if experiment is None:
            continue  # no training, and no flags but those of the contract
        with flagsaver.flagsaver():
            flags.FLAGS(["prog", *given])
            assert spec.resolve(experiment, common.options(experiment.name)), given
