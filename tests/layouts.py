"""Strategies and numbers of devices against one device: `python tests/layouts.py [NETS [DEVICES]]`, a JSON line each.

Needs eight devices: XLA_FLAGS=--xla_force_host_platform_device_count=8 makes them of a CPU.
"""

import dataclasses
import json
import sys

import jax
import numpy as np
import training

from mnistlab.config import AugmentConfig, OptimConfig, TrainConfig
from mnistlab.data import datasets
from mnistlab.devices import mesh
from mnistlab.nets import layers, models
from mnistlab.training import loop

NETS = {
    "dense": (layers.Flatten(), layers.Dense(16, "relu"), layers.Dense(10)),
    "dropout": (layers.Flatten(), layers.Dropout(0.2), layers.Dense(16, "relu"), layers.Dropout(0.5), layers.Dense(10)),
    "batchnorm": (layers.Flatten(), layers.Dense(16, "relu"), layers.BatchNorm(), layers.Dense(10)),
    "both": (layers.Flatten(), layers.Dropout(0.2), layers.Dense(16, "relu"), layers.BatchNorm(), layers.Dense(10)),
    "lenet5": models.MODELS["lenet5"],
    "lenet5_relu_batchnorm": models.MODELS["lenet5_relu_batchnorm"],
}
SEEDS = (3, 4)
# One step an epoch: the first update is the first gradient. Eight devices do not divide 180, two do.
CONFIG = TrainConfig(
    "dense",
    optimizer=OptimConfig("sgd", 0.125),  # 0.125 divides without rounding
    augment=AugmentConfig(shift_pixels=2, scale_fraction=0.1, mixup_alpha=1.0),
    limit_examples=180,
    batch_size=180,
    num_epochs=3,
)


def initial_params(dataset, net):
    init = loop.step_functions_of(dataclasses.replace(CONFIG, model=models.Network(NETS[net])), dataset).init
    seeds = np.array(SEEDS, np.uint32)
    return jax.device_get(jax.jit(jax.vmap(lambda seed: init(seed, (28, 28, 1), {}).params))(seeds))


def observe(dataset, net, before, layout, stream_megabytes=None):
    """What a run shows: norms of the first gradients, history, final metrics and final weights."""
    first = []

    def on_epoch(epoch):
        if epoch.number == 1:
            first.append(jax.device_get(epoch.snapshot.carry.state.params))

    model = models.Network(NETS[net])
    keywords = {"layout": layout, "stream_megabytes": stream_megabytes, "on_epoch": on_epoch}
    result = training.run(CONFIG, dataset, SEEDS, model=model, **keywords)
    norms = []
    for number in range(len(SEEDS)):
        moved = jax.tree.map(lambda a, b: (a[number] - b[number]).astype(np.float64), before, first[0])  # noqa: B023
        squares = [np.square(leaf / CONFIG.optimizer.learning_rate).sum() for leaf in jax.tree.leaves(moved)]
        norms.append(np.sqrt(np.sum(squares)))
    weights = np.concatenate(
        [np.ravel(leaf) for leaf in jax.tree.leaves((result.state.params, result.state.model_state))]
    )
    return {
        "gradient norm": np.array(norms),
        "history": np.stack(list(result.history.values())),
        "metrics": np.stack(list(result.metrics.values())),
        "weights": weights,
    }


def difference(got, expected, *, relative=False):
    """The largest difference."""
    return float(np.max(np.abs(got - expected) / (np.abs(expected) if relative else 1)))


def synthetic():
    """200 + 100 images: a random pattern a class, with noise; small nets learn it within a few epochs."""
    pattern = np.random.default_rng(0).integers(0, 128, (10, 28, 28, 1))

    def split(num_examples, seed):
        rng = np.random.default_rng(seed)
        label = rng.integers(0, 10, num_examples).astype(np.int32)
        noise = rng.integers(0, 128, (num_examples, 28, 28, 1))
        return datasets.Split((pattern[label] + noise).astype(np.uint8), label)

    names = tuple(f"class {number}" for number in range(10))
    return datasets.Dataset("synthetic", "1.0.0", names, split(200, 1), split(100, 2))


def main(nets, numbers):
    dataset = synthetic()
    for net in nets:
        before = initial_params(dataset, net)
        one = observe(dataset, net, before, None)
        for strategy in (*mesh.STRATEGIES[1:], "cores"):
            for number in numbers:
                layout = mesh.make_layout(number, "shard_map" if strategy == "cores" else strategy)
                streamed = 2 if number == 2 else None  # megabytes; on one number of devices
                got = observe(dataset, net, before, layout._replace(cores=strategy == "cores"), streamed)
                row = {name: difference(got[name], one[name], relative=name == "gradient norm") for name in one}
                print(json.dumps({"net": net, "strategy": strategy, "devices": number, **row}), flush=True)


if __name__ == "__main__":
    main(
        sys.argv[1].split(",") if len(sys.argv) > 1 else list(NETS),
        [int(text) for text in sys.argv[2].split(",")] if len(sys.argv) > 2 else [1, 2, 4, 8],
    )
