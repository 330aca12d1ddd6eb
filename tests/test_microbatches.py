import json
import os
from pathlib import Path

import forks
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from mnistlab.config import TrainConfig
from mnistlab.data.batches import Batch
from mnistlab.nets import layers, models
from mnistlab.training import losses, microbatches, step

ROOT = Path(__file__).parents[1]


def batch_of(size):
    rng = np.random.default_rng(0)
    image = jnp.asarray(rng.integers(0, 256, (size, 28, 28, 1), dtype=np.uint8))
    weight = jnp.ones(size).at[-5:].set(0.0)
    return Batch(image, jnp.asarray(rng.integers(0, 10, size), jnp.int32), weight)


NETS = {
    "plain": (
        layers.Conv(4, 3, padding="SAME", activation="tanh"), layers.AvgPool(2), layers.Flatten(), layers.Dense(10),
    ),
    "dropout": (
        layers.Conv(4, 3, activation="relu"), layers.AvgPool(2), layers.Dropout(0.25), layers.Flatten(),
        layers.Dropout(0.5), layers.Dense(10),
    ),
}  # fmt: skip


def functions(net):
    model = models.make_model(net) if isinstance(net, str) else models.Network(net)
    return step.make_step_functions(model, optax.sgd(0.1), losses.cross_entropy, TrainConfig("dense"))


def state_of(steps):
    return jax.jit(lambda seed: steps.init(seed, (28, 28, 1), {}))(np.uint32(0))


@pytest.mark.parametrize("name", NETS)
def test_a_step_by_microbatches_is_the_step_of_the_whole_batch(monkeypatch, name):
    steps, batch = functions(NETS[name]), batch_of(192)  # halves of 96, in microbatches of 48
    state = state_of(steps)
    by_microbatches = jax.jit(lambda *args: steps.train_step(*args))(state, batch)
    monkeypatch.setattr(microbatches, "FEWEST_TO_HALVE", 1000)
    whole = jax.jit(lambda *args: steps.train_step(*args))(state, batch)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-6), by_microbatches, whole)
    assert by_microbatches[1].num_examples == 187


@pytest.mark.parametrize("nets", [("plain+", "dropout+"), pytest.param(("lenet5+",), marks=pytest.mark.peers)])
def test_the_bits_of_a_seed_do_not_depend_on_its_company(nets):
    """On two cores each half of a lone seed's batch has one, with others each seed; the rest of a batch is padded.

    Dropout has exact scales here, 2 and 4: a product with another is rounded as the machine fuses the loops around it.
    """
    environment = {"XLA_FLAGS": "--xla_force_host_platform_device_count=2", "JAX_PLATFORMS": "cpu"}
    done = forks.run("halves", nets, folder=ROOT / "tests", environ=os.environ | environment)
    assert done.returncode == 0, done.stderr
    for net, line in zip(nets, done.stdout.splitlines(), strict=True):
        alone = {"one_core": True} if net.endswith("+") else {}
        assert json.loads(line) == {"devices": [1, 2], "company": True, **alone}, net


def test_evaluation_by_halves_is_that_of_the_whole(monkeypatch):
    steps, batch = functions(NETS["plain"]), batch_of(250)
    state = state_of(steps)
    by_halves = jax.jit(lambda *args: steps.eval_step(*args))(state, batch, 0)
    monkeypatch.setattr(microbatches, "FEWEST_TO_HALVE", 1000)
    whole = jax.jit(lambda *args: steps.eval_step(*args))(state, batch, 0)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), by_halves, whole)


@pytest.mark.parametrize(
    ("name", "size", "halves"),
    [
        ("lenet5", 256, True),
        ("lenet5", 32, False),  # too few
        ("lenet5", 255, False),  # odd
        ("dense", 256, False),  # no convolution
        ("lenet5_relu_batchnorm", 256, False),  # statistics of the whole batch
        ("small_8k", 256, False),  # and inside its blocks too
    ],
)
def test_which_batches_are_halved(name, size, halves):
    model = models.make_model(name)
    assert microbatches.halves(model, losses.cross_entropy, size) is halves
    assert microbatches.halves(model, losses.smoothed(losses.cross_entropy, 0.1), size) is halves
    assert not microbatches.halves(model, losses.smoothed(balanced, 0.1), size)


def balanced(logits, label):
    """Weighs an example by how many of its class are in the batch."""
    return losses.cross_entropy(logits, label) / jnp.bincount(label, length=10)[label]


def test_a_loss_of_ones_own_sees_the_whole_batch():
    model, batch = models.Network(NETS["plain"]), batch_of(128)
    assert step.make_step_functions(model, optax.sgd(0.1), losses.cross_entropy, TrainConfig("dense")).halves(128)
    steps = step.make_step_functions(model, optax.sgd(0.1), balanced, TrainConfig("dense"))
    state = state_of(steps)
    loss = jax.jit(lambda state: steps.eval_step(state, batch, 0).loss)(state)
    expected = jnp.sum(batch.weight * balanced(steps.predict(state, batch.image), batch.label))
    assert not steps.halves(128) and float(loss) == pytest.approx(float(expected), rel=1e-5)


def test_a_batch_of_a_layer_of_ones_own_stays_whole(monkeypatch):
    """What is in it nobody knows: statistics of half a batch would be wrong, and their sum would grow without end."""

    class Block(layers.Layer):
        @nn.compact
        def __call__(self, x, context, cell):
            return layers.BatchNorm()(x, context, cell)

    monkeypatch.setitem(models.MODELS, "mine", (layers.Conv(4, 3), Block(), layers.Flatten(), layers.Dense(10)))
    steps, batch = functions("mine"), batch_of(128)
    assert not steps.halves(128)
    state, _ = jax.jit(steps.train_step)(state_of(steps), batch)
    moving = state.model_state["batch_stats"]["block_1"]["BatchNorm_0"]["var"]
    assert np.all(np.asarray(moving) < 1.0) and np.all(np.asarray(moving) > 0.98)  # 0.99 of 1, and of small variances


@pytest.mark.parametrize("num_examples", [1, 97, 125, 128, 27000, 100])
def test_microbatches_divide_their_half(num_examples):
    size = microbatches.microbatch_size(num_examples)
    assert num_examples % size == 0
    assert size == num_examples or microbatches.FEWEST_EXAMPLES <= size <= microbatches.MOST_EXAMPLES
