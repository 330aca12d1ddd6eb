"""Which operation made the first NaN. Oracles: functions of which it is known, and a network broken on purpose."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import training
from flax import linen as nn

from mnistlab.config import OptimConfig, TrainConfig
from mnistlab.training import loop, nans
from mnistlab.training.callbacks import Checkpoint
from mnistlab.training.nans import NanCheck

CONFIG = TrainConfig("dense", batch_size=100, num_epochs=2, optimizer=OptimConfig("sgd", 0.05))
X = jnp.array([0.0, 1.0, 4.0])


class Breaks(nn.Module):
    """Softmax regression whose layer `broken` takes the logarithm of a negative number once a step was too large."""

    @nn.compact
    def __call__(self, image):
        x = nn.Dense(10, name="sound")(image.reshape(len(image), -1))
        return Logarithm(name="broken")(x)


class Logarithm(nn.Module):
    """Its bias starts at 1 and leaves the logarithm's domain when a step is large."""

    @nn.compact
    def __call__(self, x):
        bias = self.param("bias", nn.initializers.ones, (10,))
        return x + jnp.log(bias)[None]


@pytest.mark.parametrize(
    "function, kind, operation",
    [
        (lambda x: jnp.log(x) * 2, "infinity", "log"),
        (lambda x: (x - x) / (x - x), "NaN", "div"),
        (lambda x: jnp.exp(x * 100), "infinity", "exp"),
        (lambda x: jnp.exp(x * 100) - jnp.exp(x * 100), "infinity", "exp"),  # before the NaN, which came of it
        (jax.jit(lambda x: jnp.sqrt(x - 1)), "NaN", "sqrt"),
        (lambda x: jax.nn.relu(x) / 0.0, "NaN", "div"),  # 0 / 0; relu is a call of its own
        (lambda x: jnp.where(x > 0, x, -jnp.inf).max() + jnp.log(x[0] - 1), "NaN", "log"),  # that -inf is masked away
        (lambda x: jax.lax.scan(lambda s, v: (s / v, s), 1.0, x)[0], "infinity", "scan"),
    ],
)
def test_the_operation_is_named(function, kind, operation):
    made = nans.first_nonfinite(function, X)
    assert made.startswith(f"{kind}, made by {operation}")
    assert "tests/test_nans.py:" in made


def test_a_gradient_is_called_backward_and_its_layer_is_named():
    class Steep(nn.Module):
        @nn.compact
        def __call__(self, x):
            return x * 1e30 * 1e30  # 0 at 0, where its slope is out of range

    class Root(nn.Module):
        @nn.compact
        def __call__(self, x):
            return Steep(name="steep")(x)

    made = nans.first_nonfinite(jax.grad(lambda x: Root().apply({}, x)), 0.0)
    assert made.startswith("infinity, made by mul of layer steep, backward, tests/test_nans.py:")


def test_a_finite_function_and_nan_arguments_are_told():
    assert "in what the step began with" in nans.first_nonfinite(lambda x: x + 1, X / 0)


def watched(dataset, folder, seeds=(0, 1), **options):
    """Training under a NanCheck."""
    config = dataclasses.replace(CONFIG, model=Breaks())
    check = NanCheck(config, dataset, loop.step_functions_of(config, dataset))
    return training.run(config, dataset, seeds, callbacks=[check, Checkpoint(folder, str)], **options)


def test_a_run_that_diverges_ends_with_its_seed_step_layer_and_line(dataset, tmp_path):
    with pytest.raises(FloatingPointError) as caught:
        watched(dataset, tmp_path, sweep={"learning_rate": (0.05, 50.0)})
    text = str(caught.value)
    assert text.startswith("the first NaN, made by log of layer broken, forward, tests/test_nans.py:")
    assert "seed 0, learning_rate 50, epoch 1, step 2; 2 of 4 runs" in text and "\n" not in text
    assert not [path for path in tmp_path.rglob("*") if path.name.isdecimal()]  # of that epoch nothing is kept


def test_watching_changes_no_bit_and_keeps_every_epoch(dataset, tmp_path):
    seen = watched(dataset, tmp_path)
    plain = training.run(CONFIG, dataset, (0, 1), model=Breaks())
    for name, values in plain.history.items():
        np.testing.assert_array_equal(seen.history[name], values)
    assert {path.name for path in (tmp_path / "seeds_0-1").iterdir()} >= {"1", "2"}
    resumed = watched(dataset, tmp_path)
    np.testing.assert_array_equal(resumed.history["val_loss"], seen.history["val_loss"])


def test_without_validation_examples_nothing_of_them_is_missed(dataset, tmp_path):
    config = dataclasses.replace(CONFIG, model=Breaks(), split="own")
    seen = training.run(config, dataset, callbacks=[NanCheck(config, dataset, loop.step_functions_of(config, dataset))])
    assert np.isnan(seen.history["val_loss"]).all() and np.isfinite(seen.history["train_loss"]).all()
    with pytest.raises(FloatingPointError, match="made by log of layer broken"):
        training.run(
            dataclasses.replace(config, optimizer=OptimConfig("sgd", 50.0)),
            dataset,
            callbacks=[NanCheck(config, dataset, loop.step_functions_of(config, dataset))],
        )


def test_an_optimiser_that_begins_with_an_infinity(dataset, tmp_path):
    """optax's reduce_on_plateau does, and keeps it for more steps than these epochs have."""
    plateau = optax.contrib.reduce_on_plateau(patience=1, accumulation_size=1000)

    def train(rate):
        config = dataclasses.replace(CONFIG, model=Breaks(), optimizer=optax.chain(optax.sgd(rate), plateau))
        check = NanCheck(config, dataset, loop.step_functions_of(config, dataset))
        return training.run(config, dataset, callbacks=[check])

    assert np.isfinite(train(0.05).history["train_loss"]).all()
    with pytest.raises(FloatingPointError, match="made by log of layer broken, forward"):
        train(50.0)


def test_a_streamed_dataset_is_not_loaded_to_find_it(dataset, tmp_path, monkeypatch):
    monkeypatch.setattr("mnistlab.data.batches.make_pool", None)
    with pytest.raises(FloatingPointError, match=r"made by log of layer broken, forward.*step 2"):
        watched(dataset, tmp_path, sweep={"learning_rate": (50.0,)}, stream_megabytes=1)
