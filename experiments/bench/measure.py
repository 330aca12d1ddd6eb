"""Runs every peer in a process of its own, in turns, and compares their seconds."""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mnistlab.errors import UserError

from .. import common
from . import limits as machine
from .limits import Limits
from .peers import job as jobs
from .workloads import Workload

OURS = "mnistlab"
LOSS_TOLERANCE = 0.02  # of the first round's mean loss, where nothing is dropped out
RMSPROP_TOLERANCE = 0.15  # its first steps are signs of the gradient, and where that is small rounding decides them
PAUSE_SECONDS = 0.5  # before a round: until the threads of the peer before have stopped spinning


class Measured(NamedTuple):
    """One peer on one workload."""

    seconds: np.ndarray  # float64 [rounds], of an epoch, for each seed
    first_loss: float  # mean loss of the first round
    ready_seconds: float  # from the start of its process to the first round: imports, data, building
    compile_seconds: float  # of the first round, what it took longer than the others
    peak_bytes: int  # of its process

    @property
    def median(self) -> float:
        """Seconds an epoch, for each seed."""
        return float(np.median(self.seconds))

    def first_epoch_seconds(self, num_seeds: int) -> float:
        """From the start of the process to the end of a whole first epoch."""
        return self.ready_seconds + self.compile_seconds + num_seeds * self.median


class Peer:
    """A process that trains, or measures the machine, one round each time it is asked to."""

    def __init__(self, name: str, arguments: Sequence[str], errors: Path, environ: Mapping[str, str]):
        """`arguments`: the module of this package that runs, and what it is given."""
        self.name, self.errors, self.start = name, errors, time.perf_counter()
        with errors.open("w") as stream:
            self.process = subprocess.Popen(
                [sys.executable, "-m", f"{__package__}.{arguments[0]}", *arguments[1:]],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stream,
                text=True,
                env={**environ},
            )
        self._answer()
        self.ready_seconds = time.perf_counter() - self.start

    def round(self) -> dict[str, Any]:
        """Trains a round and waits for it."""
        assert self.process.stdin is not None
        time.sleep(PAUSE_SECONDS)
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write("round\n")
            self.process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            last = self.errors.read_text().strip().split("\n")[-1]
            raise UserError(f"{self.name} failed: {last}; leave it out with --peers, or mend its installation")
        return json.loads(line)

    def end(self) -> None:
        """Ends the process."""
        self.process.kill()
        self.process.wait()

    def __enter__(self) -> "Peer":
        return self

    def __exit__(self, *error: object) -> None:
        self.end()


def by_turns(
    workload: Workload,
    job: jobs.Job,
    peers: Sequence[str],
    num_rounds: int,
    say: Callable[[str], None] = lambda line: None,
) -> tuple[dict[str, Measured], dict[str, Limits]]:
    """What each peer takes, and the machine's limits on one core and on all, measured between the rounds.

    Raises:
      UserError: a peer fails, or learns something else than mnistlab in the first round.
    """
    rounds: dict[str, list[dict[str, Any]]] = {}
    with contextlib.ExitStack() as stack:
        gauges = {which: stack.enter_context(_gauge(which, job.folder)) for which in machine.cores()}
        running: list[Peer] = []
        for name in peers:
            say(f"{workload.model} {workload.batch_size}: {name}")
            running.append(stack.enter_context(start(name, job)))
            rounds[name] = [running[-1].round()]
        seen: dict[str, list[dict[str, Any]]] = {which: [] for which in gauges}
        for _ in range(num_rounds):
            for which, gauge in gauges.items():
                seen[which].append(gauge.round())
            for peer in running:
                rounds[peer.name].append(peer.round())
    rounds_per_epoch = workload.steps_per_epoch / len(job.order())
    measured = {peer.name: _measured(peer, rounds[peer.name], rounds_per_epoch) for peer in running}
    if not any(kind == "Dropout" for kind, _, _ in job.layers):
        tolerance = RMSPROP_TOLERANCE if workload.optimizer == "rmsprop" else LOSS_TOLERANCE
        check_losses({name: one.first_loss for name, one in measured.items()}, tolerance)
    return measured, {which: machine.joined(answers) for which, answers in seen.items()}


def start(name: str, job: jobs.Job) -> Peer:
    """The process of a peer, ready to train its first round."""
    path = job.folder / f"{name}.json"
    jobs.write(job._replace(num_seeds=num_seeds(name)), path)
    return Peer(name, ("peers.worker", name, str(path)), job.folder / f"{name}.log", _environment(name))


def _gauge(which: str, folder: Path) -> Peer:
    """The process that measures the machine."""
    return Peer(f"limits of {which}", ("limits", which), folder / f"limits_{which}.log", os.environ)


def _measured(peer: Peer, rounds: Sequence[Mapping[str, Any]], rounds_per_epoch: float) -> Measured:
    seconds = np.array([one["seconds"] for one in rounds[1:]])
    compile_seconds = max(0.0, rounds[0]["first_seconds"] - np.median(seconds))
    return Measured(
        seconds * rounds_per_epoch / num_seeds(peer.name),
        rounds[0]["loss"],
        peer.ready_seconds,
        float(compile_seconds),
        max(one["peak_bytes"] for one in rounds),
    )


def num_seeds(peer: str) -> int:
    """How many seeds a peer trains at once, as its name says.

    >>> num_seeds("mnistlab_8_seeds"), num_seeds("pytorch")
    (8, 1)
    """
    return int(peer.split("_")[-2]) if peer.endswith("_seeds") else 1


def check_losses(losses: Mapping[str, float], tolerance: float = LOSS_TOLERANCE) -> None:
    """Raises UserError where a peer's loss is not that of the first: then it does other work.

    Populations are left out: their seeds start elsewhere.
    """
    single = {name: loss for name, loss in losses.items() if num_seeds(name) == 1}
    for name, loss in single.items():
        first = next(iter(single.values()))
        if not abs(loss - first) <= tolerance * first:
            raise UserError(
                f"the first round's loss of {name} is {loss:.4f}, of {next(iter(single))} {first:.4f}: they do not do the same work"
            )


def _environment(peer: str) -> dict[str, str]:
    """What the peer's process finds; mnistlab makes a device of each core, as its entry points do."""
    environ = dict(os.environ)
    if peer.startswith(OURS):
        environ["XLA_FLAGS"] = common.with_devices_of_cores(environ.get("XLA_FLAGS", ""))
    return environ


def start_up(data_dir: str | None) -> dict[str, dict[str, float]]:
    """Experiment 1 from the start of its process, with a cold and a warm compile cache: seconds and peak memory."""
    found = {}
    with tempfile.TemporaryDirectory() as scratch:
        for temperature in ("cold", "warm"):
            command = [
                sys.executable,
                "-m",
                f"{__package__.rpartition('.')[0]}.lenet_vs_dense",
                "--variants=lenet5",
                "--epochs=1",
            ]
            command += [
                "--progress=lines",
                "--noresume",
                f"--workdir={scratch}/run",
                f"--compile_cache={scratch}/cache",
            ]
            command += [f"--data_dir={data_dir}"] if data_dir else []
            start, first = time.perf_counter(), float("nan")
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
            assert process.stdout is not None
            for line in process.stdout:
                if "epoch 1/1" in line:
                    first = time.perf_counter() - start
            _, status, usage = os.wait4(process.pid, 0)
            if status:
                raise UserError("experiment 1 failed; run python -m experiments.lenet_vs_dense to see why")
            seconds = {"first_epoch_seconds": first, "total_seconds": time.perf_counter() - start}
            found[temperature] = {**seconds, "peak_bytes": usage.ru_maxrss * 1024.0}
    return found
