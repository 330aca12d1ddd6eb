import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mnistlab.config import OptimConfig
from mnistlab.training import optim

NUM_STEPS = 20


def gradients():
    """float32 [steps, 6]: from 1e-8, where epsilon decides, to 10."""
    rng = np.random.default_rng(0)
    return (rng.normal(0, 1, (NUM_STEPS, 6)) * 10.0 ** np.arange(-8, 4, 2)).astype(np.float32)


def initial():
    return np.random.default_rng(1).normal(0, 0.1, 6).astype(np.float32)


def trained(tx, params, opt_state=None):
    """The parameters after each step, float32 [steps, 6]."""

    def step(carry, gradient):
        params, state = carry
        tree = {"kernel": gradient[:4].reshape(2, 2), "bias": gradient[4:]}
        updates, state = tx.update(tree, state, params)
        params = optax.apply_updates(params, updates)
        return (params, state), jnp.concatenate([params["kernel"].ravel(), params["bias"]])

    tree = {"kernel": params[:4].reshape(2, 2), "bias": params[4:]}
    carry = (tree, tx.init(tree) if opt_state is None else opt_state(tx.init(tree)))
    return jax.lax.scan(step, carry, jnp.asarray(gradients()))[1]


def keras_adam(p, lr, weight_decay=0.0):
    m = v = 0.0
    for t, g in enumerate(gradients().astype(np.float64), 1):
        m = 0.9 * m + 0.1 * g
        v = 0.999 * v + 0.001 * g**2
        lr_t = lr * math.sqrt(1 - 0.999**t) / (1 - 0.9**t)
        p = p - lr * weight_decay * p
        p = p - lr_t * m / (np.sqrt(v) + 1e-7)
        yield p


def keras_sgd(p, lr, momentum):
    velocity = 0.0
    for g in gradients().astype(np.float64):
        velocity = momentum * velocity - lr * g
        p = p + velocity
        yield p


def keras_rmsprop(p, lr):
    v = 0.0
    for g in gradients().astype(np.float64):
        v = 0.9 * v + 0.1 * g**2
        p = p - lr * g / (np.sqrt(v) + 1e-7)
        yield p


def keras_adadelta(p, lr):
    accumulated_gradient = accumulated_change = 0.0
    for g in gradients().astype(np.float64):
        accumulated_gradient = 0.95 * accumulated_gradient + 0.05 * g**2
        change = -np.sqrt(accumulated_change + 1e-7) / np.sqrt(accumulated_gradient + 1e-7) * g
        accumulated_change = 0.95 * accumulated_change + 0.05 * change**2
        p = p + lr * change
        yield p


@pytest.mark.parametrize(
    "config, keras",
    [
        (OptimConfig("adam", 1e-2), lambda p: keras_adam(p, 1e-2)),
        (OptimConfig("adamw", 1e-2, weight_decay=0.5), lambda p: keras_adam(p, 1e-2, 0.5)),
        (OptimConfig("sgd", 1e-2), lambda p: keras_sgd(p, 1e-2, 0.0)),
        (OptimConfig("sgd", 1e-2, momentum=0.9), lambda p: keras_sgd(p, 1e-2, 0.9)),
        (OptimConfig("rmsprop", 1e-2), lambda p: keras_rmsprop(p, 1e-2)),
        (OptimConfig("adadelta", 1.0), lambda p: keras_adadelta(p, 1.0)),
    ],
    ids=["adam", "adamw", "sgd", "momentum", "rmsprop", "adadelta"],
)
def test_optimizers_equal_kerass_formulas(config, keras):
    got = trained(optim.make_optimizer(config, 1, NUM_STEPS), jnp.asarray(initial()))
    expected = np.array(list(keras(initial().astype(np.float64))))
    np.testing.assert_allclose(np.asarray(got) - initial(), expected - initial(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "config, expected",
    [
        (OptimConfig(), {0: 1, 17: 1, 50: 1}),
        (OptimConfig(schedule="warmup_cosine", warmup_epochs=2), {0: 0, 10: 0.5, 20: 1, 35: 0.5, 50: 0}),
        (OptimConfig(schedule="warmup_cosine"), {0: 1, 25: 0.5, 50: 0}),
        (OptimConfig(schedule="exponential", decay_epochs=(2,)), {0: 1, 10: math.sqrt(0.1), 20: 0.1, 40: 0.01}),
        (
            OptimConfig(schedule="piecewise", decay_factor=0.5, decay_epochs=(2, 4)),
            {0: 1, 19: 1, 20: 0.5, 39: 0.5, 40: 0.25, 50: 0.25},
        ),
        (OptimConfig(schedule="one_cycle", warmup_epochs=1), {0: 1 / 25, 10: 1, 30: 0.5 + 2e-6, 50: 4e-6}),
        (OptimConfig(schedule="one_cycle"), {0: 1 / 25, 15: 1, 50: 4e-6}),
    ],
    ids=["constant", "warmup_cosine", "cosine", "exponential", "piecewise", "one_cycle", "one_cycle_default"],
)
def test_schedules_are_in_epochs(config, expected):
    schedule = optim.make_schedule(config, num_epochs=5, steps_per_epoch=10)
    got = jax.jit(jax.vmap(schedule))(jnp.array(list(expected)))
    np.testing.assert_allclose(got, list(expected.values()), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("schedule", ["constant", "warmup_cosine", "exponential", "piecewise", "one_cycle"])
@pytest.mark.parametrize("num_epochs, steps_per_epoch", [(1, 1), (4, 30)])
def test_schedules_stay_between_zero_and_one(schedule, num_epochs, steps_per_epoch):
    config = OptimConfig(schedule=schedule, warmup_epochs=5, decay_epochs=(0.5,))
    schedule = jax.jit(jax.vmap(optim.make_schedule(config, num_epochs, steps_per_epoch)))
    values = schedule(jnp.arange(num_epochs * steps_per_epoch))
    assert ((values >= 0) & (values <= 1 + 1e-6)).all()


def test_two_drops_within_one_step_count_twice():
    config = OptimConfig(schedule="piecewise", decay_factor=0.5, decay_epochs=(1.0, 1.01))
    assert math.isclose(optim.make_schedule(config, 3, 10)(jnp.asarray(20)), 0.25, rel_tol=1e-6)


def test_the_schedule_multiplies_the_learning_rate():
    config = OptimConfig("sgd", 0.5, schedule="piecewise", decay_factor=0.1, decay_epochs=(1,))
    got = trained(optim.make_optimizer(config, 2, NUM_STEPS // 2), jnp.asarray(initial()))
    rate = np.where(np.arange(NUM_STEPS) < NUM_STEPS // 2, 0.5, 0.05)
    expected = initial() - np.cumsum(rate[:, None] * gradients().astype(np.float64), axis=0)
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "base, name, values",
    [
        (OptimConfig("adam", 1e-3), "learning_rate", [1e-4, 1e-2, 0.3]),
        (OptimConfig("sgd", 1e-2, momentum=0.5), "momentum", [0.0, 0.9]),
        (OptimConfig("adamw", 1e-2, weight_decay=0.1), "weight_decay", [0.0, 0.5]),
    ],
    ids=["learning_rate", "momentum", "weight_decay"],
)
def test_settings_under_vmap_equal_optimizers_made_with_them(base, name, values):
    tx = optim.make_optimizer(base, 1, NUM_STEPS)
    params = jnp.asarray(initial())

    def with_value(value):
        return trained(tx, params, lambda state: optim.with_settings(state, {name: value}))

    together = jax.vmap(with_value)(jnp.array(values))
    for got, value in zip(together, values, strict=True):
        config = OptimConfig(**{**vars(base), name: value})
        alone = trained(optim.make_optimizer(config, 1, NUM_STEPS), params)
        np.testing.assert_allclose(got, alone, rtol=1e-6, atol=1e-7)
    assert not np.allclose(together[0], together[1], atol=1e-3)


def test_settings_of_others_leave_the_optimizer_alone():
    state = optim.make_optimizer(OptimConfig(), 1, 1).init({"kernel": jnp.ones(2)})
    assert optim.with_settings(state, {"dropout_rate": jnp.ones([])}) is state
