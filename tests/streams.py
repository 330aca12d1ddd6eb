"""One run streamed over the devices of all processes: `python tests/streams.py COORDINATOR NUM_PROCESSES PROCESS_ID`.

Prints a JSON line: the history, and which examples this process read, in the order of reading.
"""

import json
import sys

import numpy as np
import training
from layouts import synthetic

from mnistlab.config import OptimConfig, TrainConfig
from mnistlab.data import batches
from mnistlab.devices import cluster, mesh
from mnistlab.nets import layers, models

NET = models.Network((layers.Flatten(), layers.Dense(10)))
CONFIG = TrainConfig("net", optimizer=OptimConfig("sgd", 0.05), batch_size=32, num_epochs=2)


def observe(stream_megabytes=1):
    """(history, examples read) of a run on all devices."""
    seen: list[int] = []
    read = batches.read

    def note(arrays, example):
        if arrays[0].ndim == 4:
            seen.extend(np.ravel(example).tolist())
        return read(arrays, example)

    batches.read = note
    try:
        result = training.run(
            CONFIG, synthetic(), (3,), model=NET, layout=mesh.make_layout(), stream_megabytes=stream_megabytes
        )
    finally:
        batches.read = read
    return {name: values.tolist() for name, values in result.history.items()}, seen


def main(coordinator, num_processes, process_id):
    if num_processes > 1:
        named = cluster.Cluster("flags", coordinator, num_processes, process_id)
        cluster.join(named, heartbeat_seconds=10)
    print(json.dumps(observe()), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
