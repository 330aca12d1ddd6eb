"""Seconds per call, measured so that they mean something: warm, finished, repeated."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np


class Timing(NamedTuple):
    """Seconds of repeated calls of one function."""

    dispatch_seconds: np.ndarray  # float64 [repeats]: until the call returned
    finished_seconds: np.ndarray  # float64 [repeats]: until its result was there


def time_calls(function: Callable[..., Any], *args: Any, num_warmup: int = 1, num_repeats: int = 10) -> Timing:
    """Times `function(*args)`: `num_warmup` calls first, then `num_repeats`, each waited for before the next starts.

    >>> timing = time_calls(lambda: None, num_repeats=3)
    >>> timing.finished_seconds.shape
    (3,)
    """
    for _ in range(num_warmup):
        jax.block_until_ready(function(*args))
    dispatch, finished = [], []
    for _ in range(num_repeats):
        start = time.perf_counter()
        result = function(*args)
        dispatch.append(time.perf_counter() - start)
        jax.block_until_ready(result)
        finished.append(time.perf_counter() - start)
    return Timing(np.array(dispatch), np.array(finished))
