"""Options as they reach a variant's config, and the tables of a page."""

from run_folders import result_of

from experiments.lenet_vs_dense import EXPERIMENT
from mnistlab.comparison import outputs, spec
from mnistlab.comparison.spec import Outcome, Variant


def test_overrides_reach_the_config_its_optimiser_and_the_model():
    before = Variant("mlp512", model_options=(("use_bias", False),))
    after = spec.override(before, {"convolution": "lax", "optimizer": "sgd", "momentum": 0.5, "num_epochs": 3})
    assert dict(after.model_options) == {"use_bias": False, "form": "lax"}
    assert (after.optimizer.name, after.optimizer.learning_rate, after.optimizer.momentum, after.num_epochs) == (
        "sgd",
        1e-2,
        0.5,
        3,
    )
    assert spec.override(before, {}) == before


def test_columns_of_what_was_reported_are_there_only_under_the_reported_protocol():
    result = result_of([0.978, 0.977], range(2))
    results = {"dense": result._replace(metrics={**result.metrics, "test_loss": result.metrics["test_accuracy"]})}
    header, row = {}, {}
    for protocol in spec.PROTOCOLS:
        outcome = Outcome(results, {}, {}, None, {}, {}, protocol)
        table = outputs.overview_table(EXPERIMENT, EXPERIMENT.reported, outcome)
        header[protocol], (row[protocol],) = table.header, table.rows
    assert header["reported"][2] == "test accuracy, reported" and row["reported"][2] == "0.9780"
    assert header["controlled"][2:4] == ("test accuracy", "test loss")
    assert row["controlled"][2] == row["reported"][3] and row["controlled"][3] == row["reported"][5]
