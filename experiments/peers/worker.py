"""One peer in a process of its own: `python -m experiments.peers.worker PEER JOB`, then a line a round on its input.

Answers with a line of JSON: {"ready": true} once it is set up, and for each round {"seconds" (of one pass), "loss" (of the first), "num_times", "peak_bytes"}.
"""

import importlib
import json
import resource
import sys
import time
from pathlib import Path

from experiments.peers import job as jobs

LEAST_SECONDS = 0.5  # a shorter round is repeated until it took this long

PEERS = {
    "mnistlab": "mnistlab_epoch",
    **{f"mnistlab_{number}_seeds": "mnistlab_epoch" for number in (2, 4, 8, 16, 32)},
    "pytorch": "pytorch",
    "pytorch_compiled": "pytorch",
    "keras_tensorflow": "keras_tensorflow",
    "flax_step": "plain_flax",
    "flax_scan": "plain_flax",
    "flax_scan_8_seeds": "plain_flax",
}
"""Peer -> the module beside this one that trains it."""


def main(peer: str, path: str) -> None:
    """Sets the peer up, then trains a round for every line of the input."""
    job = jobs.read(Path(path))
    answers = sys.stdout
    sys.stdout = sys.stderr  # what the framework prints is no answer
    train = importlib.import_module(f"experiments.peers.{PEERS[peer]}").prepare(job, peer)
    order = job.order()
    print(json.dumps({"ready": True}), file=answers, flush=True)
    for _ in sys.stdin:
        losses: list[float] = []
        start = time.perf_counter()
        while not losses or time.perf_counter() - start < LEAST_SECONDS:
            losses.append(train(order))
        seconds = (time.perf_counter() - start) / len(losses)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        answer = {"seconds": seconds, "loss": losses[0], "num_times": len(losses), "peak_bytes": peak}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
