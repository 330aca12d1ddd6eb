"""The oracle is jax.random itself."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mnistlab import random_words

pytestmark = pytest.mark.usefixtures("quick_compiling")


def by_jax(key, position, num_words):
    return jax.vmap(lambda i: jax.random.bits(jax.random.fold_in(key, i), (num_words,)))(position)


@pytest.mark.parametrize("seed", [0, 1, 2**31, 2**32 - 1])
@pytest.mark.parametrize("num_words", [1, 2, 7, 600])
def test_words_are_those_of_jax(seed, num_words):
    key = jax.random.fold_in(jax.random.key(seed), 3)
    position = jnp.asarray([0, 1, 5, 2**20, 2**31 - 1])
    np.testing.assert_array_equal(random_words.of_examples(key, position, num_words), by_jax(key, position, num_words))


def test_seeds_may_be_mapped():
    keys, position = jax.vmap(jax.random.key)(jnp.arange(3)), jnp.arange(4)
    mapped = jax.jit(jax.vmap(lambda key: random_words.of_examples(key, position, 5)))(keys)
    np.testing.assert_array_equal(mapped, [by_jax(key, position, 5) for key in keys])


def test_other_backends_take_those_of_jax_itself(monkeypatch):
    key, position = jax.random.key(1), jnp.arange(3)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(random_words, "_threefry", None)
    np.testing.assert_array_equal(random_words.of_examples(key, position, 4), by_jax(key, position, 4))
