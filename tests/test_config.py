import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mnistlab import config
from mnistlab.config import AugmentConfig, OptimConfig, TrainConfig
from mnistlab.errors import UserError

positive = st.floats(1e-300, 1e300)
optim_configs = st.builds(
    OptimConfig,
    name=st.sampled_from(config.OPTIMIZERS),
    learning_rate=positive,
    momentum=st.floats(0, 1),
    weight_decay=positive,
    schedule=st.sampled_from(config.SCHEDULES),
    warmup_epochs=positive,
    decay_factor=positive,
    decay_epochs=st.lists(positive, max_size=3).map(tuple),
)
scalars = st.booleans() | st.integers() | positive | st.text()
train_configs = st.builds(
    TrainConfig,
    model=st.text(),
    split=st.sampled_from(config.SPLITS),
    model_options=st.lists(st.tuples(st.text(), scalars | st.lists(scalars).map(tuple)), max_size=3).map(tuple),
    optimizer=optim_configs,
    batch_size=st.integers(1, 2**40),
    patience_epochs=st.none() | st.integers(1, 100),
    pixel_scale=positive,
    augment=st.builds(AugmentConfig, shift_pixels=st.integers(0, 28), mixup_alpha=positive),
    dropout_rate=st.none() | st.floats(0, 0.99),
    limit_examples=st.none() | st.integers(2, 70_000),
)


@given(train_configs)
def test_json_round_trip(train_config):
    assert config.from_json(TrainConfig, config.to_json(train_config)) == train_config


@given(optim_configs)
def test_json_round_trip_of_the_optimizer_alone(optim_config):
    assert config.from_json(OptimConfig, config.to_json(optim_config)) == optim_config


@pytest.mark.parametrize(
    "text, named",
    [
        ('{"model": "dense"', "not JSON"),
        ('{"model": "dense", "colour": 1}', "colour"),
        ('{"model": "dense", "optimizer": {"lr": 1}}', "lr"),
        ('{"batch_size": 3}', "model"),
    ],
)
def test_bad_json_is_named(text, named):
    with pytest.raises(UserError, match=named) as caught:
        config.from_json(TrainConfig, text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["[]", "3", '["model"]', "null", '{"model": "dense", "optimizer": 3}'])
def test_json_that_is_no_object_is_refused(text):
    with pytest.raises(UserError):
        config.from_json(TrainConfig, text)


BAD_OF_OPTIM = {
    "name": ["adamax", ""],
    "schedule": ["cosine"],
    "learning_rate": [0.0, -1.0, float("nan"), float("inf"), "0.1"],
    "momentum": [-0.1, 1.0],
    "weight_decay": [-1e-9],
    "warmup_epochs": [-1.0],
    "decay_factor": [0.0],
    "decay_epochs": [(0.0,), (2.0, 1.0), (1.0, 1.0)],
}
BAD = {
    "split": ["halves"],
    "order": ["random"],
    "loss_reduction": ["none"],
    "batch_size": [0, -1, 1.5, True],
    "num_epochs": [0, 2.0],
    "patience_epochs": [0],
    "limit_examples": [1],
    "pixel_scale": [0.0, float("nan")],
    "initial_scale": [-1.0],
    "dropout_rate": [1.0, -0.1],
}
WORDS = {"name": "optimizer", "num_epochs": "epochs"}  # as the flags are called


@pytest.mark.parametrize(
    "field, value", [(field, value) for field, values in (BAD_OF_OPTIM | BAD).items() for value in values]
)
def test_an_impossible_value_is_named_in_one_line(field, value):
    good = TrainConfig("dense")
    if field in BAD_OF_OPTIM:
        bad = dataclasses.replace(good, optimizer=dataclasses.replace(good.optimizer, **{field: value}))
    else:
        bad = dataclasses.replace(good, **{field: value})
    with pytest.raises(UserError) as caught:
        config.check(bad)
    message = str(caught.value)
    assert WORDS.get(field, field) in message
    assert "\n" not in message


@pytest.mark.parametrize(
    "optim, named",
    [
        (OptimConfig("adam", momentum=0.9), "momentum"),
        (OptimConfig("sgd", weight_decay=0.1), "weight_decay"),
        (OptimConfig(schedule="exponential"), "decay_epochs"),
        (OptimConfig(schedule="exponential", decay_epochs=(1.0, 2.0)), "decay_epochs"),
        (OptimConfig(schedule="piecewise"), "decay_epochs"),
    ],
)
def test_values_that_do_not_go_together_are_refused(optim, named):
    with pytest.raises(UserError, match=named):
        config.check(TrainConfig("dense", optimizer=optim))


@pytest.mark.parametrize("name", config.OPTIMIZERS)
def test_defaults_are_possible_and_kerass(name):
    learning_rates = {"adam": 0.001, "adamw": 0.001, "sgd": 0.01, "rmsprop": 0.001, "adadelta": 1.0}
    optim = config.optim_default(name)
    assert (optim.name, optim.learning_rate) == (name, learning_rates[name])
    config.check(TrainConfig("dense", optimizer=optim))


def test_an_unknown_optimizer_has_no_defaults():
    with pytest.raises(UserError, match="lion"):
        config.optim_default("lion")


@pytest.mark.parametrize(
    "sweep, named",
    [
        ({"batch_size": [1]}, "batch_size"),
        ({"learning_rate": []}, "learning_rate"),
        ({"learning_rate": [0.1, -1.0]}, "learning_rate"),
        ({"dropout_rate": [1.0]}, "dropout_rate"),
        ({"momentum": [0.9]}, "momentum"),  # the config's optimizer is adam
    ],
)
def test_an_impossible_sweep_is_refused(sweep, named):
    with pytest.raises(UserError, match=named):
        config.check_sweep(sweep, TrainConfig("dense"))


@pytest.mark.parametrize("name", config.SWEEPABLE)
def test_with_setting_changes_one_field_only(name):
    before = dataclasses.asdict(TrainConfig("dense"))
    after = dataclasses.asdict(config.with_setting(TrainConfig("dense"), name, 0.25))
    holder_before, holder_after = (
        (before["optimizer"], after["optimizer"]) if name in before["optimizer"] else (before, after)
    )
    assert holder_after.pop(name) == 0.25
    holder_before.pop(name)
    assert json.dumps(before) == json.dumps(after)


def test_seeds_are_counted_from_the_first():
    assert config.check_seeds(3, 2) == (3, 4)
    assert config.check_seeds(2**32 - 1, 1) == (2**32 - 1,)


@pytest.mark.parametrize("first, count", [(0, 0), (-1, 1), (2**32, 1), (2**32 - 1, 2), (0, 1.0), (True, 1)])
def test_impossible_seeds_are_refused(first, count):
    with pytest.raises(UserError, match="seed"):
        config.check_seeds(first, count)
