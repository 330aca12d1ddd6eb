"""mnistlab's own epoch program, as `mnistlab.training.train.run` compiles it."""

import numpy as np

from experiments.peers.job import Job, Round
from mnistlab import config
from mnistlab.data import datasets
from mnistlab.devices import parallel
from mnistlab.training import train


def prepare(job: Job, peer: str) -> Round:
    """A round of the epoch program of one seed, or of a crowd."""
    del peer
    image, label = job.image(), job.label()
    data = datasets.Split(image, label)
    classes = tuple(str(digit) for digit in range(10))
    dataset = datasets.Dataset("bench", "1.0.0", classes, data, data._replace(image=image[:1], label=label[:1]))
    train_config = config.TrainConfig(
        job.model, optim=config.optim_default(job.optimizer), batch_size=job.batch_size, split="test_is_validation"
    )
    epoch, carry = train.prepare(train_config, dataset, range(job.num_seeds), layout=parallel.make_layout())

    def train_round(order: np.ndarray) -> float:
        nonlocal carry
        carry, record = epoch(carry, order)
        return float(np.asarray(record.train_loss).mean())

    return train_round
