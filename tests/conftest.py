"""What all tests share: a small dataset, no silent broadcasting across ranks, one cache of compiled programs."""

import jax
import numpy as np
import pytest

from mnistlab import datasets


@pytest.fixture(scope="session", autouse=True)
def compile_cache(tmp_path_factory):
    jax.config.update("jax_compilation_cache_dir", str(tmp_path_factory.mktemp("compiled")))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


@pytest.fixture(scope="session", autouse=True)
def rank_promotion():
    """Broadcasting across ranks, (N, K) with (K,), may hide a mistake: it is an error in every test."""
    jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture(scope="session")
def dataset():
    """200 + 100 images: a random pattern a class, with noise; small nets learn it within a few epochs."""
    pattern = np.random.default_rng(0).integers(0, 128, (10, 28, 28, 1))

    def split(num_examples, seed):
        rng = np.random.default_rng(seed)
        label = rng.integers(0, 10, num_examples).astype(np.int32)
        noise = rng.integers(0, 128, (num_examples, 28, 28, 1))
        return datasets.Split((pattern[label] + noise).astype(np.uint8), label)

    names = tuple(f"class {number}" for number in range(10))
    return datasets.Dataset("synthetic", "1.0.0", names, split(200, 1), split(100, 2), "0" * 64)
