"""Runs every peer in a process of its own, in turns, and compares their seconds."""

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from mnistlab.errors import UserError

from . import limits as machine
from . import processes, tuning
from .limits import Limits
from .peers import job as jobs
from .processes import Peer, num_seeds
from .tuning import Tuned
from .workloads import Workload

LOSS_TOLERANCE = 0.02  # of the first round's mean loss, where nothing is dropped out
LOOSE_TOLERANCE = 0.15  # RMSprop: its first steps are signs, which rounding decides; whole epochs: orders differ


class Measured(NamedTuple):
    """One peer on one workload."""

    setting: str  # the name of what ran: of a family, the best that was found
    seconds: np.ndarray  # float64 [rounds], of an epoch, for each seed
    first_loss: float  # mean loss of the first round
    ready_seconds: float  # from the start of its process to the first round: imports, data, building
    compile_seconds: float  # of the first round, what it took longer than the others
    peak_bytes: int  # of its process
    tried: Mapping[str, float] = MappingProxyType({})  # setting -> seconds an epoch in its short round; NaN: it failed

    @property
    def median(self) -> float:
        """Seconds an epoch, for each seed."""
        return float(np.median(self.seconds))

    def first_epoch_seconds(self, num_seeds: int) -> float:
        """From the start of the process to the end of a whole first epoch."""
        return self.ready_seconds + self.compile_seconds + num_seeds * self.median


def by_turns(
    workload: Workload,
    job: jobs.Job,
    peers: Mapping[str, Sequence[str]],
    num_rounds: int,
    say: Callable[[str], None] = lambda line: None,
) -> tuple[dict[str, Measured], dict[str, Limits]]:
    """What each peer takes, and the machine's limits on one core and on all, measured between the rounds.

    Args:
      peers: name -> its settings, of which only the quickest stays for the rounds.

    Raises:
      UserError: a peer fails, or learns something else than mnistlab in the first round.
    """
    with contextlib.ExitStack() as stack:

        def start(setting: str) -> Peer:
            say(f"{workload.model} {workload.batch_size}: {setting}")
            return stack.enter_context(processes.start(setting, job))

        gauges = {which: stack.enter_context(processes.start_gauge(which, job.folder)) for which in machine.cores()}
        chosen = {name: tuning.best_of(settings, start, say) for name, settings in peers.items()}
        rounds = {name: [one.first_round] for name, one in chosen.items()}
        seen: dict[str, list[dict[str, Any]]] = {which: [] for which in gauges}
        for _ in range(num_rounds):
            for which, gauge in gauges.items():
                seen[which].append(gauge.round())
            for name, one in chosen.items():
                rounds[name].append(one.peer.round())
    rounds_per_epoch = workload.steps_per_epoch / len(job.order())
    measured = {name: _measured(one, rounds[name], rounds_per_epoch) for name, one in chosen.items()}
    if not any(kind == "Dropout" for kind, _, _ in job.layers):
        loose = workload.optimizer == "rmsprop" or workload.whole_epochs
        tolerance = LOOSE_TOLERANCE if loose else LOSS_TOLERANCE
        check_losses({name: one.first_loss for name, one in measured.items()}, tolerance)
    return measured, {which: machine.joined(answers) for which, answers in seen.items()}


def _measured(chosen: Tuned, rounds: Sequence[Mapping[str, Any]], rounds_per_epoch: float) -> Measured:
    seconds = np.array([one["seconds"] for one in rounds[1:]])
    compile_seconds = max(0.0, rounds[0]["first_seconds"] - np.median(seconds))
    scale = rounds_per_epoch / num_seeds(chosen.peer.name)
    return Measured(
        chosen.peer.name,
        seconds * scale,
        rounds[0]["loss"],
        chosen.peer.ready_seconds,
        float(compile_seconds),
        max(one["peak_bytes"] for one in rounds),
        {name: value * scale for name, value in chosen.tried.items()},
    )


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


def start_up(data_dir: str | None) -> dict[str, dict[str, float]]:
    """lenet_vs_dense from the start of its process, with a cold and a warm compile cache: seconds and peak memory."""
    module, found = f"{__package__.rpartition('.')[0]}.lenet_vs_dense", {}
    asked = ["--variants=lenet5", "--epochs=1", "--progress=lines", "--noresume"]
    asked += [f"--data_dir={data_dir}"] if data_dir else []
    with tempfile.TemporaryDirectory() as scratch:
        asked += [f"--workdir={scratch}/run", f"--compile_cache={scratch}/cache"]
        for temperature in ("cold", "warm"):
            command = [sys.executable, "-m", module, *asked]
            start, first = time.perf_counter(), float("nan")
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
            assert process.stdout is not None
            for line in process.stdout:
                if "epoch 1/1" in line:
                    first = time.perf_counter() - start
            _, status, usage = os.wait4(process.pid, 0)
            if status:
                raise UserError("lenet_vs_dense failed; run python -m experiments.lenet_vs_dense to see why")
            seconds = {"first_epoch_seconds": first, "total_seconds": time.perf_counter() - start}
            found[temperature] = {**seconds, "peak_bytes": usage.ru_maxrss * 1024.0}
    return found
