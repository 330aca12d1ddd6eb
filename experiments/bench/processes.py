"""Processes that train, or measure the machine, a round at a time."""

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mnistlab.errors import UserError

from .. import common
from .peers import job as jobs

OURS = "mnistlab"
PAUSE_SECONDS = 0.5  # before a round: until the threads of the peer before have stopped spinning


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
            self.end()
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


def start(name: str, job: jobs.Job) -> Peer:
    """The process of a peer, ready to train its first round."""
    path = job.folder / f"{name}.json"
    threads = 1 if "one_thread" in name else job.num_threads
    jobs.write(job._replace(num_seeds=num_seeds(name), num_threads=threads), path)
    compiled_cold = {"TORCHINDUCTOR_CACHE_DIR": str(job.folder / f"inductor_{name}")}  # as ours is
    environ = environment(name) | compiled_cold
    return Peer(name, ("peers.worker", name, str(path)), job.folder / f"{name}.log", environ)


def start_gauge(which: str, folder: Path) -> Peer:
    """The process that measures the machine."""
    return Peer(f"limits of {which}", ("limits", which), folder / f"limits_{which}.log", os.environ)


def num_seeds(peer: str) -> int:
    """How many seeds a peer trains at once, as its name says.

    >>> num_seeds("mnistlab_8_seeds"), num_seeds("pytorch")
    (8, 1)
    """
    return int(peer.split("_")[-2]) if peer.endswith("_seeds") else 1


def environment(peer: str) -> dict[str, str]:
    """What the peer's process finds; mnistlab makes a device of each core, as its entry points do."""
    environ = dict(os.environ)
    if peer.startswith(OURS):
        environ["XLA_FLAGS"] = common.with_devices_of_cores(environ.get("XLA_FLAGS", ""))
    return environ
