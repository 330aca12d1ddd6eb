"""Streamed from where it lies, a dataset trains as if it were on the device: the oracle is the resident run."""

import collections
import dataclasses
import json
import os
import socket
from pathlib import Path

import forks
import jax
import numpy as np
import pytest
import streams
import training
from flax import linen as nn
from hypothesis import given
from hypothesis import strategies as st

from mnistlab.config import OptimConfig, TrainConfig
from mnistlab.data import batches
from mnistlab.errors import UserError
from mnistlab.nets import models
from mnistlab.nets.layers import BatchNorm, Dense, Dropout, Flatten
from mnistlab.training import feed, population, sizing
from mnistlab.training.callbacks import Checkpoint

ROOT = Path(__file__).parents[1]
NET = models.Network((Flatten(), Dense(8, "relu"), BatchNorm(), Dropout(0.25), Dense(10)))
SEEDS = (4, 5, 6, 7, 8, 9)
MEGABYTE = 10**6
# 160 = 6 * 24 + 16: padded; a megabyte holds two chunks of four steps of six runs.
OWN_SPLITS = TrainConfig(
    "net",
    split="random_80_20",
    optimizer=OptimConfig("adam", 1e-2),
    patience_epochs=2,
    batch_size=24,
    num_epochs=3,
)


class Linear(nn.Module):
    @nn.compact
    def __call__(self, image):
        return nn.Dense(10)(image.reshape(len(image), -1))


@pytest.fixture(scope="module", autouse=True)
def small_evaluation():
    """Batches of 20 in evaluation, so that a megabyte holds some of them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(population, "EVAL_BATCH_SIZE", 20)
        yield


@pytest.fixture(scope="module")
def resident(dataset):
    return training.run(OWN_SPLITS, dataset, SEEDS, model=NET)


def same_bits(got, expected):
    def leaves(result):
        tree = (result.state, result.best, result.history, result.metrics)
        for leaf in jax.tree.leaves(tree):
            yield np.asarray(leaf)

    for one, other in zip(leaves(got), leaves(expected), strict=True):
        np.testing.assert_array_equal(one, other)


def test_streamed_equals_resident_bit_for_bit(dataset, resident, monkeypatch):
    """With padding, batch statistics, dropout, early stopping, several seeds and splits of their own."""
    read, live, counted = batches.read, [], collections.Counter()

    def watch(arrays, example):
        live.append(sum(leaf.nbytes for leaf in jax.live_arrays() if leaf.dtype == np.uint8))
        if arrays[0].ndim == 4:
            counted.update(example.ravel().tolist())
        part = read(arrays, example)
        live.append(live[-1] + part.nbytes)
        return part

    before = sum(leaf.nbytes for leaf in jax.live_arrays() if leaf.dtype == np.uint8)
    monkeypatch.setattr(batches, "read", watch)
    got = training.run(OWN_SPLITS, dataset, SEEDS, model=NET, stream_megabytes=1)
    same_bits(got, resident)
    assert (
        len(live) > 40 and MEGABYTE / 2 < max(live) - before <= MEGABYTE
    )  # two chunks at a time, the second being read
    assert set(counted) == set(range(300))


class Interrupted(Exception):
    pass


def test_a_streamed_run_goes_on_after_its_last_epoch_streamed_or_not(dataset, resident, tmp_path):
    def interrupt(epoch):
        if epoch.number == seen["stop"]:
            raise Interrupted

    def run(stream_megabytes):
        return training.run(
            OWN_SPLITS,
            dataset,
            SEEDS,
            model=NET,
            callbacks=[Checkpoint(tmp_path / "kept", str)],
            on_epoch=interrupt,
            stream_megabytes=stream_megabytes,
        )

    seen = {}
    for seen["stop"], stream_megabytes in ((1, 1), (2, None)):
        with pytest.raises(Interrupted):
            run(stream_megabytes)
    seen["stop"] = None
    same_bits(run(1), resident)


def test_a_dataset_that_does_not_fit_is_streamed_unasked(dataset, monkeypatch):
    images = dataset.train.image, dataset.test.image
    for free_bytes, fits in ((None, True), (2 * 300 * 784, True), (2 * 300 * 784 - 1, False)):
        monkeypatch.setattr(sizing, "free_memory", lambda: free_bytes)  # noqa: B023
        assert feed.fits(images) == fits
    monkeypatch.setattr(batches, "make_pool", None)  # is not called
    train_config = TrainConfig("linear", optimizer=OptimConfig("sgd", 0.05), batch_size=100, num_epochs=1)
    result = training.run(train_config, dataset, (0,), model=Linear())
    assert np.isfinite(result.history["val_loss"]).all()


# What a chunk is


@given(st.integers(1, 2000), st.integers(1, 10**7), st.integers(1, 10**10))
def test_two_chunks_never_take_more_than_the_budget(num_steps, step_bytes, budget_bytes):
    if 2 * step_bytes > budget_bytes:
        with pytest.raises(UserError, match="stream_megabytes"):
            batches.chunk_steps(num_steps, step_bytes, budget_bytes)
        return
    size = batches.chunk_steps(num_steps, step_bytes, budget_bytes)
    most = min(num_steps, budget_bytes // (2 * step_bytes))
    assert 1 <= size <= most and 2 * size * step_bytes <= budget_bytes
    assert size > most // 2 and (size == most or num_steps % size == 0)


def test_reading_is_indexing_what_would_be_the_pool(dataset):
    pool = batches.make_pool(dataset)
    example = np.random.default_rng(0).integers(0, 300, (3, 4, 5))
    for name, whole in pool._asdict().items():
        arrays = [getattr(split, name) for split in (dataset.train, dataset.test)]
        np.testing.assert_array_equal(batches.read(arrays, example), whole[example])


@pytest.mark.parametrize("stream_megabytes", [0, -1])
def test_an_impossible_budget_is_refused(dataset, stream_megabytes):
    with pytest.raises(UserError, match="stream_megabytes"):
        training.run(OWN_SPLITS, dataset, model=NET, stream_megabytes=stream_megabytes)


def test_a_budget_below_two_steps_is_refused_with_the_smallest_that_will_do(dataset):
    train_config = dataclasses.replace(OWN_SPLITS, batch_size=160)  # 2 * 6 * 160 * 792 bytes: 1.52 MB
    with pytest.raises(UserError, match="take 2: give at least that"):
        training.run(train_config, dataset, SEEDS, model=NET, stream_megabytes=1)


# Several processes


def test_two_processes_read_half_each_and_train_as_one():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        coordinator = f"127.0.0.1:{free.getsockname()[1]}"
    environ = os.environ | {"JAX_PLATFORMS": "cpu"}
    started = [
        forks.start("streams", [coordinator, "2", str(number)], folder=ROOT / "tests", environ=environ)
        for number in range(2)
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(population, "EVAL_BATCH_SIZE", 250)  # as in the other processes
        history, read = streams.observe()
        assert streams.observe(stream_megabytes=None) == (history, [])
    both = []
    for process in started:
        out, err = process.communicate(timeout=300)
        assert process.returncode == 0, err
        both.append(json.loads(out.splitlines()[-1]))
    assert both[0][0] == both[1][0]
    for name, values in history.items():
        np.testing.assert_allclose(both[0][0][name], values, rtol=1e-5)
    halves = [seen for _, seen in both]
    assert len(halves[0]) == len(halves[1]) == len(read) / 2
    assert collections.Counter(halves[0] + halves[1]) == collections.Counter(read)
    epoch = 7 * 16  # of each process: 200 examples in 7 batches of 32, half of each
    assert len(set(halves[0][:epoch]) | set(halves[1][:epoch])) == 200
