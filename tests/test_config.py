import dataclasses
import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mnistlab import config
from mnistlab.comparison.spec import Options
from mnistlab.config import AugmentConfig, Interval, OptimConfig, TrainConfig
from mnistlab.errors import UserError
from mnistlab.training import checks, optim

positive = st.floats(1e-300, 1e300)
optim_configs = st.builds(
    OptimConfig,
    name=st.sampled_from(list(optim.OPTIMIZERS)),
    learning_rate=positive,
    momentum=st.floats(0, 1),
    weight_decay=positive,
    schedule=st.sampled_from(list(optim.SCHEDULES)),
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
    label_smoothing=st.floats(0, 0.99),
    average_epochs=positive,
    limit_examples=st.none() | st.integers(2, 70_000),
)


def as_json_holds(value):
    return json.loads(json.dumps(dataclasses.asdict(value)))


@given(train_configs)
def test_json_round_trip(train_config):
    assert config.from_dict(TrainConfig, as_json_holds(train_config)) == train_config


@given(optim_configs)
def test_json_round_trip_of_the_optimizer_alone(optim_config):
    assert config.from_dict(OptimConfig, as_json_holds(optim_config)) == optim_config


@pytest.mark.parametrize(
    "text, named",
    [
        ('{"model": "dense", "colour": 1}', "colour"),
        ('{"model": "dense", "optimizer": {"lr": 1}}', "lr"),
        ('{"batch_size": 3}', "model"),
    ],
)
def test_bad_json_is_named(text, named):
    with pytest.raises(UserError, match=named) as caught:
        config.from_dict(TrainConfig, json.loads(text))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["[]", "3", '["model"]', "null", '{"model": "dense", "optimizer": 3}'])
def test_json_that_is_no_object_is_refused(text):
    with pytest.raises(UserError):
        config.from_dict(TrainConfig, json.loads(text))


IMAGE_SHAPE = (28, 28, 1)
BAD_OF_OPTIM = {
    "name": ["adamax", ""],
    "schedule": ["cosine"],
    "learning_rate": [0.0, -1.0, float("nan"), float("inf"), "0.1"],
    "momentum": [-0.1, 1.0],
    "weight_decay": [-1e-9],
    "warmup_epochs": [-1.0],
    "decay_factor": [0.0],
    "decay_epochs": [(0.0,), (2.0, 1.0), (1.0, 1.0), 3.0],
}
BAD = {
    "split": ["halves"],
    "order": ["random"],
    "loss": ["hinge", [], None],
    "loss_reduction": ["none"],
    "batch_size": [0, -1, 1.5, True, None, 1_000_001],
    "num_epochs": [0, 2.0],
    "patience_epochs": [0],
    "limit_examples": [1],
    "pixel_scale": [0.0, float("nan")],
    "initial_scale": [-1.0],
    "dropout_rate": [1.0, -0.1],
    "label_smoothing": [1.0, -0.1],
    "average_epochs": [-0.5],
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
        checks.check(bad, IMAGE_SHAPE)
    message = str(caught.value)
    assert WORDS.get(field, field) in message
    assert "\n" not in message


@given(st.floats(), st.floats(), st.booleans(), st.booleans(), st.floats())
def test_an_interval_holds_what_lies_between_its_ends(low, high, low_is_open, high_is_open, number):
    inside = low <= number <= high and not (number == low and low_is_open) and not (number == high and high_is_open)
    assert (number in Interval(low, high, low_is_open, high_is_open)) == inside


BOUNDED = [
    (cls, about)
    for cls in (OptimConfig, TrainConfig, AugmentConfig, Options)
    for about in config.settings_of(cls)
    if about.within is not None
]


@pytest.mark.parametrize("cls, about", BOUNDED, ids=[about.name for _, about in BOUNDED])
def test_every_bound_is_where_its_field_says(cls, about):
    def accepted(number):
        value = (number,) if about.is_tuple else number
        required = {"model": "dense"} if cls is TrainConfig else {"workdir": None} if cls is Options else {}
        try:
            config.check_fields(cls(**required, **{about.name: value}))
        except UserError as error:
            assert about.word in str(error) and "\n" not in str(error)
            return False
        return True

    def beside(end, to):
        return end + int(math.copysign(1, to)) if about.kind is int else math.nextafter(end, to)

    low, high = about.within.low, about.within.high
    assert accepted(low) != about.within.low_is_open and accepted(beside(low, math.inf))
    assert not accepted(beside(low, -math.inf))
    if high < math.inf:
        assert accepted(high) != about.within.high_is_open and not accepted(beside(high, math.inf))


def test_no_two_settings_share_a_flag():
    classes = (OptimConfig, TrainConfig, Options)
    words = [about.flag for cls in classes for about in config.settings_of(cls) if about.flag]
    assert len(words) == len(set(words)) > 20


@pytest.mark.parametrize(
    "together, named",
    [
        (OptimConfig("adam", momentum=0.9), "momentum"),
        (OptimConfig("sgd", weight_decay=0.1), "weight_decay"),
        (OptimConfig(schedule="exponential"), "decay_epochs"),
        (OptimConfig(schedule="exponential", decay_epochs=(1.0, 2.0)), "decay_epochs"),
        (OptimConfig(schedule="piecewise"), "decay_epochs"),
    ],
)
def test_values_that_do_not_go_together_are_refused(together, named):
    with pytest.raises(UserError, match=named):
        checks.check(TrainConfig("dense", optimizer=together), IMAGE_SHAPE)


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd", "rmsprop", "adadelta"])
def test_defaults_are_possible_and_kerass(name):
    learning_rates = {"adam": 0.001, "adamw": 0.001, "sgd": 0.01, "rmsprop": 0.001, "adadelta": 1.0}
    found = optim.default_config(name)
    assert (found.name, found.learning_rate) == (name, learning_rates[name])
    checks.check(TrainConfig("dense", optimizer=found), IMAGE_SHAPE)


def test_an_unknown_optimizer_has_no_defaults():
    with pytest.raises(UserError, match="lion"):
        optim.default_config("lion")


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
        checks.check_sweep(sweep, TrainConfig("dense"), IMAGE_SHAPE)


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
