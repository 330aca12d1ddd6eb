"""mnistlab's own epoch program, as `mnistlab.training.loop.train` compiles it."""

import numpy as np

from mnistlab.config import TrainConfig
from mnistlab.data import datasets
from mnistlab.devices import mesh
from mnistlab.nets import layers
from mnistlab.training import loop, optim

from .job import Job, Round


def prepare(job: Job, peer: str) -> Round:
    """A round of the training program of one seed, or of a population; the peer's name may say the convolutions' form."""
    form = [("form", name) for name in layers.FORMS if name in peer.split("_")]
    image, label = job.image(), job.label()
    data = datasets.Split(image, label)
    classes = tuple(str(digit) for digit in range(10))
    dataset = datasets.Dataset("bench", "1.0.0", classes, data, data._replace(image=image[:1], label=label[:1]), "")
    train_config = TrainConfig(
        job.model,
        optimizer=optim.default_config(job.optimizer),
        batch_size=job.batch_size,
        split="test_is_validation",
        model_options=tuple(form),
    )
    epoch, carry = loop.prepare(train_config, dataset, range(job.num_seeds), layout=mesh.make_layout())

    def train_round(order: np.ndarray) -> float:
        nonlocal carry
        carry, sums = epoch(carry, order)
        return float(np.mean(np.asarray(sums.loss).sum(axis=1) / np.asarray(sums.num_examples).sum(axis=1)))

    return train_round
