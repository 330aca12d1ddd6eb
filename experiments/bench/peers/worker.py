"""One peer in a process of its own: `python -m experiments.bench.peers.worker PEER JOB`, then one line per round on its input.

Answers with a line of JSON: {"ready": true} once it is set up, and for each round {"first_seconds", "seconds", "loss",
"peak_bytes"}: of the round's first pass over the order, which is not counted; of a pass after it; of the first pass.
"""

import importlib
import itertools
import json
import math
import resource
import sys
import time
from pathlib import Path

import numpy as np

from . import job as jobs

LEAST_SECONDS = 0.5  # shorter passes are repeated until they took this long together

SEEDS = ("", *(f"_{number}_seeds" for number in (2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)))


def _names(*parts: tuple[str, ...]) -> list[str]:
    """Every name that has one of each part."""
    return ["".join(chosen) for chosen in itertools.product(*parts)]


PEERS = {
    **dict.fromkeys(_names(("mnistlab",), ("", "_cells", "_slices", "_lax"), SEEDS), "mnistlab_epoch"),
    **dict.fromkeys(
        _names(
            ("pytorch", "pytorch_compiled", "pytorch_compiled_tuned", "pytorch_compiled_graphs"),
            ("", "_ordered"),
            ("", "_channels_last"),
            ("", "_one_thread"),
        ),
        "pytorch",
    ),
    **dict.fromkeys(_names(("keras_tensorflow",), ("", "_jit", "_nojit"), ("", "_one_thread")), "keras_tensorflow"),
    **dict.fromkeys(("flax_step", "flax_scan", "flax_scan_8_seeds"), "plain_flax"),
}
"""Peer -> the module beside this one that trains it."""


def main(peer: str, path: str) -> None:
    """Sets the peer up, then trains a round for every line of the input."""
    job = jobs.read(Path(path))
    answers = sys.stdout
    sys.stdout = sys.stderr  # what the framework prints is no answer
    train = importlib.import_module(f"{__package__}.{PEERS[peer]}").prepare(job, peer)
    order = job.order()
    print(json.dumps({"ready": True}), file=answers, flush=True)
    first_seconds = loss = math.nan
    for number, _ in enumerate(sys.stdin):
        if not (number and job.whole_epochs):  # long enough: what an idle process lost comes back in a part of them
            first_seconds, loss = _timed(train, order)  # what the machine took from an idle process comes back here
        passes: list[float] = []
        while sum(passes) < LEAST_SECONDS:
            passes.append(_timed(train, order)[0])
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        answer = {
            "first_seconds": first_seconds,
            "seconds": sum(passes) / len(passes),
            "loss": loss,
            "peak_bytes": peak,
        }
        print(json.dumps(answer), file=answers, flush=True)


def _timed(train: jobs.Round, order: np.ndarray) -> tuple[float, float]:
    """Seconds of a pass, and its loss."""
    start = time.perf_counter()
    loss = train(order)
    return time.perf_counter() - start, loss


if __name__ == "__main__":
    main(*sys.argv[1:])
