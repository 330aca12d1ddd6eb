"""Kills runs with -9 at random moments, repeats their command, and compares how they end with uninterrupted runs.

python tests/kills.py [--kills=100] [--seed=0]

The moments lie in a run's start and training, in the writing of a file, in the clearing of another run by --noresume,
and in growing from two to three seeds. What must be equal: history.csv but for its seconds, the digests of the final
and of the best weights, and which files there are. A run is a fork of this process, which has imported JAX but started
none of its threads.
"""

import argparse
import collections
import csv
import json
import os
import random
import runpy
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1]))  # for the package experiments, which is not installed
QUICK = ("--variants=dense", "--epochs=3", "--limit_examples=2000", "--progress=none")
TWO, THREE = (*QUICK, "--seeds=2"), (*QUICK, "--seeds=3")
CASES = ("start", "training", "writing", "clearing", "growing")


class Ending(NamedTuple):
    """What must be equal."""

    rows: list[list[str]]  # history.csv without the seconds
    digests: list[str]  # of the final and of the best weights
    names: list[str]  # every file, those within a checkpoint's arrays excepted


class Whole(NamedTuple):
    """An uninterrupted run, and when it got where, in seconds."""

    folder: Path
    ending: Ending
    training: float
    end: float


def ending(folder: Path) -> Ending:
    """How the run in `folder` ended."""
    with (folder / "history.csv").open() as file:
        rows = [row[:-1] for row in csv.reader(file)]
    metas = [folder / "checkpoints" / "dense" / kind / "0" / "meta" / "metadata" for kind in ("last", "best")]
    paths = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    names = sorted(str(path) for path in paths if "state" not in path.parts)
    return Ending(rows, [json.loads(meta.read_text())["digest"] for meta in metas], names)


def start(arguments: tuple[str, ...], folder: Path) -> int:
    """The process id of a fork that runs the experiment in `folder`; what it says goes to a log beside."""
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        log = os.open(f"{folder}.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(log, 1)
        os.dup2(log, 2)
        sys.argv = ["lenet_vs_dense", *arguments, f"--workdir={folder}"]
        try:
            runpy.run_module("experiments.lenet_vs_dense", run_name="__main__", alter_sys=True)
        except SystemExit as stop:
            status = int(stop.code or 0)
        else:
            status = 0
        sys.stdout.flush()
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def finish(arguments: tuple[str, ...], folder: Path) -> None:
    """Runs to the end."""
    _, status = os.waitpid(start(arguments, folder), 0)
    if status:
        sys.exit(f"{folder}: status {os.waitstatus_to_exitcode(status)}\n{Path(f'{folder}.log').read_text()}")


def wait_until(condition: Callable[[], bool], pid: int) -> bool:
    """Whether `condition` came true before the process ended."""
    while not condition():
        if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            return False
        time.sleep(0.0005)
    return True


def is_training(folder: Path) -> bool:
    return any(folder.glob("checkpoints/dense/training/*/1*"))


def temporaries(folder: Path) -> list[str]:
    """What is being written: hidden files of ours beside the lock, and folders of orbax."""
    names = [name for _, folders, files in os.walk(folder) for name in (*folders, *files)]
    return [name for name in names if (name.startswith(".") and name != ".lock") or "checkpoint-tmp" in name]


def whole_run(arguments: tuple[str, ...], folder: Path) -> Whole:
    """Runs without being killed."""
    begun = time.monotonic()
    pid = start(arguments, folder)
    wait_until(lambda: is_training(folder), pid)
    training = time.monotonic() - begun
    os.waitpid(pid, 0)
    return Whole(folder, ending(folder), training, time.monotonic() - begun)


def kill(case: str, arguments: tuple[str, ...], folder: Path, whole: Whole, chance: random.Random) -> bool:
    """Starts the run and kills it in the phase that `case` names; false where it had ended before."""
    pid = start(arguments, folder)
    if case == "clearing":
        wait_until(lambda: not (folder / "checkpoints" / "dense" / "best").exists(), pid)
        time.sleep(chance.uniform(0, 0.02))
    elif case == "training":
        wait_until(lambda: is_training(folder), pid)
        time.sleep(chance.uniform(0, whole.end - whole.training))
    elif case == "writing":
        time.sleep(chance.uniform(0, whole.end))
        wait_until(lambda: bool(temporaries(folder)), pid)
    else:
        time.sleep(chance.uniform(0, whole.end))
    os.kill(pid, signal.SIGKILL)
    return os.WIFSIGNALED(os.waitpid(pid, 0)[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    chance = random.Random(asked.seed)
    with tempfile.TemporaryDirectory() as root:
        other = whole_run((*TWO, "--learning_rate=0.1"), Path(root) / "other")
        two = whole_run(TWO, Path(root) / "two")
        grown = Path(root) / "three"
        shutil.copytree(two.folder, grown)
        three = whole_run(THREE, grown)
        assert other.ending.rows != two.ending.rows and len(three.ending.rows) == 1 + 3 * 3
        counts: collections.Counter[str] = collections.Counter()
        while counts.total() < asked.kills:
            case = CASES[counts.total() % len(CASES)]
            folder = Path(root) / "killed"
            shutil.rmtree(folder, ignore_errors=True)
            before = {"clearing": other, "growing": two}.get(case)
            if before is not None:
                shutil.copytree(before.folder, folder)
            arguments = {"clearing": (*TWO, "--noresume"), "growing": THREE}.get(case, TWO)
            whole = three if case == "growing" else two
            if not kill(case, arguments, folder, whole, chance):
                continue
            left = sorted(str(path.relative_to(folder)) for path in folder.glob("**/[1-9]"))
            cut_off = temporaries(folder)
            finish(arguments, folder)
            ended = ending(folder)
            for name in Ending._fields:
                if getattr(ended, name) != getattr(whole.ending, name):
                    sys.exit(f"{case}, with {left} and {cut_off}: another {name}\n{ended}\n{whole.ending}")
            counts[case] += 1
            print(
                f"kill {counts.total()}: {case}; {len(left)} epochs kept, cut off {cut_off}; the same end", flush=True
            )
    print(f"{counts.total()} kills, {counts.total()} right endings: {dict(counts)}")


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))
    os.environ["OPENBLAS_NUM_THREADS"] = "1"  # NumPy would start threads, which a fork does not take along
    import matplotlib.pyplot  # noqa: F401
    import scipy.stats  # noqa: F401
    import tensorflow_datasets  # noqa: F401

    import mnistlab.comparison.run  # noqa: F401

    assert len(os.listdir("/proc/self/task")) == 1  # noqa: PTH208
    main()
