"""The script that the public interface promises to run: alone, with more seeds, and killed in between."""

import csv
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import forks
import pytest

ROOT = Path(__file__).parents[1]


TESTS = ROOT / "tests"
ENVIRON = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}


def start(folder, *seeds):
    return forks.start("contract", [str(folder), *seeds], folder=TESTS, environ=ENVIRON, pictures=False)


def said(process):
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return out


def rows(folder):
    """history.csv without the seconds."""
    with (folder / "history.csv").open() as file:
        return [tuple(row[:-1]) for row in csv.reader(file)]


@pytest.fixture(scope="module")
def six(tmp_path_factory):
    """(folder, what was printed, history) of six seeds, which then become eight; from a Python that knows nothing."""
    folder = tmp_path_factory.mktemp("contract") / "run"
    command = [sys.executable, TESTS / "contract.py", folder]
    done = subprocess.run(command, cwd=folder.parent, env=ENVIRON, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return folder, done.stdout, rows(folder)


def test_it_runs_as_it_stands(six):
    _, out, history = six
    assert re.fullmatch(r"holds (0\.\d+|1\.0)\n\(3, 5\)\n", out)
    assert len(history) == 1 + 2 * 6 * 3


def test_six_seeds_become_eight(six):
    folder, _, history = six
    assert said(start(folder, "8")).startswith("holds")
    grown = rows(folder)
    assert len(grown) == 1 + 2 * 8 * 3 and set(history) < set(grown)


def test_killed_it_goes_on_to_the_same_numbers(six, tmp_path):
    _, out, history = six
    process = start(tmp_path / "run")
    while not list(tmp_path.glob("run/checkpoints/wide/training/*/*/meta/metadata")):  # the first variant is done
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (tmp_path / "run" / "summary.json").exists()
    assert said(start(tmp_path / "run")) == out and rows(tmp_path / "run") == history
