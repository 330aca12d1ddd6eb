"""A network through a framework against the same by hand, on Fashion-MNIST: which difference explains the gap?

python -m experiments.keras_vs_scratch [--seeds=8] [--protocol=controlled] [--tensorboard]
"""

from dataclasses import replace
from typing import Any

from experiments import common
from mnistlab.analysis import history
from mnistlab.analysis.claims import Claim
from mnistlab.comparison.experiment import Experiment, Outcome, Variant, reported_beside
from mnistlab.config import OptimConfig, TrainConfig
from mnistlab.report import report
from mnistlab.report.report import Draw
from mnistlab.training import scratch

KERAS = TrainConfig(
    model="mlp512",
    dataset="fashion_mnist",
    order="file",
    split="test_is_validation",
    optim=OptimConfig("adam", 1e-3),
    batch_size=32,
    num_epochs=70,
)
WITHOUT_BIASES = (("use_bias", False),)
DROPOUT_AT_EVALUATION = (("dropout_at_evaluation", True),)
SCRATCH = replace(KERAS, batch_size=64, loss_reduction="sum", model_options=(*WITHOUT_BIASES, *DROPOUT_AT_EVALUATION))

REPORTED = {
    "keras": Variant(KERAS, "dense 512 relu, dropout 0.2, dense 10", "fashion_mlp512_keras"),
    "scratch": Variant(SCRATCH, "the same by hand", "fashion_mlp512_scratch", scratch.make_program),
}
CONTROLLED = {
    "keras": Variant(KERAS, "the framework's"),
    "batch_64": Variant(replace(KERAS, batch_size=64), "batch 64 instead of 32"),
    "without_biases": Variant(replace(KERAS, model_options=WITHOUT_BIASES), "no biases"),
    "dropout_at_evaluation": Variant(
        replace(KERAS, model_options=DROPOUT_AT_EVALUATION), "dropout stays on in evaluation"
    ),
    "summed_loss": Variant(replace(KERAS, loss_reduction="sum"), "gradient of the summed loss"),
    "scratch": Variant(SCRATCH, "all four", None, scratch.make_program),
}

CLAIMS = (
    Claim("a", "keras is more accurate on test", "test_accuracy", "keras", ">", "scratch"),
    Claim("b", "final test losses do not differ significantly", "test_loss", "keras", "same", "scratch"),
    Claim("c1", "the lowest test loss comes near epoch 14", "lowest_epoch:val_loss", "keras", "about", 14.0, 4.0),
    Claim("c2", "after epoch 20 test accuracy moves within 1 %", "range_after_20:val_accuracy", "keras", "<", 0.01),
    Claim(
        "d1", "training accuracy goes on rising after epoch 20", "change_after_20:train_accuracy", "keras", ">", 0.01
    ),
    Claim("d2", "test accuracy does not: it gains under 1 %", "change_after_20:val_accuracy", "keras", "<", 0.01),
    Claim("e", "keras is faster per epoch", "epoch_seconds", "keras", "<", "scratch"),
    Claim("f1", "batch 64 alone costs accuracy", "test_accuracy", "keras", ">", "batch_64", ours=True),
    Claim("f2", "leaving out biases costs accuracy", "test_accuracy", "keras", ">", "without_biases", ours=True),
    Claim(
        "f3", "dropout at evaluation costs accuracy", "test_accuracy", "keras", ">", "dropout_at_evaluation", ours=True
    ),
    Claim("f4", "the summed loss costs accuracy", "test_accuracy", "keras", ">", "summed_loss", ours=True),
)


def source_table(outcome: Outcome, draw: Draw) -> tuple[list[report.Block], dict[str, Any]]:
    """The source's own comparison with ours beside it, and what each difference costs."""
    del draw
    theirs = reported_beside("keras_vs_scratch", outcome)
    if not theirs:
        return _ablation(outcome), {}
    num_examples = len(outcome.dataset.train.label)

    def ours(name: str, metric: str, factor: float = 1.0) -> str:
        if name not in outcome.results:
            return report.MISSING
        mean = history.summarize(history.metric(outcome.results[name], metric))["mean"]
        return report.MISSING if mean is None else report.format_significant(factor * mean, 4)

    def row(title: str, metric: str, factor: float, scratch_says: str, keras_says: str) -> tuple[str, ...]:
        return (title, scratch_says, ours("scratch", metric, factor), keras_says, ours("keras", metric, factor))

    def percent(name: str, metric: str) -> str:
        return report.format_significant(100 * theirs[name][metric], 4)

    rows = [
        row(
            "test accuracy, %",
            "test_accuracy",
            100,
            percent("scratch", "test_accuracy"),
            percent("keras", "test_accuracy"),
        ),
        row(
            "test loss", "test_loss", 1, f"{theirs['scratch']['test_loss']:.4f}", f"{theirs['keras']['test_loss']:.4f}"
        ),
        row("time per epoch, s", "epoch_seconds", 1, "8.7", "7"),
        row("time per sample, µs", "epoch_seconds", 1e6 / num_examples, "145", "113"),
        row("total time, s", "train_seconds", 1, "598", "474"),
        row(
            "training accuracy, %",
            "train_accuracy",
            100,
            percent("scratch", "train_accuracy"),
            percent("keras", "train_accuracy"),
        ),
        row(
            "training loss",
            "train_loss",
            1,
            f"{theirs['scratch']['train_loss']:.4f}",
            f"{theirs['keras']['train_loss']:.4f}",
        ),
    ]
    header = ("metric", "without Keras, reported", "without Keras, ours", "Keras, reported", "Keras, ours")
    blocks: list[report.Block] = [
        report.Heading("The source's table"),
        report.Table(header, rows, "The source's comparison; ours beside it (mean over seeds)"),
    ]
    return blocks + _ablation(outcome), {}


def _ablation(outcome: Outcome) -> list[report.Block]:
    steps = [name for name in CONTROLLED if name in outcome.results and name not in ("keras",)]
    if len(steps) < 2 or "keras" not in outcome.results:
        return []
    rows = []
    for name in steps:
        cells = [name.replace("_", " ")]
        for metric in ("test_accuracy", "test_loss"):
            gap = history.metric(outcome.results[name], metric) - history.metric(outcome.results["keras"], metric)
            summary = history.summarize(gap)
            numbers = (float("nan") if value is None else value for value in (summary["mean"], *summary["ci95"]))
            cells.append(report.format_interval(*numbers, signed=True))
        rows.append(tuple(cells))
    header = ("difference from keras", "test accuracy [95 %]", "test loss [95 %]")
    return [
        report.Heading("One difference at a time"),
        report.Table(
            header, rows, "What each difference alone changes, and all four together (scratch); paired by seed"
        ),
    ]


EXPERIMENT = Experiment(
    name="keras_vs_scratch",
    title="Through a framework against by hand, on Fashion-MNIST",
    source="assignment 1 of a deep learning course, part 1 (document 001)",
    question="The source finds its Keras network more accurate than its own code by 0.72 points. Is that so, and why?",
    quirks=(
        "The two differ in four ways beside the framework: batch 32 against 64, biases against none, dropout off against on in "
        "evaluation, the mean of the loss against its sum. `reported` keeps all four at once; `controlled` changes one at a time. "
        "Both validate on the whole test set, as the source does; nothing is chosen by it."
    ),
    reported=REPORTED,
    controlled=CONTROLLED,
    claims=CLAIMS,
    extra=source_table,
)

if __name__ == "__main__":
    common.main(EXPERIMENT)
