"""Options as they reach a variant's config, and the tables of a page."""

import dataclasses
import importlib
from pathlib import Path

import numpy as np
import pytest
from flax import linen as nn
from metrics_doc import unnamed
from run_folders import result_of

from experiments import cnn_variants, common, keras_vs_scratch
from experiments.lenet_vs_dense import EXPERIMENT
from mnistlab.analysis import history
from mnistlab.comparison import nets, outputs, spec
from mnistlab.comparison.spec import Options, Outcome, Variant
from mnistlab.training import step


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


TRAINING = [name for name in common.names() if hasattr(importlib.import_module(f"experiments.{name}"), "EXPERIMENT")]


@pytest.mark.parametrize(
    "name, protocol",
    [
        (name, protocol)
        for name in TRAINING
        for protocol in spec.PROTOCOLS
        if getattr(importlib.import_module(f"experiments.{name}").EXPERIMENT, protocol)  # ours have one alone
    ],
)
def test_a_run_as_the_experiment_has_it_departs_in_nothing(name, protocol):
    of_name = importlib.import_module(f"experiments.{name}").EXPERIMENT

    def departed(**changes):
        options = Options(Path(), protocol, num_seeds=3, first_seed=5, variants=("all",), **changes)
        return spec.departures_of(of_name, options, spec.resolve(of_name, options))

    assert departed() == departed(overrides={"convolution": "lax"}) == ()
    assert departed(overrides={"limit_examples": 500}) == ("trained on the first 500 examples",)
    assert departed(sweep={"initial_scale": (0.5, 2.0)}) == ("initial_scale swept over 0.5, 2",)


def test_modules_that_have_no_hash_have_a_table_each(dataset):
    wide, narrow = (Variant(nn.Sequential([nn.Dense(width), nn.relu])) for width in (4, 3))
    tables = outputs.layer_tables({"wide": wide, "narrow": narrow, "twin": dataclasses.replace(wide)}, dataset)
    assert [tables[name].caption.partition(":")[0] for name in tables] == ["wide, twin", "narrow"]


def test_classes_that_the_data_lack_are_in_the_confusion_matrix(dataset, tmp_path):
    two = dataclasses.replace(
        dataset, class_names=("even", "odd"), test=dataset.test._replace(label=dataset.test.label % 2)
    )
    result = result_of([0.5], [0])
    _, label = nets.test_examples(result, two)
    outcome = Outcome({"a": result}, {}, {}, {}, two, {"a": np.where(label == 1, 7, 0)}, {}, "controlled")
    drawn = {}

    def draw(figure, name, caption):
        return drawn.setdefault(name, figure)

    outputs.class_pictures("a", outcome, draw)
    ticks = [tick.get_text() for tick in drawn["confusion_a"].axes[0].get_yticklabels()]
    assert ticks[:2] == ["even", "odd"] and ticks[-1] == "7"


def test_nothing_reported_stands_beside_a_changed_run():
    results = {"dense": result_of([0.978, 0.977], range(2))}
    outcome = Outcome(results, {}, {}, {}, None, {}, {}, "reported", departures=("epochs 20 -> 3",))
    assert outputs.reported_beside("lenet_vs_dense", outcome) == {}
    assert outputs.reported_beside("lenet_vs_dense", outcome._replace(departures=())) != {}
    for extra in (cnn_variants.source_table, keras_vs_scratch.source_table):
        blocks = extra(outcome._replace(results={}), None).blocks
        assert not any("source's table" in getattr(block, "text", "") for block in blocks)


def test_what_every_summary_holds_of_a_variant_is_explained():
    result = result_of([0.9, 0.8], range(2))
    entry = {"metrics": {name: history.summarize(result.metrics["test_accuracy"]) for name in history.METRICS}}
    model_state = {"batch_stats": {"mean": np.zeros((2, 3))}, "settings": {"rate": np.zeros(2)}}
    state = step.TrainState(np.zeros(2), {"kernel": np.zeros((2, 4))}, model_state, (), ())
    counts = outputs.parameter_counts(state)
    assert counts == {"params": 4, "trainable_parameters": 4, "total_parameters": 7}
    assert not unnamed({"variants": {"a": entry | counts}})
    assert unnamed({"variants": {"a": {"metrics": {"unheard_of": {}}}}}) == {"unheard_of"}


def test_columns_of_what_was_reported_are_there_only_under_the_reported_protocol():
    result = result_of([0.978, 0.977], range(2))
    results = {"dense": result._replace(metrics={**result.metrics, "test_loss": result.metrics["test_accuracy"]})}
    header, row = {}, {}
    for protocol in spec.PROTOCOLS:
        outcome = Outcome(results, {}, {}, {}, None, {}, {}, protocol)
        table = outputs.overview_table(EXPERIMENT, EXPERIMENT.reported, outcome)
        header[protocol], (row[protocol],) = table.header, table.rows
    assert header["reported"][2] == "test accuracy, reported" and row["reported"][2] == "0.9780"
    assert header["controlled"][2:4] == ("test accuracy", "test loss")
    assert row["controlled"][2] == row["reported"][3] and row["controlled"][3] == row["reported"][5]
