"""What a run changed of its protocol, in words, and that no word of it judges the source."""

import dataclasses

import numpy as np
import pytest
from run_folders import result_of

from mnistlab.analysis import claims, departures
from mnistlab.analysis.claims import Claim
from mnistlab.analysis.departures import Setup
from mnistlab.comparison import spec
from mnistlab.comparison.spec import Variant
from mnistlab.config import AugmentConfig, OptimConfig, TrainConfig

OWN = Variant("mlp512", optimizer=OptimConfig("adam", 1e-3), num_epochs=20)
SEEDS = range(8)
NOISE = 0.001 * np.random.default_rng(0).standard_normal(8)
RESULTS = {"low": result_of(0.9 + NOISE, SEEDS), "high": result_of(np.full(8, 0.95), SEEDS)}
CLAIMS = (
    Claim("a", "low is higher", "test_accuracy", "low", ">", "high"),
    Claim("b", "high is higher", "test_accuracy", "high", ">", "low"),
    Claim("c", "they are the same", "test_accuracy", "low", "same", "high"),
    Claim("d", "never measured", "test_accuracy", "low", ">", "other"),
)


@pytest.mark.parametrize(
    "overrides, words",
    [
        ({}, ()),
        ({"num_epochs": 20, "learning_rate": 1e-3}, ()),  # what it is anyway
        ({"convolution": "lax"}, ()),  # the same up to rounding
        ({"num_epochs": 3}, ("epochs 20 -> 3",)),
        ({"limit_examples": 2000}, ("trained on the first 2,000 examples",)),
        ({"learning_rate": 1e-5}, ("learning_rate 0.001 -> 1e-05",)),
        ({"optimizer": "sgd"}, ("optimizer adam -> sgd", "learning_rate 0.001 -> 0.01")),
        ({"batch_size": 64, "patience_epochs": 5}, ("batch_size 128 -> 64", "patience_epochs none -> 5")),
        ({"dropout_rate": 0.5, "initial_scale": 2.0}, ("dropout_rate the model's -> 0.5", "initial_scale 1 -> 2")),
        ({"augment": AugmentConfig(shift_pixels=2)}, ("augment shift_pixels 0 -> 2",)),
        ({"schedule": "piecewise", "decay_epochs": (5.0, 8.0)},
         ("schedule constant -> piecewise", "decay_epochs none -> 5, 8")),
    ],
)  # fmt: skip
def test_what_is_overridden_is_said(overrides, words):
    now = spec.override(OWN, overrides)
    assert sorted(departures.between({"a": Setup(OWN)}, {"a": Setup(now)}, {})) == sorted(words)


def test_every_knob_of_a_config_would_be_said():
    for field in dataclasses.fields(TrainConfig):
        if field.name == "metrics":  # what is measured beside changes nothing
            continue
        value = {"optimizer": OptimConfig("sgd"), "augment": AugmentConfig(1), "model_options": (("use_bias", True),)}
        now = dataclasses.replace(OWN, **{field.name: value.get(field.name, 7)})
        assert departures.between({"a": Setup(OWN)}, {"a": Setup(now)}, {}), field.name


def test_a_change_of_some_variants_names_them_and_a_sweep_or_a_given_rate_is_one():
    shorter = dataclasses.replace(OWN, num_epochs=12)
    now = dataclasses.replace(OWN, num_epochs=12, batch_size=64)
    protocol = {"a": Setup(OWN), "b": Setup(shorter), "c": Setup(OWN, (0.1, 0.01))}
    run = {"a": Setup(now), "b": Setup(now), "c": Setup(now)}
    assert set(departures.between(protocol, run, {"momentum": (0.0, 0.9)})) == {
        "epochs 20 -> 12 (a, c)",
        "batch_size 128 -> 64",
        "learning_rate chosen of 0.1, 0.01 -> 0.001 (c)",
        "momentum swept over 0, 0.9",
    }
    swept = departures.between({"c": protocol["c"]}, {"c": Setup(OWN)}, {"learning_rate": (0.1, 0.2)})
    assert swept == ("learning_rate swept over 0.1, 0.2",)


def test_verdicts_of_a_changed_run_do_not_judge_the_source():
    checked = claims.check(CLAIMS, RESULTS)
    assert [item.verdict for item in checked] == ["reversed", "holds", "reversed", "not measured"]
    assert departures.of_changed_run(checked, ()) == checked
    changed = departures.of_changed_run(checked, ("epochs 20 -> 3",))
    assert [item.verdict for item in changed] == [
        "changed run: the opposite holds",
        "changed run: holds",
        "changed run: does not hold",
        "not measured",
    ]
    assert all(item.sentence.startswith("Changed run (epochs 20 -> 3): ") for item in changed[:3])
    assert not any("reversed" in item.sentence for item in changed)
    named = checked[0]._replace(sentence='"reversed_labels > clean" in test accuracy: reversed; mean')
    (said,) = departures.of_changed_run([named], ("x",))
    assert said.sentence.endswith('"reversed_labels > clean" in test accuracy: the opposite holds; mean')


def test_a_summary_of_before_departures_were_named_is_not_taken_for_the_protocol():
    assert departures.of_summary({"departures": []}) == ()
    assert departures.of_summary({"departures": ["epochs 20 -> 3"]}) == ("epochs 20 -> 3",)
    assert departures.of_summary({}) == (departures.UNKNOWN,)
