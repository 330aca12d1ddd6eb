"""Splits become one pool on the device, or chunks of batches that are read in turn; and the order of the examples."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mnistlab.config import TrainConfig
from mnistlab.data.datasets import Dataset, permutation, random_split
from mnistlab.errors import UserError


class Batch(NamedTuple):
    """The examples of one step; leading axes, where there are any, are steps and runs."""

    image: jax.Array  # uint8 [B, H, W, C]
    label: jax.Array  # int32 [B]
    weight: jax.Array  # float32 [B]: 1, or 0 where the batch is padded


class Pool(NamedTuple):
    """All examples that an experiment reads: for training, then for the test, then its own for validation."""

    image: jax.Array | np.ndarray  # uint8 [N, H, W, C]
    label: jax.Array | np.ndarray  # int32 [N]


class Order(NamedTuple):
    """The order of an epoch: indices into the pool, batch by batch."""

    example: np.ndarray  # int32 [..., steps, B]
    weight: np.ndarray  # float32 [..., steps, B]


class Parts(NamedTuple):
    """What one seed trains on, validates on and is tested on: indices into the pool."""

    train: np.ndarray  # int32 [n]
    val: np.ndarray  # int32 [n]
    test: np.ndarray  # int32 [n]


def make_pool(dataset: Dataset) -> Pool:
    """The dataset as one pool of host arrays: training examples first, then test, then its own validation examples."""
    image = np.concatenate([split.image[:] for split in dataset.parts.values()])
    label = np.concatenate([split.label for split in dataset.parts.values()])
    return Pool(image, label.astype(np.int32))


def split_of(config: TrainConfig, dataset: Dataset) -> str:
    """The split that `config` has on a dataset: a validation set of its own is taken whatever is said."""
    return config.split if dataset.val is None else "own"


def split_parts(config: TrainConfig, dataset: Dataset, seed: int) -> Parts:
    """The parts that `split_of` makes of a dataset for one seed.

    test_halves: the first half of the test set is the test, the second half the validation set;
    test_halves_swapped: the other way round; test_is_validation: both are the whole test set;
    own: the dataset's own validation set, or none where it has none;
    random_80_20, random_55_5: a seeded random part of the training set, a fifth or a twelfth, is the validation set.

    Raises:
      UserError: `limit_examples`, or a test set of one, leaves nothing to train, to validate or to test on.
    """
    num_train, num_test = len(dataset.train.label), len(dataset.test.label)
    if config.limit_examples is not None and config.limit_examples > num_train:
        raise UserError(
            f"limit_examples is {config.limit_examples}; expected at most the {num_train} training examples"
        )
    train = np.arange(min(num_train, config.limit_examples or num_train), dtype=np.int32)
    test = np.arange(num_train, num_train + num_test, dtype=np.int32)
    if split_of(config, dataset) == "own":
        num_all = sum(len(split.label) for split in dataset.parts.values())
        return Parts(train, np.arange(num_train + num_test, num_all, dtype=np.int32), test)
    half = num_test // 2
    if not half and config.split.startswith("test_halves"):
        raise UserError(f"split is {config.split} of {num_test} test example; expected at least 2, or another split")
    if config.split == "test_halves":
        return Parts(train, val=test[half:], test=test[:half])
    if config.split == "test_halves_swapped":
        return Parts(train, val=test[:half], test=test[half:])
    if config.split == "test_is_validation":
        return Parts(train, val=test, test=test)
    if config.split in ("random_80_20", "random_55_5"):
        fit, rest = random_split(len(train), 0.8 if config.split == "random_80_20" else 55 / 60, seed)
        if not len(fit) or not len(rest):
            limit = config.limit_examples
            which = f"there are {len(train)} training examples" if limit is None else f"limit_examples is {limit}"
            raise UserError(f"{which}, too few to train and to validate on by {config.split}; take more")
        return Parts(train[fit], train[rest], test)
    raise ValueError(f"unknown split {config.split}")


def epoch_order(index: np.ndarray, batch_size: int, seed: int, epoch: int) -> Order:
    """The examples of one epoch, all of `index` once, shuffled by (seed, epoch) alone; the last batch is padded.

    A batch is no larger than the epoch, since padding only costs time.
    """
    return padded_order(index[permutation(len(index), seed, epoch)], min(batch_size, len(index)))


def padded_order(index: np.ndarray, batch_size: int) -> Order:
    """`index` int32 [n] in order, cut into batches; the last is padded with the last example at weight 0.

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


def read(arrays: Sequence[np.ndarray], example: np.ndarray) -> np.ndarray:
    """Elements `example` (int, any shape) of the concatenated `arrays`; nothing else is read.

    >>> read([np.array([10, 11]), np.array([12, 13])], np.array([[0, 3], [2, 2]])).tolist()
    [[10, 13], [12, 12]]
    """
    out = np.empty((*example.shape, *arrays[0].shape[1:]), arrays[0].dtype)
    first = 0
    for array in arrays:
        here = (example >= first) & (example < first + len(array))
        if here.any():
            out[here] = array[example[here] - first]
        first += len(array)
    return out


def chunk_steps(num_steps: int, step_bytes: int, budget_bytes: int) -> int:
    """How many steps' batches are on the device at a time, where two such chunks fit into `budget_bytes`.

    All chunks are of one size where that costs less than half of it, since each size is compiled.

    >>> chunk_steps(235, step_bytes=100_000, budget_bytes=20_000_000)  # 100 would fit, 47 divides 235
    100
    >>> chunk_steps(235, step_bytes=100_000, budget_bytes=12_000_000)
    47

    Raises:
      UserError: not even one step fits.
    """
    most = min(num_steps, budget_bytes // (2 * step_bytes))
    if most < 1:
        raise UserError(
            f"stream_megabytes is {budget_bytes // 10**6}; two steps' batches of all runs take "
            f"{math.ceil(2 * step_bytes / 10**6)}: give at least that, or a smaller population_size"
        )
    return next((size for size in range(most, most // 2, -1) if num_steps % size == 0), most)


def take(pool: Pool | None, order: Order | Batch) -> Batch:
    """The batch of one step's `order`, [B] each; a streamed one is a batch already."""
    if isinstance(order, Batch):
        return order
    assert pool is not None
    image, label, weight = jnp.asarray(pool.image), jnp.asarray(pool.label), jnp.asarray(order.weight)
    return Batch(image[order.example], label[order.example], weight)
