import contextlib
import dataclasses
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import training
from flax import linen as nn

from mnistlab.analysis import history
from mnistlab.config import OptimConfig, TrainConfig
from mnistlab.data import batches
from mnistlab.errors import UserError
from mnistlab.nets import models
from mnistlab.nets.layers import BatchNorm, Dense, Dropout, Flatten
from mnistlab.training import executables, population, sizing
from mnistlab.training.callbacks import Checkpoint
from mnistlab.training.executables import Executables
from mnistlab.training.result import Record, Run
from mnistlab.training.sizing import PopulationSize

SMALL = models.Network((Flatten(), Dense(8, "relu"), BatchNorm(), Dropout(0.25), Dense(10)))
CONFIG = TrainConfig("dense", batch_size=64, num_epochs=3, optimizer=OptimConfig("adam", 1e-2))  # 200 = 3 * 64 + 8


class Linear(nn.Module):
    """Softmax regression, which NumPy repeats in a few lines."""

    @nn.compact
    def __call__(self, image):
        return nn.Dense(10)(image.reshape(len(image), -1))


def sgd(learning_rate=0.05, **changes):
    return dataclasses.replace(CONFIG, optimizer=OptimConfig("sgd", learning_rate), **changes)


def leaves(tree):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]


def same(got, expected, tolerance=0.0):
    """The same numbers, to the bit unless a tolerance is given."""
    for one, other in zip(leaves(got), leaves(expected), strict=True):
        if tolerance:
            np.testing.assert_allclose(one, other, rtol=tolerance, atol=tolerance)
        else:
            np.testing.assert_array_equal(one, other)


def learned(result):
    """What must not depend on how the runs were trained: all but the seconds."""
    return result.state, result.best, result.history, result.metrics


@pytest.fixture(scope="module")
def three_seeds(dataset):
    return training.run(CONFIG, dataset, (4, 5, 6), model=SMALL)


# Populations


def test_a_seed_in_a_population_equals_the_seed_alone(dataset, three_seeds):
    alone = training.run(CONFIG, dataset, (5,), model=SMALL)
    same(learned(alone), learned(training.select(three_seeds, [1])), 1e-5)
    assert len({loss.tobytes() for loss in three_seeds.history["train_loss"]}) == 3


def test_cutting_the_seeds_into_populations_changes_nothing(dataset, three_seeds):
    same(learned(training.run(CONFIG, dataset, (4, 5, 6), model=SMALL, population_size=2)), learned(three_seeds), 1e-5)


def test_a_population_learns(three_seeds):
    assert (three_seeds.history["train_loss"][:, -1] < 0.8 * three_seeds.history["train_loss"][:, 0]).all()
    assert three_seeds.runs == tuple(Run(seed, {}) for seed in (4, 5, 6))


def test_final_metrics_belong_together(three_seeds):
    metrics = three_seeds.metrics
    for name in ("val_loss", "val_accuracy", "train_loss", "train_accuracy"):
        np.testing.assert_allclose(metrics[name], three_seeds.history[name][:, -1], rtol=1e-6)
    gap = metrics["final_train_accuracy"] - metrics["val_accuracy"]
    np.testing.assert_array_equal(metrics["overfitting_gap"], gap)
    assert metrics["num_epochs"].tolist() == [3, 3, 3]
    np.testing.assert_array_equal(metrics["best_epoch"], three_seeds.history["val_accuracy"].argmax(axis=1) + 1)


def test_different_validation_sets_are_each_seeds_own(dataset):
    split = dataclasses.replace(CONFIG, split="random_80_20", num_epochs=2)
    together = training.run(split, dataset, (0, 1), model=Linear())
    same(learned(training.run(split, dataset, (1,), model=Linear())), learned(training.select(together, [1])), 1e-5)


# An independent loop


def softmax_regression(dataset, train_config, seed, kernel, bias):
    """The Record of each epoch, in float64 NumPy."""
    parts = batches.split_parts(train_config, dataset, seed)
    pool = batches.make_pool(dataset)
    x = pool.image.reshape(len(pool.image), -1) / 255

    def look(examples):
        logits = x[examples] @ kernel + bias
        power = np.exp(logits - logits.max(axis=1, keepdims=True))
        probability = power / power.sum(axis=1, keepdims=True)
        label = pool.label[examples]
        loss = -np.log(probability[np.arange(len(label)), label])
        return probability - np.eye(10)[label], loss.sum(), (logits.argmax(axis=1) == label).sum()

    for epoch in range(train_config.num_epochs):
        order = batches.epoch_order(parts.train, train_config.batch_size, seed, epoch)
        loss = correct = 0
        for row, weight in zip(order.example, order.weight, strict=True):
            examples = row[weight > 0]
            error, batch_loss, batch_correct = look(examples)
            loss, correct = loss + batch_loss, correct + batch_correct
            kernel = kernel - train_config.optimizer.learning_rate * x[examples].T @ error / len(examples)
            bias = bias - train_config.optimizer.learning_rate * error.sum(axis=0) / len(examples)
        _, val_loss, val_correct = look(parts.val)
        n, n_val = len(parts.train), len(parts.val)
        yield loss / n, correct / n, val_loss / n_val, val_correct / n_val


@pytest.fixture(scope="module")
def linear(dataset):
    """Seeds 0 and 1 of softmax regression at two learning rates, and the parameters after each epoch."""
    seen = []
    result = training.run(
        sgd(),
        dataset,
        (0, 1),
        model=Linear(),
        sweep={"learning_rate": (0.05, 0.02)},
        on_epoch=lambda epoch: seen.append((epoch.number, jax.device_get(epoch.snapshot.carry.state.params))),
    )
    return result, seen


@pytest.mark.parametrize("number", range(4))
def test_history_equals_a_plain_loop(dataset, linear, number):
    result, _ = linear
    seed, settings = result.runs[number]
    rng, _ = jax.random.split(jax.random.key(seed))
    params = Linear().init(rng, jnp.zeros((1, 28, 28, 1)))["params"]["Dense_0"]
    kernel, bias = (np.asarray(params[name], np.float64) for name in ("kernel", "bias"))
    expected = np.array(list(softmax_regression(dataset, sgd(settings["learning_rate"]), seed, kernel, bias)))
    got = np.stack([result.history[name][number] for name in Record._fields], axis=1)
    np.testing.assert_allclose(got, expected, rtol=2e-5)


def test_a_sweep_equals_separate_runs(dataset, linear):
    result, _ = linear
    assert [tuple(run) for run in result.runs] == [
        (seed, {"learning_rate": rate}) for rate in (0.05, 0.02) for seed in (0, 1)
    ]
    alone = training.run(sgd(0.02), dataset, (1,), model=Linear())
    same(learned(alone), learned(training.select(result, [3])), 1e-5)


def test_on_epoch_sees_every_epoch_and_the_weights_after_it(linear):
    result, seen = linear
    assert [number for number, _ in seen] == [1, 2, 3]
    same(seen[-1][1], result.state.params)


# Compiling


@contextlib.contextmanager
def counted_compilations():
    names = []

    def listen(event, seconds, **rest):
        if event == "/jax/core/compile/backend_compile_duration":
            names.append(rest.get("fun_name", event))

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield names
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


def test_each_program_is_compiled_once(dataset):
    def run(num_epochs, num_seeds):
        with counted_compilations() as names:
            training.run(
                dataclasses.replace(CONFIG, num_epochs=num_epochs),
                dataset,
                range(num_seeds),
                model=Linear(),
                population_size=2,
            )
        return names

    run(4, 6)  # what JAX compiles once a process
    assert len(run(1, 2)) == 4  # init, fit, evaluate, finish
    assert len(run(4, 6)) == 4


# Continuing


class Interrupted(Exception):
    pass


@pytest.mark.parametrize("epoch", [1, 2])
def test_an_interrupted_run_continues_with_the_same_bits(dataset, three_seeds, tmp_path, epoch):
    def interrupt(seen):
        if seen.number == epoch:
            raise Interrupted

    with pytest.raises(Interrupted):
        training.run(CONFIG, dataset, (4, 5, 6), model=SMALL, callbacks=[Checkpoint(tmp_path, str)], on_epoch=interrupt)
    epochs = []
    resumed = training.run(
        CONFIG,
        dataset,
        (4, 5, 6),
        model=SMALL,
        callbacks=[Checkpoint(tmp_path, str)],
        on_epoch=lambda seen: epochs.append(seen.number),
    )
    assert epochs == list(range(epoch + 1, 4))
    same(learned(resumed), learned(three_seeds))
    assert np.isfinite(resumed.epoch_seconds).all()


def test_a_finished_run_is_not_trained_again(dataset, tmp_path):
    first = training.run(sgd(), dataset, (0,), model=Linear(), callbacks=[Checkpoint(tmp_path, str)])
    epochs = []
    again = training.run(
        sgd(), dataset, (0,), model=Linear(), callbacks=[Checkpoint(tmp_path, str)], on_epoch=epochs.append
    )
    assert epochs == []
    same((learned(again), again.epoch_seconds), (learned(first), first.epoch_seconds))


# Early stopping


NUM_STOPPING_EPOCHS = 12


@pytest.fixture(scope="module")
def stopped(dataset):
    """Four learning rates with patience 2 on validation labels that mean nothing: they stop at different epochs."""
    label = np.random.default_rng(0).permutation(dataset.test.label)
    unlearnable = dataclasses.replace(dataset, test=dataset.test._replace(label=label))
    seen = []
    result = training.run(
        sgd(patience_epochs=2, num_epochs=NUM_STOPPING_EPOCHS),
        unlearnable,
        (0,),
        model=Linear(),
        sweep={"learning_rate": (0.2, 0.02, 0.002, 1e-30)},
        on_epoch=lambda epoch: seen.append(jax.device_get(epoch.snapshot.carry.state.params)),
    )
    return result, seen


def stop_of(val_loss, patience):
    """(epochs trained, best epoch) by the rule: stop after `patience` epochs in a row without a new minimum."""
    best, best_epoch = np.inf, 0
    for epoch, loss in enumerate(val_loss, 1):
        if loss < best:
            best, best_epoch = loss, epoch
        elif epoch - best_epoch >= patience:
            return epoch, best_epoch
    return len(val_loss), best_epoch


def test_early_stopping_follows_the_rule(stopped):
    result, seen = stopped
    ends = []
    for number in range(4):
        val_loss = result.history["val_loss"][number]
        num_trained = int(np.isfinite(val_loss).sum())
        assert (num_trained, result.metrics["best_epoch"][number]) == stop_of(val_loss[:num_trained], 2)
        assert num_trained == NUM_STOPPING_EPOCHS or num_trained - result.metrics["best_epoch"][number] == 2
        assert result.metrics["num_epochs"][number] == num_trained
        for values in (*result.history.values(), result.epoch_seconds):
            assert np.isfinite(values[number, :num_trained]).all() and np.isnan(values[number, num_trained:]).all()
        ends.append(num_trained)
    assert len(set(ends)) >= 2  # so that some went on while others stood
    assert len(seen) == max(ends)


SLEEP = 0.4  # seconds that each compiling takes longer, more than an epoch here


@pytest.mark.parametrize("seeds", [(4,), (4, 5)])
def test_every_second_of_compiling_is_counted_once_and_none_in_an_epoch(dataset, monkeypatch, seeds):
    real, compiled = jax.stages.Lowered.compile, []

    def slow(*args, **kwargs):
        compiled.append(args[0])
        time.sleep(SLEEP)
        return real(*args, **kwargs)

    monkeypatch.setattr(jax.stages.Lowered, "compile", slow)
    started = time.perf_counter()
    result = training.run(CONFIG, dataset, seeds, model=SMALL)
    elapsed = time.perf_counter() - started
    assert (result.epoch_seconds > 0).all() and min(result.seconds.values()) >= 0
    assert result.seconds["compile_seconds"] > SLEEP * len(compiled) and len(compiled) > 3
    assert sum(result.seconds.values()) <= elapsed and np.median(result.epoch_seconds) < SLEEP


def test_the_weights_of_the_lowest_validation_loss_are_restored(stopped):
    result, seen = stopped
    for number in range(4):
        epoch = int(result.metrics["best_epoch"][number])
        expected = jax.tree.map(lambda leaf: leaf[number], seen[epoch - 1])  # noqa: B023
        same(jax.tree.map(lambda leaf: leaf[number], result.state.params), expected)  # noqa: B023
        lowest = np.nanmin(result.history["val_loss"][number])
        np.testing.assert_allclose(result.metrics["val_loss"][number], lowest, rtol=1e-6)


def test_a_stopped_run_stands_still(stopped):
    result, seen = stopped
    stood = 0
    for number in range(4):
        end = int(result.metrics["num_epochs"][number])
        for later in seen[end:]:
            same(*(jax.tree.map(lambda leaf: leaf[number], params) for params in (later, seen[end - 1])))  # noqa: B023
            stood += 1
    assert stood > 0


# Diverging


def test_a_diverging_run_is_counted_and_disturbs_no_other(dataset, linear):
    result = training.run(sgd(), dataset, (0,), model=Linear(), sweep={"learning_rate": (0.05, 3e38)})
    assert all(np.isnan(curve[1]).all() for curve in result.history.values())
    for name in result.metrics:
        summary = history.summarize(history.metric(result, name))
        assert (name, summary["n"], summary["num_failed"]) == (name, 1, 1)
    same(learned(training.select(result, [0])), learned(training.select(linear[0], [0])), 1e-5)
    # To the bit against a neighbour that does not diverge: the same program then.
    sound = training.run(sgd(), dataset, (0,), model=Linear(), sweep={"learning_rate": (0.05, 0.06)})
    same(learned(training.select(result, [0])), learned(training.select(sound, [0])))


class Masked(nn.Module):
    """Softmax regression with an infinite parameter, of which only its tanh is seen."""

    @nn.compact
    def __call__(self, image):
        scale = self.param("scale", lambda key: jnp.full([], jnp.inf))
        return nn.Dense(10)(image.reshape(len(image), -1)) * nn.tanh(scale)


def test_a_parameter_that_is_not_finite_counts_though_no_logit_shows_it(dataset):
    result = training.run(sgd(num_epochs=1), dataset, (0,), model=Masked())
    assert np.isfinite(result.history["val_loss"]).all()
    assert all(np.isnan(values).all() for values in result.metrics.values())


def test_early_stopping_does_not_pass_the_untrained_weights_off_as_the_best_of_a_run_that_diverged(dataset):
    result = training.run(sgd(3e38, patience_epochs=1), dataset, (0,), model=Linear())
    assert all(np.isnan(values).all() for values in result.metrics.values())


# What the arrays were


def test_a_result_is_of_the_dataset_that_was_given(dataset, three_seeds):
    assert CONFIG.dataset == "mnist" and three_seeds.config == dataclasses.replace(
        CONFIG, model=SMALL, dataset="synthetic"
    )
    assert three_seeds.fingerprint == dataset.fingerprint == training.select(three_seeds, [0]).fingerprint
    flipped = dataset.train._replace(image=dataset.train.image[:, ::-1])
    other = training.run(sgd(num_epochs=1), dataclasses.replace(dataset, train=flipped), model=Linear())
    assert other.fingerprint != three_seeds.fingerprint and other.config.dataset == "synthetic"


# What cannot be


class Unweighted(nn.Module):
    """Batch statistics that count padded examples."""

    @nn.compact
    def __call__(self, image, train=False):
        x = image.reshape(len(image), -1)
        return nn.Dense(10)(nn.BatchNorm(use_running_average=not train)(x))


def test_batch_statistics_over_padding_are_refused(dataset):
    with pytest.raises(UserError, match="weight"):
        training.run(sgd(), dataset, model=Unweighted())


def test_batch_statistics_of_full_batches_are_fine(dataset):
    result = training.run(sgd(batch_size=50, num_epochs=1), dataset, model=Unweighted())
    assert np.isfinite(result.history["train_loss"]).all()


def test_a_dropout_sweep_without_dropout_is_refused(dataset):
    with pytest.raises(UserError, match="dropout"):
        training.run(CONFIG, dataset, model=Linear(), sweep={"dropout_rate": (0.1, 0.2)})


@pytest.mark.parametrize(
    "changes, keywords, named",
    [
        ({"model": "densest"}, {}, "densest"),
        ({"num_epochs": 0}, {}, "epochs"),
        ({"limit_examples": 201}, {}, "limit_examples"),
        ({}, {"seeds": (-1,)}, "seed"),
        ({}, {"sweep": {"momentum": (0.5,)}}, "momentum"),
    ],
)
def test_the_impossible_is_refused_before_training(dataset, changes, keywords, named):
    with pytest.raises(UserError, match=named):
        training.run(dataclasses.replace(CONFIG, **changes), dataset, **keywords)


@pytest.mark.parametrize(
    "changes, keywords",
    [
        pytest.param({"loss": "cross"}, {}, id="loss"),
        pytest.param({}, {"seeds": ()}, id="no_seeds"),
        pytest.param({}, {"population_size": -1}, id="population_size"),
        pytest.param({"limit_examples": 2, "split": "random_80_20"}, {}, id="nothing_to_validate_on"),
    ],
)
def test_more_of_the_impossible_is_refused(dataset, changes, keywords):
    with pytest.raises(UserError):
        training.run(dataclasses.replace(CONFIG, **changes), dataset, **{"model": Linear(), **keywords})


# Memory


def test_a_population_that_does_not_fit_is_cut_and_learns_the_same(dataset, monkeypatch):
    monkeypatch.setattr(executables, "one_by_one", lambda grid: False)
    monkeypatch.setattr(population, "one_by_one", lambda grid: False)  # as on an accelerator
    said = []
    whole = training.run(sgd(), dataset, (4, 5, 6), model=Linear(), on_size=said.append)
    run_bytes = said[0].run_bytes
    assert said[0].size == 3
    monkeypatch.setattr(sizing, "free_memory", lambda: int(2.9 * run_bytes))  # 0.7 * 2.9 = 2.03 runs
    cut = training.run(sgd(), dataset, (4, 5, 6), model=Linear(), on_size=said.append)
    assert said[1] == PopulationSize(3, 2, run_bytes, int(2.9 * run_bytes))
    same(learned(cut), learned(whole), 1e-5)


def test_runs_one_by_one_learn_what_they_learn_side_by_side(dataset, monkeypatch):
    stopping = dataclasses.replace(CONFIG, num_epochs=6, patience_epochs=1)
    one_by_one = training.run(stopping, dataset, (4, 5, 6), model=SMALL)
    monkeypatch.setattr(executables, "one_by_one", lambda grid: False)
    monkeypatch.setattr(population, "one_by_one", lambda grid: False)
    side_by_side = training.run(stopping, dataset, (4, 5, 6), model=SMALL)
    same(learned(one_by_one), learned(side_by_side), 1e-5)


def test_on_a_cpu_memory_is_for_as_many_runs_as_it_has_devices(dataset, monkeypatch):
    said = []
    training.run(sgd(num_epochs=1), dataset, (0, 1, 2), model=Linear(), on_size=said.append)
    monkeypatch.setattr(sizing, "free_memory", lambda: int(1.5 * said[0].run_bytes))
    training.run(sgd(num_epochs=1), dataset, (0, 1, 2), model=Linear(), on_size=said.append)
    monkeypatch.setattr(sizing, "free_memory", lambda: int(1.4 * said[0].run_bytes))  # 0.7 * 1.4 = 0.98 runs
    training.run(sgd(num_epochs=1), dataset, (0, 1, 2), model=Linear(), on_size=said.append)
    assert [size.size for size in said] == [3, 3, 1]


def test_what_a_run_takes_is_at_least_its_weights_and_is_measured_without_a_second_program(dataset):
    said = []
    compiled = []
    original = Executables.get

    def count(self, name, *args, **keywords):
        before = len(self.compiled)
        program = original(self, name, *args, **keywords)
        compiled.extend([name] * (len(self.compiled) - before))
        return program

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Executables, "get", count)
        result = training.run(sgd(num_epochs=1), dataset, (0, 1), model=Linear(), on_size=said.append)
    # The weights, once as argument and never as a second result: what is donated is reused.
    weights = 4 * sum(leaf[0].size for leaf in jax.tree.leaves(result.state.params))
    assert weights <= said[0].run_bytes < 50 * weights
    assert sorted(compiled) == ["evaluate", "finish", "fit", "init"]


def test_a_population_size_that_was_asked_for_is_taken(dataset):
    said = []
    training.run(sgd(num_epochs=1), dataset, (0, 1, 2), model=Linear(), population_size=2, on_size=said.append)
    assert said == [PopulationSize(3, 2)] and said[0].text() == "2 of 3 runs share a program"
