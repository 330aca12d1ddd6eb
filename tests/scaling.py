"""Weak and strong scaling over devices: `python tests/scaling.py [SEEDS [BATCH [EXAMPLES]]]` prints a table.

Each row is a process of its own with 1, 2, 4 or 8 devices made of a CPU, or, with SCALING_DEVICES=gpu, of the GPUs
there are. Seconds are a seed's epoch, the fastest after the first. Devices of a CPU share its cores: with two cores
nothing can be more than twice as fast, and one program already uses both.
"""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
NUMBERS = (1, 2, 4, 8)
NUM_EPOCHS = 4


def measure(num_devices, num_seeds, batch_size, num_examples):
    """Seconds of a seed's epoch on so many devices; in the process that has them."""
    import training
    from layouts import synthetic

    from mnistlab.config import TrainConfig
    from mnistlab.data import datasets
    from mnistlab.devices import mesh

    small = synthetic()
    repeats = -(-num_examples // len(small.train.label))
    images = datasets.Split(small.train.image.repeat(repeats, axis=0), small.train.label.repeat(repeats))
    dataset = dataclasses.replace(small, train=images)
    config = TrainConfig("dense", limit_examples=num_examples, batch_size=batch_size, num_epochs=NUM_EPOCHS)
    layout = mesh.make_layout(num_devices if num_seeds == 1 else None)  # as the entry points do, unless told
    result = training.run(config, dataset, range(num_seeds), layout=layout, population_size=num_seeds)
    return float(result.epoch_seconds[:, 1:].min())


def started(num_devices, num_seeds, batch_size, num_examples):
    """`measure` in a process of its own, since the number of devices is fixed when JAX starts."""
    environment = dict(os.environ)
    if environment.get("SCALING_DEVICES") != "gpu":
        flag = f"--xla_force_host_platform_device_count={num_devices}"
        environment |= {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": f"{environment.get('XLA_FLAGS', '')} {flag}".strip()}
    arguments = map(str, ("measure", num_devices, num_seeds, batch_size, num_examples))
    command = [sys.executable, __file__, *arguments]
    environment["PYTHONPATH"] = str(ROOT)
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    return json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else None


def main(num_seeds=8, batch_size=256, num_examples=4000):
    """A row for each kind of scaling and number of devices."""
    kinds = {  # what n devices are given, so that one device's share is the same (weak) or the whole is (strong)
        "strong, seeds": lambda n: (num_seeds, batch_size),
        "weak, seeds": lambda n: (num_seeds * n, batch_size),
        "strong, batch": lambda n: (1, batch_size),
        "weak, batch": lambda n: (1, batch_size * n),
    }
    print(f"dense, {num_examples} examples, {os.cpu_count()} CPU cores; s: wall seconds of one seed's epoch")
    print("| scaling | devices | seeds | batch | s | times one device's speed | of ideal |")
    print("| :-- | --: | --: | --: | --: | --: | --: |")
    for kind, load in kinds.items():
        one = None
        for n in NUMBERS:
            seeds, batch = load(n)
            seconds = started(n, seeds, batch, num_examples)
            one = one or seconds
            if seconds is None or one is None:
                print(f"| {kind} | {n} | {seeds} | {batch} | not run |  |  |", flush=True)
                continue
            speed = one / seconds
            print(f"| {kind} | {n} | {seeds} | {batch} | {seconds:.4f} | {speed:.2f} | {speed / n:.0%} |", flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["measure"]:
        print(json.dumps(measure(*map(int, sys.argv[2:]))))
    else:
        main(*map(int, sys.argv[1:]))
