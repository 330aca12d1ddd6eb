"""What happens to runs: signals and kill -9, sent to real processes. The oracle is an uninterrupted run."""

import csv
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import types
from pathlib import Path

import forks
import pytest

from experiments.cli import process

ROOT = Path(__file__).parents[1]
NUM_EPOCHS = 12
QUICK = ("--variants=dense", "--limit_examples=3000", "--batch_size=10", "--progress=lines", "--seeds=2")


@pytest.fixture(scope="module")
def start(start_main):
    def start(workdir: Path, num_epochs: int = NUM_EPOCHS) -> subprocess.Popen[str]:
        return start_main(*QUICK, f"--epochs={num_epochs}", f"--workdir={workdir}")

    return start


def wait_for_epoch(process, number):
    for line in process.stdout:
        if f" epoch {number}/" in line:
            return
    pytest.fail(f"the run ended before epoch {number}: {process.stderr.read()}")


def num_epochs(said):
    return len(re.findall(r" epoch \d+/", said))


def ending(workdir):
    """history.csv without the seconds, and the digests of the final and of the best weights."""
    with (workdir / "history.csv").open() as file:
        rows = [{name: value for name, value in row.items() if name != "seconds"} for row in csv.DictReader(file)]
    folder = workdir / "checkpoints" / "dense"
    digests = [
        json.loads((folder / kind / "0" / "meta" / "metadata").read_text())["digest"] for kind in ("last", "best")
    ]
    return rows, digests


@pytest.fixture(scope="module")
def uninterrupted(start, tmp_path_factory):
    """How an uninterrupted run ends."""
    workdir = tmp_path_factory.mktemp("uninterrupted")
    process = start(workdir)
    process.communicate(timeout=300)
    assert process.returncode == 0
    rows, digests = ending(workdir)
    assert len(rows) == 2 * NUM_EPOCHS
    return rows, digests


def test_a_run_killed_anywhere_ends_with_the_same_bits_and_leaves_nothing_behind(cache):
    """A kill in each phase; `python tests/kills.py` does a hundred."""
    environ = {"PATH": "/usr/bin:/bin", "HOME": str(cache), "XDG_CACHE_HOME": str(cache)}
    done = forks.run("kills", ["--kills=5"], folder=ROOT / "tests", environ=environ, pictures=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1].startswith("5 kills, 5 right endings")


@pytest.mark.parametrize(
    "number, status", [(signal.SIGTERM, os.EX_TEMPFAIL), (signal.SIGINT, 128 + signal.SIGINT)], ids=["TERM", "INT"]
)
def test_a_signal_ends_a_run_after_an_epoch_and_nothing_is_lost(start, uninterrupted, tmp_path, number, status):
    process = start(tmp_path)
    wait_for_epoch(process, 2)
    process.send_signal(number)
    said, errors = process.communicate(timeout=60)
    assert process.returncode == status
    assert f"stopped by {number.name}" in errors.splitlines()[-1] and "Traceback" not in errors
    last = 2 + num_epochs(said)
    assert last < NUM_EPOCHS
    process = start(tmp_path)
    said, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert num_epochs(said) == NUM_EPOCHS - last  # none is repeated
    assert ending(tmp_path) == uninterrupted


def test_a_second_run_in_a_folder_and_a_folder_that_is_gone_are_one_line_each(start, tmp_path):
    workdir = tmp_path / "run"
    process = start(workdir, 100_000)
    wait_for_epoch(process, 1)
    second = start(workdir, 100_000)
    _, errors = second.communicate(timeout=60)
    assert second.returncode == 2 and len(errors.splitlines()) == 1 and "another run is writing" in errors
    wait_for_epoch(process, 2)  # the first goes on
    shutil.rmtree(workdir, ignore_errors=True)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 2 and "cannot write" in errors.splitlines()[-1] and "Traceback" not in errors


def test_a_folder_that_is_gone_but_for_what_was_just_written_is_one_line_too(start, tmp_path):
    process = start(tmp_path, 100_000)
    wait_for_epoch(process, 1)
    (tmp_path / "config.json").unlink()  # as where a folder is removed while a checkpoint is written into it
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 2 and "it was removed while the run went on" in errors.splitlines()[-1]


def test_a_full_disk_is_one_line_and_the_same_command_goes_on_where_it_was(start, uninterrupted, tmp_path):
    process = start(tmp_path)
    wait_for_epoch(process, 3)
    # From here on no file may grow beyond 100,000 bytes, as on a disk that is full.
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (100_000, 100_000))
    said, errors = process.communicate(timeout=300)
    (line,) = errors.splitlines()  # TensorStore's own threads would say more
    assert process.returncode == 2 and "cannot write" in line and "File too large" in line and len(line) < 400
    process = start(tmp_path)
    said, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert num_epochs(said) < NUM_EPOCHS
    assert ending(tmp_path) == uninterrupted


def test_a_second_interrupt_ends_at_once(start, tmp_path):
    process = start(tmp_path, 100_000)
    wait_for_epoch(process, 1)
    os.kill(process.pid, signal.SIGSTOP)  # both arrive before the first is looked at between epochs
    process.send_signal(signal.SIGINT)
    os.kill(process.pid, signal.SIGCONT)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGINT and "Traceback" not in errors


def test_only_what_closed_loops_say_is_kept_quiet():
    def unraisable(error):
        return types.SimpleNamespace(exc_value=error)

    assert process._is_late_callback(unraisable(RuntimeError("Event loop is closed")))
    for other in (RuntimeError("Event loop is open"), ValueError("Event loop is closed"), None):
        assert not process._is_late_callback(unraisable(other))
