"""The mean of the weights over the last steps: what it is, and that it is what is validated, tested and kept."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import training

from mnistlab.comparison import spec
from mnistlab.config import OptimConfig, TrainConfig
from mnistlab.data.batches import Batch
from mnistlab.errors import UserError
from mnistlab.nets import models
from mnistlab.nets.layers import BatchNorm, Dense, Dropout, Flatten
from mnistlab.training import averaging, by_hand, losses, step
from mnistlab.training.callbacks import Checkpoint

NET = models.Network((Flatten(), Dense(8, "relu"), BatchNorm(), Dropout(0.25), Dense(10)))
CONFIG = TrainConfig("dense", batch_size=64, num_epochs=3, optimizer=OptimConfig("adam", 1e-2), average_epochs=0.5)
SEEDS = (4, 5)


def same(got, expected, **tolerance):
    jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, **(tolerance or {"rtol": 0})), got, expected)


def test_it_is_the_exponential_mean_of_the_weights_after_each_step():
    steps = step.make_step_functions(NET, optax.sgd(0.1), losses.cross_entropy, TrainConfig("net"))
    kept = averaging.averaged(steps, 3.0)
    plain, state = (jax.jit(lambda seed: made.init(seed, (4, 4, 1), {}))(jnp.uint32(0)) for made in (steps, kept))  # noqa: B023
    same(averaging.evaluated(state).params, plain.params)
    seen = []
    for number in range(7):
        image = jax.random.randint(jax.random.key(number), (12, 4, 4, 1), 0, 256).astype(jnp.uint8)
        batch = Batch(image, jnp.arange(12, dtype=jnp.int32) % 10, jnp.ones(12))
        plain, _ = jax.jit(steps.train_step)(plain, batch)
        state, _ = jax.jit(kept.train_step)(state, batch)
        seen.append((plain.params, plain.model_state["batch_stats"]))
    same((state.params, state.model_state), (plain.params, plain.model_state))  # what is trained is as without
    share = np.exp((np.arange(7) - 6) / 3)
    share /= share.sum()
    expected = jax.tree.map(lambda *leaves: np.tensordot(share, np.asarray(leaves, np.float64), 1), *seen)
    found = averaging.evaluated(state)
    same((found.params, found.model_state["batch_stats"]), expected, rtol=1e-5, atol=1e-6)
    assert found.model_state["settings"] == state.model_state["settings"]


@pytest.fixture(scope="module")
def whole(dataset):
    """Two seeds, and the snapshots after each epoch."""
    seen = []
    result = training.run(
        CONFIG, dataset, SEEDS, model=NET, on_epoch=lambda epoch: seen.append(jax.device_get(epoch.snapshot.carry))
    )
    return result, seen


def test_the_mean_is_what_is_validated_tested_and_kept(dataset, whole):
    result, seen = whole
    same(result.state.params, seen[-1].state.opt_state.params)
    same(result.state.model_state["batch_stats"], seen[-1].state.opt_state.batch_stats["batch_stats"])
    same(result.metrics["val_loss"], result.history["val_loss"][:, -1], rtol=1e-6)
    for run in range(len(SEEDS)):
        best = int(result.metrics["best_epoch"][run]) - 1
        same(*(jax.tree.map(lambda leaf: leaf[run], tree)  # noqa: B023
               for tree in (result.best.params, seen[best].state.opt_state.params)))  # fmt: skip
    without = training.run(dataclasses.replace(CONFIG, average_epochs=0.0), dataset, SEEDS, model=NET)
    same(without.history["train_loss"], result.history["train_loss"], rtol=1e-6)  # what is trained is as without
    assert (without.history["val_loss"] != result.history["val_loss"]).all()


def test_early_stopping_restores_the_mean_of_the_best_epoch(dataset):
    label = np.random.default_rng(0).permutation(dataset.test.label)
    unlearnable = dataclasses.replace(dataset, test=dataset.test._replace(label=label))
    seen = []
    result = training.run(
        dataclasses.replace(CONFIG, patience_epochs=2, num_epochs=8), unlearnable, (0,), model=NET,
        on_epoch=lambda epoch: seen.append(jax.device_get(epoch.snapshot.carry.state.opt_state.params)),
    )  # fmt: skip
    best = int(result.metrics["best_epoch"][0])
    assert best < result.metrics["num_epochs"][0] < 8
    same(result.state.params, seen[best - 1])
    same(result.metrics["val_loss"], [np.nanmin(result.history["val_loss"])], rtol=1e-6)


class Interrupted(Exception):
    pass


def test_an_interrupted_run_continues_with_the_same_bits(dataset, whole, tmp_path):
    def interrupt(epoch):
        if epoch.number == 2:
            raise Interrupted

    with pytest.raises(Interrupted):
        training.run(CONFIG, dataset, SEEDS, model=NET, callbacks=[Checkpoint(tmp_path, str)], on_epoch=interrupt)
    resumed = training.run(CONFIG, dataset, SEEDS, model=NET, callbacks=[Checkpoint(tmp_path, str)])
    for name in ("state", "best", "history", "metrics"):
        same(getattr(resumed, name), getattr(whole[0], name))


def test_a_seed_alone_is_the_seed_in_a_population_and_in_a_sweep(dataset, whole):
    alone = training.run(CONFIG, dataset, SEEDS[1:], model=NET, sweep={"learning_rate": (1e-2,)})
    same(alone.metrics["val_loss"], whole[0].metrics["val_loss"][1:], rtol=1e-5)
    same(alone.state.params, training.select(whole[0], [1]).state.params, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("setting", ["label_smoothing", "average_epochs"])
def test_a_program_of_its_own_is_told_that_it_has_none(tmp_path, setting):
    variant = spec.Variant("mlp512", program=by_hand.make_step_functions)
    experiment = spec.Experiment("mine", controlled={"a": variant})
    options = spec.Options(tmp_path, "controlled", overrides={setting: 0.1})
    with pytest.raises(UserError, match=f"without {setting}"):
        spec.resolve(experiment, options)
