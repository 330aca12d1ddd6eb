"""An Adadelta LeNet-5 with dropout on MNIST: 99.05 % within 12 epochs?

python -m experiments.lenet5_adadelta [--seeds=8] [--protocol=controlled]
"""

import platform
from dataclasses import replace
from importlib.metadata import version
from typing import Any

import jax
import numpy as np

from experiments import common
from mnistlab.analysis.claims import Claim
from mnistlab.comparison.experiment import Experiment, Outcome, Variant
from mnistlab.config import OptimConfig, TrainConfig
from mnistlab.report import page
from mnistlab.report.page import Draw

LENET5 = TrainConfig(
    model="lenet5_adadelta",
    dataset="mnist",
    split="test_is_validation",
    optim=OptimConfig("adadelta", 1.0),
    batch_size=128,
    num_epochs=12,
)
FAIR = replace(LENET5, split="random_55_5")  # validation images are taken from the training set, not from the test set

REPORTED = {"lenet5_dropout": Variant(LENET5, "dropout 0.25 and 0.5, Adadelta at 1.0", "mnist_lenet5_adadelta")}
CONTROLLED = {
    "lenet5_dropout": Variant(FAIR, "dropout 0.25 and 0.5, Adadelta at 1.0"),
    "without_dropout": Variant(replace(FAIR, dropout_rate=0.0), "no dropout"),
    "adam": Variant(replace(FAIR, optim=OptimConfig("adam", 1e-3)), "Adam at 1e-3"),
}

CLAIMS = (
    Claim("a", "99.05 % test accuracy within 12 epochs", "test_accuracy", "lenet5_dropout", "about", 0.9905, 0.001),
    Claim("b", "dropout helps", "test_accuracy", "lenet5_dropout", ">", "without_dropout", ours=True),
    Claim("c", "Adadelta beats Adam", "test_accuracy", "lenet5_dropout", ">", "adam", ours=True),
)


def source_table(outcome: Outcome, draw: Draw) -> tuple[list[page.Block], dict[str, Any]]:
    """The source's one-row table with our row under it."""
    del draw
    result = outcome.results.get("lenet5_dropout")
    if result is None:
        return [], {}
    header = ("#", "framework", "Python", "hardware", "training time, s", "test loss", "test accuracy")
    seconds = np.nansum(result.epoch_seconds, axis=1).mean()
    ours = (
        f"ours, mean of {len(result.runs)}",
        f"JAX {version('jax')}, Flax {version('flax')}",
        platform.python_version(),
        jax.devices()[0].device_kind,
        f"{seconds:.2f}",
        f"{result.metrics['test_loss'].mean():.4f}",
        f"{result.metrics['test_accuracy'].mean():.4f}",
    )
    theirs = ("source", "Keras 2.1.6, TensorFlow 1.11.0", "3.6.5", "GeForce MX250", "99.07", "0.0299", "0.9905")
    return [page.Heading("The source's table"), page.Table(header, [theirs, ours], "As the source prints it")], {}


EXPERIMENT = Experiment(
    name="lenet5_adadelta",
    title="LeNet-5 with dropout and Adadelta on MNIST",
    source="a repository of Keras implementations (document 002)",
    question="Does LeNet-5 on images padded to 32x32, with dropout and Adadelta, reach 99.05 % within 12 epochs?",
    quirks=(
        "The source validates on the test set. `reported` does too; `controlled` validates on 5,000 images taken from the "
        "training set, seed by seed, and asks what dropout and Adadelta contribute."
    ),
    reported=REPORTED,
    controlled=CONTROLLED,
    claims=CLAIMS,
    extra=source_table,
)

if __name__ == "__main__":
    common.main(EXPERIMENT)
