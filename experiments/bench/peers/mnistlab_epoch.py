"""mnistlab's own epoch program, as `mnistlab.training.loop.train` compiles it; for whole epochs that function itself."""

from collections.abc import Callable

import numpy as np

from mnistlab.config import TrainConfig
from mnistlab.data import datasets
from mnistlab.devices import mesh
from mnistlab.nets import layers
from mnistlab.training import callbacks, loop, optim

from .handover import Epochs
from .job import Job, Round

MOST_EPOCHS = 10_000  # no benchmark comes to the end


def prepare(job: Job, peer: str) -> Round:
    """A round of the training program of one seed, or of a population; the peer's name may say the convolutions' form."""
    form = [("form", name) for name in layers.FORMS if name in peer.split("_")]
    classes = tuple(str(digit) for digit in range(10))
    parts = datasets.Split(job.image(), job.label()), datasets.Split(*job.validation())
    dataset = datasets.Dataset("bench", "1.0.0", classes, *parts, "")
    train_config = TrainConfig(
        job.model,
        optimizer=optim.default_config(job.optimizer),
        batch_size=job.batch_size,
        num_epochs=MOST_EPOCHS,
        split="test_is_validation",
        model_options=tuple(form),
    )
    seeds, layout = range(job.num_seeds), mesh.make_layout()
    if job.whole_epochs:

        def train(after_epoch: Callable[[float], None]) -> None:
            on_epoch = callbacks.OnEpoch(lambda epoch: after_epoch(float(np.mean(epoch.record["train_loss"]))))
            together = loop.Resources(layout, population_size=job.num_seeds)  # all that a round is divided by
            loop.train(train_config, dataset, seeds, resources=together, callbacks=[on_epoch])

        return Epochs(train)
    epoch, carry = loop.prepare(train_config, dataset, seeds, layout=layout)

    def train_round(order: np.ndarray) -> float:
        nonlocal carry
        carry, sums = epoch(carry, order)
        return float(np.mean(np.asarray(sums.loss).sum(axis=1) / np.asarray(sums.num_examples).sum(axis=1)))

    return train_round
