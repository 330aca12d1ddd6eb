import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hypothesis_numpy

from mnistlab.config import TrainConfig
from mnistlab.data.batches import Batch
from mnistlab.nets import models
from mnistlab.training import losses, step

FLOOR = math.log(1 + 9 / math.e)
ROUNDING = 5e-7  # a few units in the last place of a float32 near 1.5

logit_rows = hypothesis_numpy.arrays(np.float32, (4, 10), elements=st.floats(-1e4, 1e4, width=32))
label_rows = hypothesis_numpy.arrays(np.int32, 4, elements=st.integers(0, 9))


def softmax64(logits):
    power = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return power / power.sum(axis=-1, keepdims=True)


def cross_entropy64(logits, label):
    logits = np.asarray(logits, np.float64)
    largest = logits.max(axis=-1)
    log_sum = largest + np.log(np.exp(logits - largest[:, None]).sum(axis=-1))
    return log_sum - logits[np.arange(len(label)), label]


def double_softmax64(logits, label):
    return cross_entropy64(softmax64(np.asarray(logits, np.float64)), label)


@settings(max_examples=30, deadline=None)
@given(logit_rows, label_rows)
def test_cross_entropy_equals_float64(logits, label):
    scale = 1 + np.abs(logits).max()
    np.testing.assert_allclose(losses.cross_entropy(logits, label), cross_entropy64(logits, label), atol=1e-6 * scale)


@settings(max_examples=30, deadline=None)
@given(logit_rows, label_rows)
def test_double_softmax_never_falls_under_its_floor(logits, label):
    value = np.asarray(losses.double_softmax_cross_entropy(jnp.asarray(logits), label))
    assert (value >= FLOOR - ROUNDING).all()
    np.testing.assert_allclose(value, double_softmax64(logits, label), atol=2e-6)


def test_double_softmax_comes_down_to_its_floor():
    logits = 30.0 * jnp.eye(10)
    value = losses.double_softmax_cross_entropy(logits, jnp.arange(10))
    np.testing.assert_allclose(value, FLOOR, atol=ROUNDING)
    assert math.isclose(FLOOR, 1.4612, abs_tol=5e-5)


def test_double_softmax_gradient_equals_central_differences():
    rng = np.random.default_rng(0)
    logits, label = rng.normal(0, 2, (3, 10)), np.array([0, 4, 9])
    step = 1e-5
    expected = np.zeros_like(logits)
    for place in np.ndindex(logits.shape):
        change = np.zeros_like(logits)
        change[place] = step
        difference = double_softmax64(logits + change, label).sum() - double_softmax64(logits - change, label).sum()
        expected[place] = difference / (2 * step)
    got = jax.grad(lambda z: losses.double_softmax_cross_entropy(z, label).sum())(jnp.asarray(logits, jnp.float32))
    np.testing.assert_allclose(got, expected, atol=1e-7)


@settings(max_examples=30, deadline=None)
@given(logit_rows, label_rows)
def test_categorical_equals_integer_labels(logits, label):
    one_hot = np.eye(10, dtype=np.float32)[label]
    integer = losses.cross_entropy(jnp.asarray(logits), label)
    np.testing.assert_array_equal(losses.categorical_cross_entropy(jnp.asarray(logits), jnp.asarray(one_hot)), integer)
    np.testing.assert_array_equal(losses.LOSSES["categorical"](jnp.asarray(logits), label), integer)


def test_categorical_takes_soft_targets():
    logits = jnp.log(jnp.array([[0.2, 0.3, 0.5]]))
    expected = -(0.5 * math.log(0.2) + 0.5 * math.log(0.5))
    np.testing.assert_allclose(
        losses.categorical_cross_entropy(logits, jnp.array([[0.5, 0.0, 0.5]])), [expected], rtol=1e-6
    )


@pytest.mark.parametrize("name", losses.LOSSES)
def test_every_loss_stays_finite_at_extreme_logits(name):
    value = losses.LOSSES[name](jnp.array([[3e38, -3e38, 0.0]]), jnp.array([0]))
    assert np.isfinite(value).all()


def test_sums_count_by_weight():
    logits = jnp.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    label = jnp.array([0, 1, 1, 0])  # right, wrong, right, wrong
    total = losses.sums(jnp.array([1.0, 2.0, 4.0, 8.0]), logits, label, jnp.array([1.0, 1.0, 1.0, 0.0]))
    assert [float(value) for value in total[:3]] == [7.0, 2.0, 3.0]
    loss, accuracy = losses.means(total)
    assert math.isclose(loss, 7 / 3, rel_tol=1e-6) and math.isclose(accuracy, 2 / 3, rel_tol=1e-6)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_logit_that_is_not_finite_has_no_accuracy_unless_it_only_fills_the_batch(bad):
    logits, label, loss = jnp.array([[1.0, 0.0], [0.0, bad]]), jnp.array([0, 0]), jnp.ones(2)  # a loss may hide it
    counted = losses.sums(loss, logits, label, jnp.array([1.0, 1.0]))
    assert np.isnan(losses.means(counted)).all()
    padded = losses.sums(loss, logits, label, jnp.array([1.0, 0.0]))
    np.testing.assert_array_equal(losses.means(padded), [1.0, 1.0])
    np.testing.assert_array_equal(losses.means(losses.Sums(np.inf, 1.0, 2.0)), [np.nan, np.nan])


@pytest.mark.parametrize("name", ["cross_entropy", "double_softmax"])
def test_smoothing_mixes_in_the_mean_loss_over_all_classes(name):
    loss = losses.LOSSES[name]
    logits = jnp.asarray(np.random.default_rng(0).normal(0, 2, (5, 10)), jnp.float32)
    label = jnp.arange(5)
    every = jnp.stack([loss(logits, jnp.full(5, k)) for k in range(10)]).mean(axis=0)
    smoothed = losses.smoothed(loss, 0.1)
    np.testing.assert_allclose(smoothed(logits, label), 0.9 * loss(logits, label) + 0.1 * every, rtol=1e-5)
    np.testing.assert_array_equal(smoothed(logits, jax.nn.one_hot(label, 10)), smoothed(logits, label))
    assert losses.smoothed(loss, 0.0) is loss  # so that nothing of the program changes


def test_training_alone_is_smoothed():
    net = models.make_model("dense")
    smooth, plain = (
        step.make_step_functions(net, optax.sgd(0.1), losses.cross_entropy, TrainConfig("dense", label_smoothing=share))
        for share in (0.1, 0.0)
    )
    state = smooth.init(jnp.uint32(0), (4, 4, 1), {})
    image = jax.random.randint(jax.random.key(1), (6, 4, 4, 1), 0, 256).astype(jnp.uint8)
    batch = Batch(image, jnp.arange(6, dtype=jnp.int32), jnp.ones(6))
    logits = smooth.predict(state, image)
    expected = losses.categorical_cross_entropy(logits, optax.smooth_labels(jax.nn.one_hot(batch.label, 10), 0.1))
    _, seen = smooth.train_step(state, batch)
    np.testing.assert_allclose(seen.loss, expected.sum(), rtol=1e-5)
    assert seen.correct == plain.train_step(state, batch)[1].correct
    for made in (smooth, plain):
        np.testing.assert_allclose(
            made.eval_step(state, batch, jnp.int32(0)).loss, losses.cross_entropy(logits, batch.label).sum(), rtol=1e-5
        )
