"""An Adadelta LeNet-5 with dropout on MNIST: 99.05 % within 12 epochs?

python -m experiments.lenet5_adadelta [--seeds=8] [--protocol=controlled]
"""

import platform
from dataclasses import replace
from importlib.metadata import version

import jax

from mnistlab.analysis import history
from mnistlab.analysis.claims import Claim
from mnistlab.comparison.outputs import reported_beside
from mnistlab.comparison.spec import Experiment, Findings, Outcome, Variant
from mnistlab.config import OptimConfig
from mnistlab.report import page, text
from mnistlab.report.page import Draw

from . import common

LENET5 = Variant(
    "lenet5_adadelta",
    dataset="mnist",
    split="test_is_validation",
    optimizer=OptimConfig("adadelta", 1.0),
    batch_size=128,
    num_epochs=12,
    description="dropout 0.25 and 0.5, Adadelta at 1.0",
    curve="mnist_lenet5_adadelta",
)
FAIR = replace(LENET5, split="random_55_5", curve=None)  # validated on training images, not on the test set

REPORTED = {"lenet5_dropout": LENET5}
CONTROLLED = {
    "lenet5_dropout": FAIR,
    "without_dropout": replace(FAIR, dropout_rate=0.0, description="no dropout"),
    "adam": replace(FAIR, optimizer=OptimConfig("adam", 1e-3), description="Adam at 1e-3"),
}

CLAIMS = (
    Claim("a", "99.05 % test accuracy within 12 epochs", "test_accuracy", "lenet5_dropout", "about", 0.9905, 0.001),
    Claim("b", "dropout helps", "test_accuracy", "lenet5_dropout", ">", "without_dropout", ours=True),
    Claim("c", "Adadelta beats Adam", "test_accuracy", "lenet5_dropout", ">", "adam", ours=True),
)


def source_table(outcome: Outcome, draw: Draw) -> Findings:
    """The source's one-row table with our row under it, where a run is as the source's was."""
    del draw
    result = outcome.results.get("lenet5_dropout")
    if result is None or not reported_beside("lenet5_adadelta", outcome):
        return Findings()
    loss, accuracy = (history.summarize(result.metrics[name]) for name in ("test_loss", "test_accuracy"))
    header = ("#", "framework", "Python", "hardware", "training time, s", "test loss", "test accuracy")
    seconds = history.metric(result, "train_seconds").mean()
    ours = (
        f"ours, mean of {accuracy['n']}",
        f"JAX {version('jax')}, Flax {version('flax')}",
        platform.python_version(),
        jax.devices()[0].device_kind,
        f"{seconds:.2f}",
        text.format_value("test_loss", loss["mean"]),
        text.format_value("test_accuracy", accuracy["mean"]),
    )
    theirs = ("source", "Keras 2.1.6, TensorFlow 1.11.0", "3.6.5", "GeForce MX250", "99.07", "0.0299", "0.9905")
    return Findings([page.Heading("The source's table"), page.Table(header, [theirs, ours], "As the source prints it")])


EXPERIMENT = Experiment(
    name="lenet5_adadelta",
    title="LeNet-5 with dropout and Adadelta on MNIST",
    source="a repository of Keras implementations (document 002)",
    question="Is LeNet-5 on images padded to 32x32, with dropout and Adadelta, 99.05 % accurate after 12 epochs, to 0.1 points?",
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
