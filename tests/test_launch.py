"""What starts runs: the scripts are clean, and Open MPI's two processes end as one."""

import csv
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TOOLS = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])


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


def test_two_processes_of_mpirun_end_as_one(tmp_path):
    mpirun = tool("mpirun")
    command = [sys.executable, "-m", "experiments.lenet_vs_dense", "--variants=dense", "--limit_examples=600"]
    command += ["--batch_size=100", "--epochs=2", "--seeds=2", "--progress=lines", "--optimizer=sgd"]
    as_root = {
        f"{prefix}_ALLOW_RUN_AS_ROOT{suffix}": "1"
        for prefix in ("OMPI", "PRTE_MCA_prte")
        for suffix in ("", "_CONFIRM")
    }
    environ = {"PATH": TOOLS, "HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path), "TMPDIR": "/tmp", **as_root}

    def run(name, *before):
        arguments = [*before, *command, f"--workdir={tmp_path / name}"]
        return subprocess.run(arguments, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=300)

    alone, both = run("alone"), run("both", mpirun, "-n", "2", "--bind-to", "none", "--oversubscribe")
    assert alone.returncode == 0, alone.stderr
    assert both.returncode == 0, both.stderr
    for mine, expected in zip(history(tmp_path / "both"), history(tmp_path / "alone"), strict=True):
        assert mine == pytest.approx(expected, rel=1e-5)
    assert both.stdout.count("report: ") == 1  # the first process alone speaks
