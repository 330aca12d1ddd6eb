"""What a script adds to a registry can be named, trained and swept; an augmentation fits its images."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest
import training

from mnistlab.config import AugmentConfig, OptimConfig, TrainConfig
from mnistlab.errors import UserError
from mnistlab.nets.layers import Dense, Flatten
from mnistlab.nets.models import MODELS
from mnistlab.training import checks
from mnistlab.training.losses import LOSSES
from mnistlab.training.optim import OPTIMIZERS, SCHEDULES, Optimizer

IMAGE_SHAPE = (28, 28, 1)


def hinge(logits, label):
    right = jnp.take_along_axis(logits, label[:, None], 1)
    return jnp.maximum(0, 1 + logits - right).sum(1) - 1


def lion():
    return Optimizer(lambda momentum: optax.scale_by_lion(), OptimConfig("lion", 1e-3), ("weight_decay",))


def halves(steps, factor):
    return optax.piecewise_constant_schedule(1.0, {steps.total // 2: factor})


def test_names_that_a_script_adds_train(monkeypatch, dataset):
    own = OptimConfig("lion", 1e-3, weight_decay=0.1, schedule="halves")
    config = TrainConfig("small", loss="hinge", optimizer=own, batch_size=100, num_epochs=2)
    for registry, name, value, refusal in (
        (OPTIMIZERS, "lion", lion(), "optimizer is 'lion'"),
        (SCHEDULES, "halves", halves, "schedule is 'halves'"),
        (LOSSES, "hinge", hinge, "loss is 'hinge'"),
        (MODELS, "small", (Flatten(), Dense(10)), "unknown model 'small'"),
    ):
        with pytest.raises(UserError, match=refusal):
            training.run(config, dataset)
        monkeypatch.setitem(registry, name, value)
    result = training.run(config, dataset, sweep={"weight_decay": [0.0, 100.0]})
    free, decayed = np.abs(result.state.params["dense_1"]["kernel"]).mean(axis=(1, 2))
    assert np.isfinite(result.history["train_loss"]).all() and decayed < 0.9 * free


def test_an_optimizer_says_which_settings_it_uses(monkeypatch):
    monkeypatch.setitem(OPTIMIZERS, "lion", lion())
    checks.check(TrainConfig("dense", optimizer=OptimConfig("lion", weight_decay=0.1)), IMAGE_SHAPE)
    with pytest.raises(UserError, match="lion has none; use the optimizer sgd"):
        checks.check(TrainConfig("dense", optimizer=OptimConfig("lion", momentum=0.9)), IMAGE_SHAPE)
    with pytest.raises(UserError, match="adam has none; use the optimizer adamw or lion"):
        checks.check(TrainConfig("dense", optimizer=OptimConfig("adam", weight_decay=0.9)), IMAGE_SHAPE)


@pytest.mark.parametrize(
    "values, named",
    [
        ({"shift_pixels": 13}, "shift_pixels is 13; expected at most 12"),
        ({"shift_pixels": 10**400}, "shift_pixels"),
        ({"cutout_pixels": 13}, "cutout_pixels"),
        ({"elastic_alpha_pixels": 121.0, "elastic_sigma_pixels": 4.0}, "elastic_alpha_pixels"),
        ({"elastic_alpha_pixels": 34.0, "elastic_sigma_pixels": 12.5}, "elastic_sigma_pixels"),
    ],
)
def test_an_augmentation_is_bounded_by_the_shorter_side_of_the_image(values, named):
    with pytest.raises(UserError, match=named) as caught:
        checks.check(TrainConfig("dense", augment=AugmentConfig(**values)), (12, 40, 3))
    assert "\n" not in str(caught.value)


def test_an_augmentation_may_reach_its_bounds():
    at_most = AugmentConfig(12, 180.0, 0.99, 120.0, 12.0, 12, 1.0)
    checks.check(TrainConfig("dense", augment=at_most), (12, 40, 3))
