"""Seconds of a step by each form of the convolutions, with one seed and with many, on whatever device there is.

PYTHONPATH=. python tests/forms.py [model,batch_size,seeds ...]

Random images; each program is compiled, run once and then timed twice: the quicker one counts.
"""

import sys
import time

import jax
import numpy as np

from mnistlab.config import TrainConfig
from mnistlab.data import datasets
from mnistlab.devices import mesh
from mnistlab.nets.layers import FORMS
from mnistlab.training import loop, optim

NUM_EXAMPLES, NUM_STEPS = 60_000, 60
DEFAULT = ("lenet5,256,1", "lenet5,256,16", "cnn_a,32,16", "cnn_d,32,16")
OPTIMIZERS = {"cnn": "rmsprop"}  # the sources', by how a model's name begins; the others have Adam


def random_dataset() -> datasets.Dataset:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (NUM_EXAMPLES, 28, 28, 1)).astype(np.uint8)
    train = datasets.Split(image, rng.integers(0, 10, NUM_EXAMPLES).astype(np.int32))
    test = train._replace(image=train.image[:1], label=train.label[:1])
    return datasets.Dataset("random", "1.0.0", tuple("0123456789"), train, test, "")


def step_milliseconds(dataset: datasets.Dataset, model: str, batch_size: int, num_seeds: int, form: str) -> float:
    """Of all seeds together."""
    config = TrainConfig(
        model,
        optimizer=optim.default_config(OPTIMIZERS.get(model[:3], "adam")),
        batch_size=batch_size,
        split="test_is_validation",
        model_options=(("form", form),),
    )
    epoch, carry = loop.prepare(config, dataset, range(num_seeds), layout=mesh.make_layout())
    order = np.random.default_rng(1).permutation(NUM_EXAMPLES)[: NUM_STEPS * batch_size]
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        carry, sums = epoch(carry, order.reshape(NUM_STEPS, batch_size).astype(np.int32))
        np.asarray(sums.loss)
        seconds.append(time.perf_counter() - start)
    return 1e3 * min(seconds[1:]) / NUM_STEPS


def main() -> None:
    dataset = random_dataset()
    print(f"JAX {jax.__version__} on {jax.devices()[0].device_kind}: milliseconds a step")
    print(f"| model | batch | seeds | {' | '.join(FORMS)} |\n| :-- | --: | --: |{' --: |' * len(FORMS)}")
    for text in sys.argv[1:] or DEFAULT:
        model, batch_size, num_seeds = text.split(",")
        found = [step_milliseconds(dataset, model, int(batch_size), int(num_seeds), form) for form in FORMS]
        print(f"| {model} | {batch_size} | {num_seeds} | {' | '.join(f'{ms:.3g}' for ms in found)} |", flush=True)


if __name__ == "__main__":
    main()
