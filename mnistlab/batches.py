"""Splits -> one pool on the device; which example stands where in which batch."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mnistlab.config import TrainConfig
from mnistlab.datasets import Dataset, random_split
from mnistlab.errors import UserError


class Batch(NamedTuple):
    """One step's examples."""

    image: jax.Array  # uint8 [B, H, W, C]
    label: jax.Array  # int32 [B]
    weight: jax.Array  # float32 [B]: 1, or 0 where the batch is padded


class Pool(NamedTuple):
    """All examples that an experiment reads: the training images, then the test images."""

    image: jax.Array | np.ndarray  # uint8 [N, H, W, C]
    label: jax.Array | np.ndarray  # int32 [N]


class Order(NamedTuple):
    """Which example of the pool stands where."""

    example: np.ndarray  # int32 [..., steps, B]
    weight: np.ndarray  # float32 [..., steps, B]


class Parts(NamedTuple):
    """What one seed trains on, validates on and is tested on: indices into the pool."""

    train: np.ndarray  # int32 [n]
    val: np.ndarray  # int32 [n]
    test: np.ndarray  # int32 [n]


def make_pool(dataset: Dataset) -> Pool:
    """The dataset as one pool of host arrays: training examples first, then test examples."""
    image = np.concatenate([dataset.train.image, dataset.test.image])
    label = np.concatenate([dataset.train.label, dataset.test.label])
    return Pool(image, label.astype(np.int32))


def split_parts(config: TrainConfig, num_train: int, num_test: int, seed: int) -> Parts:
    """The parts that `config.split` makes of a dataset for one seed.

    test_halves: the first half of the test set is the test, the second half the validation set;
    test_halves_swapped: the other way round; test_is_validation: both are the whole test set;
    random_80_20, random_55_5: a seeded random part of the training set, a fifth or a twelfth, is the validation set.

    Raises:
      UserError: `limit_examples` leaves nothing to train or to validate on.
    """
    if config.limit_examples is not None and config.limit_examples > num_train:
        raise UserError(
            f"limit_examples is {config.limit_examples}; expected at most the {num_train} training examples"
        )
    train = np.arange(min(num_train, config.limit_examples or num_train), dtype=np.int32)
    test = np.arange(num_train, num_train + num_test, dtype=np.int32)
    half = num_test // 2
    if config.split == "test_halves":
        return Parts(train, val=test[half:], test=test[:half])
    if config.split == "test_halves_swapped":
        return Parts(train, val=test[:half], test=test[half:])
    if config.split == "test_is_validation":
        return Parts(train, val=test, test=test)
    if config.split in ("random_80_20", "random_55_5"):
        fit, rest = random_split(len(train), 0.8 if config.split == "random_80_20" else 55 / 60, seed)
        if not len(fit) or not len(rest):
            raise UserError(
                f"limit_examples is {config.limit_examples}; too few to train and to validate on, take more"
            )
        return Parts(train[fit], train[rest], test)
    raise ValueError(f"unknown split {config.split}")


def epoch_order(index: np.ndarray, batch_size: int, seed: int, epoch: int) -> Order:
    """The examples of one epoch, all of `index` once, shuffled by (seed, epoch) alone; the last batch is padded.

    The same on every platform, process count and NumPy release: a stable argsort of raw 64-bit draws.
    """
    draws = np.random.PCG64(np.random.SeedSequence([seed, epoch])).random_raw(len(index))
    return padded_order(index[np.argsort(draws, kind="stable")], batch_size)


def padded_order(index: np.ndarray, batch_size: int) -> Order:
    """`index` int32 [n] in order, cut into batches; the last is padded with its own first example at weight 0.

    >>> padded_order(np.arange(3, dtype=np.int32), 2).weight.tolist()
    [[1.0, 1.0], [1.0, 0.0]]
    """
    num_steps = -(-len(index) // batch_size)
    missing = num_steps * batch_size - len(index)
    padding = np.full(missing, index[-1], np.int32)
    weight = np.ones(num_steps * batch_size, np.float32)
    weight[len(index) :] = 0.0
    shape = (num_steps, batch_size)
    return Order(np.concatenate([index, padding]).astype(np.int32).reshape(shape), weight.reshape(shape))


def take(pool: Pool, order: Order) -> Batch:
    """The batch that one step's `order`, [B] each, names."""
    image, label, weight = jnp.asarray(pool.image), jnp.asarray(pool.label), jnp.asarray(order.weight)
    return Batch(image[order.example], label[order.example], weight)
