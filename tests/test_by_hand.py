"""The network by hand against the Flax model: same weights, same keys, same numbers."""

import dataclasses
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.keras_vs_scratch import EXPERIMENT, SCRATCH
from mnistlab.comparison import spec
from mnistlab.data.batches import Batch
from mnistlab.errors import UserError
from mnistlab.nets import models
from mnistlab.training import by_hand, losses, optim, step

CONFIG = dataclasses.replace(SCRATCH, num_epochs=1)


@pytest.fixture
def batch():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (16, 28, 28, 1)).astype(np.uint8)
    weight = np.ones(16, np.float32)
    weight[-3:] = 0
    return Batch(jnp.asarray(image), jnp.asarray(rng.integers(0, 10, 16), jnp.int32), jnp.asarray(weight))


@pytest.fixture
def same_keys(monkeypatch):
    """Flax folds the module's path into its keys; here both sides use the key as it is."""
    monkeypatch.setattr(nn.Module, "make_rng", lambda self, name: self.scope.rngs[name].rng)


def flax_program():
    tx = optim.make_optimizer(CONFIG.optimizer, 1, 100)
    model = models.make_model(CONFIG.model, **dict(CONFIG.model_options))
    return step.make_step_functions(model, tx, losses.cross_entropy, CONFIG)


def both_states():
    plain, flax = by_hand.make_step_functions(CONFIG), flax_program()
    hand_state, flax_state = (jax.jit(lambda seed: made.init(seed, (28, 28, 1), {}))(3) for made in (plain, flax))  # noqa: B023
    names = sorted(flax_state.params)
    params = {
        names[0]: {"kernel": hand_state.params.hidden},
        names[1]: {"kernel": hand_state.params.output},
    }
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, flax_state.params)
    return plain, hand_state, flax, flax_state._replace(params=params, rng=hand_state.rng)


def test_training_equals_the_flax_model(batch, same_keys):
    plain, hand_state, flax, flax_state = both_states()
    hand_step, flax_step = jax.jit(plain.train_step), jax.jit(flax.train_step)
    for _ in range(5):
        hand_state, hand_sums = hand_step(hand_state, batch)
        flax_state, flax_sums = flax_step(flax_state, batch)
        np.testing.assert_allclose(hand_sums.loss, flax_sums.loss, rtol=1e-5)
        assert hand_sums.correct == flax_sums.correct
    for mine, theirs in zip(hand_state.params, flax_state.params.values(), strict=True):
        np.testing.assert_allclose(mine, theirs["kernel"], atol=2e-5)


def test_evaluation_drops_out_and_equals_the_flax_model(batch, same_keys):
    plain, hand_state, flax, flax_state = both_states()
    number = jnp.int32(2)
    hand_step = jax.jit(plain.eval_step)
    mine, theirs = hand_step(hand_state, batch, number), jax.jit(flax.eval_step)(flax_state, batch, number)
    np.testing.assert_allclose(mine.loss, theirs.loss, rtol=1e-5)
    other = hand_step(hand_state, batch, jnp.int32(3))
    assert abs(other.loss - mine.loss) > 1e-3


def test_glorot_bound_and_spread():
    kernel = np.asarray(by_hand.glorot_uniform(jax.random.key(0), 784, 512))
    bound = np.sqrt(6 / (784 + 512))
    assert np.abs(kernel).max() <= bound
    np.testing.assert_allclose(kernel.std(), bound / np.sqrt(3), rtol=0.01)


def test_dropout_keeps_the_mean():
    kept = np.asarray(by_hand.dropout(jnp.ones((200, 500)), 0.2, jax.random.key(1)))
    assert set(np.unique(kept)) == {np.float32(0), np.float32(1) / np.float32(1 - 0.2)}
    np.testing.assert_allclose(kept.mean(), 1, atol=0.01)


def test_has_the_reported_number_of_weights():
    state = by_hand.make_step_functions(CONFIG).init(jnp.uint32(0), (28, 28, 1), {})
    assert models.count_parameters(state.params) == 406_528


@pytest.mark.parametrize(
    "asked, word",
    [
        ({"overrides": {"optimizer": "sgd"}}, "optimizer"),
        ({"overrides": {"schedule": "warmup_cosine"}}, "schedule"),
        ({"overrides": {"weight_decay": 0.1}}, "optimizer"),
        ({"overrides": {"loss": "double_softmax"}}, "loss"),
        ({"sweep": {"weight_decay": (0.0, 0.1)}}, "weight_decay"),
        ({"overrides": {"learning_rate": 0.01, "dropout_rate": 0.3, "num_epochs": 2}}, None),
        ({"sweep": {"learning_rate": (0.01, 0.1)}}, None),
    ],
)
def test_what_the_program_would_not_heed_is_refused(asked, word):
    options = spec.Options(Path(), protocol="controlled", variants=("scratch",), **asked)
    if word is None:
        assert spec.resolve(EXPERIMENT, options)
        return
    with pytest.raises(UserError, match=f"variant scratch has a program of its own, without .*{word}"):
        spec.resolve(EXPERIMENT, options)
