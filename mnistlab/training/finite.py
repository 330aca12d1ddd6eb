"""Which runs of a population are finite."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def finite_runs(tree: Any) -> np.ndarray:
    """bool [R]: whether all numbers of a run are finite; the leaves of `tree` have the runs on their first axis.

    >>> finite_runs({"kernel": np.array([[1.0, 2.0], [np.inf, 0.0]]), "step": np.array([7, 7])}).tolist()
    [True, False]
    """
    leaves = jax.tree.leaves(tree)
    floats = [np.asarray(leaf) for leaf in leaves if jnp.issubdtype(leaf.dtype, jnp.floating)]
    of_each = [np.isfinite(leaf).reshape(len(leaf), -1).all(axis=1) for leaf in floats]
    return np.logical_and.reduce([np.ones(len(leaves[0]), bool), *of_each])
