"""Five small CNNs on MNIST, A to E: dropout at the end, local response normalisation, depth, inception.

python -m experiments.cnn_variants [--seeds=8] [--variants=A,D] [--protocol=controlled]
"""

from dataclasses import replace

from mnistlab.analysis import history
from mnistlab.analysis.claims import Claim
from mnistlab.comparison.outputs import reported_beside
from mnistlab.comparison.spec import Experiment, Findings, Outcome, Variant
from mnistlab.config import OptimConfig
from mnistlab.report import page, text
from mnistlab.report.page import Draw

from . import common

A = Variant(
    "cnn_a",
    dataset="mnist",
    order="file",
    split="test_halves_swapped",  # the first 5,000 test images validate, the last 5,000 test
    optimizer=OptimConfig("rmsprop", 1e-3),
    batch_size=32,
    num_epochs=100,
    patience_epochs=10,
    pixel_scale=1.0,  # the source never divides by 255
)
DESCRIPTIONS = {
    "A": "similar to LeNet",
    "B": "A with dropout 0.45 in the last layers",
    "C": "A with local response normalisation after the pools",
    "D": "more layers",
    "E": "D with inception blocks (the network around them is ours)",
}

REPORTED = {name: replace(A, model=f"cnn_{name.lower()}", description=text) for name, text in DESCRIPTIONS.items()}
CONTROLLED = {name: replace(variant, pixel_scale=1 / 255) for name, variant in REPORTED.items()}

CLAIMS = (
    Claim("a", "more layers help: D > A", "test_accuracy", "D", ">", "A"),
    Claim("b", "local response normalisation does not help: A > C", "test_accuracy", "A", ">", "C"),
    Claim("c", "normalisation beats dropout: C > B", "test_accuracy", "C", ">", "B"),
    Claim("d", "dropout at the end hurts: A > B", "test_accuracy", "A", ">", "B"),
    Claim("e", "inception blocks help: E > D", "test_accuracy", "E", ">", "D", ours=True),
    Claim("f", "the last 5,000 test images are easier", "test_accuracy - val_accuracy", "A", ">", 0.0, ours=True),
)


def source_table(outcome: Outcome, draw: Draw) -> Findings:
    """The source's table (model, description, loss, accuracy) with ours beside it, and the two halves of the test set."""
    del draw
    theirs = reported_beside("cnn_variants", outcome)
    rows, halves, summary = [], [], {}
    for name, result in outcome.results.items():
        number = theirs.get(name, {})
        metrics = ("test_loss", "test_accuracy", "val_accuracy", "test_accuracy - val_accuracy")
        loss, accuracy, first, gap = (history.summarize(history.metric(result, metric)) for metric in metrics)
        losses = [text.format_value("loss", value) for value in (number.get("test_loss"), loss["mean"])]
        means = [number.get("test_accuracy"), accuracy["mean"], first["mean"]]
        reported_mean, ours, of_first = (text.format_value("accuracy", value) for value in means)
        rows.append((name, DESCRIPTIONS.get(name, name), *losses, reported_mean, ours))
        halves.append((name, of_first, ours, text.format_summary(gap, signed=True)))
        summary[name] = {"mean": gap["mean"], "ci95": gap["ci95"]}
    header = ("model", "description", "loss, reported", "loss, ours", "accuracy, reported", "accuracy, ours")
    caption = "Test loss and accuracy as the source prints them, and ours (mean over seeds)"
    beside: list[page.Block] = [page.Heading("The source's table"), page.Table(header, rows, caption)] if theirs else []
    blocks: list[page.Block] = [
        *beside,
        page.Heading("The two halves of the test set"),
        page.Text(
            "The test images stand in their original order. The first 5,000 come from other writers than the last 5,000, "
            "and the source validates on the former and tests on the latter: the difference below is one of data, not of networks."
        ),
        page.Table(
            ("model", "accuracy, first 5,000", "accuracy, last 5,000", "difference [95 %]"),
            halves,
            "One network, two halves",
        ),
    ]
    return Findings(blocks, {"test_halves": summary})


EXPERIMENT = Experiment(
    name="cnn_variants",
    title="CNN variants A to E on MNIST",
    source="an exercise on building a CNN from scratch (document 003)",
    question="Which of five small CNNs is most accurate, and what do dropout, local response normalisation and depth contribute?",
    quirks=(
        "The source feeds raw pixels 0..255; `reported` does too, `controlled` divides by 255. Both train at most 100 epochs "
        "and stop after 10 without a new lowest validation loss, the best weights restored."
    ),
    reported=REPORTED,
    controlled=CONTROLLED,
    claims=CLAIMS,
    answered_by=("test_accuracy", "a", "b", "d"),
    extra=source_table,
)

if __name__ == "__main__":
    common.main(EXPERIMENT)
