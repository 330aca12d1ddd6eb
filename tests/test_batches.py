import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mnistlab.config import SPLITS, TrainConfig
from mnistlab.data import batches, datasets
from mnistlab.data.batches import Order, Pool
from mnistlab.errors import UserError


@given(st.integers(1, 100), st.integers(1, 40), st.integers(0, 2**32 - 1), st.integers(0, 100))
def test_an_epoch_holds_every_example_once(num_examples, batch_size, seed, epoch):
    index = np.arange(1000, 1000 + num_examples, dtype=np.int32)
    order = batches.epoch_order(index, batch_size, seed, epoch)
    size = min(batch_size, num_examples)  # a batch of 60,000 from 2,000 examples is one of 2,000
    assert order.example.shape == order.weight.shape == (-(-num_examples // size), size)
    assert (order.example.dtype, order.weight.dtype) == (np.int32, np.float32)
    assert sorted(order.example[order.weight == 1]) == index.tolist()
    assert order.weight.sum() == num_examples  # all others are 0
    assert np.isin(order.example, index).all()
    assert (order.weight[:-1] == 1).all()  # only the last batch is padded


def test_orders_differ_by_seed_and_epoch_and_repeat():
    index = np.arange(500, dtype=np.int32)
    orders = {(seed, epoch): batches.epoch_order(index, 100, seed, epoch) for seed in (0, 1) for epoch in (0, 1)}
    assert len({order.example.tobytes() for order in orders.values()}) == 4
    np.testing.assert_array_equal(batches.epoch_order(index, 100, 1, 0).example, orders[1, 0].example)


def test_the_stream_of_orders_is_pinned():
    # What was trained and reported hangs on it; a new NumPy must not change it.
    order = batches.epoch_order(np.arange(60_000, dtype=np.int32), 256, seed=3, epoch=7)
    assert order.example[0, :6].tolist() == [16950, 18057, 57866, 22973, 9674, 30420]
    assert order.example.shape == (235, 256) and order.weight[-1].sum() == 96


def test_order_does_not_depend_on_the_batch_size():
    index = np.arange(60, dtype=np.int32)
    whole = batches.epoch_order(index, 60, 5, 2).example.ravel()
    np.testing.assert_array_equal(batches.epoch_order(index, 7, 5, 2).example.ravel()[:60], whole)


def sized(num_train, num_test, num_val=0):
    """A dataset of so many examples."""
    splits = [datasets.Split(np.zeros((n, 1, 1, 1), np.uint8), np.zeros(n, np.int32)) for n in (num_train, num_test)]
    val = datasets.Split(np.zeros((num_val, 1, 1, 1), np.uint8), np.zeros(num_val, np.int32)) if num_val else None
    return datasets.Dataset("sized", "1", ("a",), *splits, "0" * 64, val)


def config(split, limit_examples=None):
    return TrainConfig("dense", split=split, limit_examples=limit_examples)


@pytest.mark.parametrize(
    "split, train, val, test",
    [
        ("test_halves", range(100), range(120, 141), range(100, 120)),
        ("test_halves_swapped", range(100), range(100, 120), range(120, 141)),
        ("test_is_validation", range(100), range(100, 141), range(100, 141)),
        ("own", range(100), range(0), range(100, 141)),
    ],
)
def test_parts_of_the_test_set(split, train, val, test):
    parts = batches.split_parts(config(split), sized(100, 41), seed=0)
    assert [part.tolist() for part in parts] == [list(train), list(val), list(test)]


def test_random_split_is_80_20_disjoint_and_seeded():
    parts = batches.split_parts(config("random_80_20"), sized(100, 41), seed=0)
    assert (len(parts.train), len(parts.val)) == (80, 20)
    assert sorted([*parts.train, *parts.val]) == list(range(100))
    assert parts.test.tolist() == list(range(100, 141))
    again, other = (batches.split_parts(config("random_80_20"), sized(100, 41), seed) for seed in (0, 1))
    np.testing.assert_array_equal(parts.val, again.val)
    assert set(parts.val) != set(other.val)


@pytest.mark.parametrize("split", SPLITS)
def test_limit_examples_keeps_the_first(split):
    parts = batches.split_parts(config(split, 10), sized(100, 41), seed=0)
    fit_on = [*parts.train, *parts.val] if split.startswith("random") else parts.train
    assert sorted(fit_on) == list(range(10))
    with pytest.raises(UserError, match="limit_examples is 101"):
        batches.split_parts(config(split, 101), sized(100, 41), seed=0)


@pytest.mark.parametrize("split", ["random_80_20", "random_55_5"])
def test_a_limit_that_leaves_nothing_to_validate_on_is_refused(split):
    with pytest.raises(UserError, match="limit_examples"):
        batches.split_parts(config(split, 2), sized(100, 41), seed=0)


def test_the_pool_is_train_then_test_and_batches_are_taken_from_it():
    def split(first, count):
        values = np.arange(first, first + count)
        return datasets.Split(values.astype(np.uint8).reshape(-1, 1, 1, 1), values.astype(np.int64))

    dataset = datasets.Dataset("tiny", "1", ("a",), split(0, 3), split(3, 2))
    pool = batches.make_pool(dataset)
    assert isinstance(pool, Pool) and pool.label.dtype == np.int32 and pool.image.dtype == np.uint8
    assert pool.image.ravel().tolist() == pool.label.tolist() == [0, 1, 2, 3, 4]
    batch = batches.take(pool, Order(np.array([4, 0], np.int32), np.array([1, 0], np.float32)))
    assert batch.image.ravel().tolist() == batch.label.tolist() == [4, 0]
    assert batch.weight.tolist() == [1, 0] and batch.image.dtype == jnp.uint8
