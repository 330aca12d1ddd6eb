"""What the machine itself can do: a matrix product and a sum of long arrays, on one pinned core and on all.

`python -m experiments.bench.limits one|all`, then one line on its input for each measurement, as a peer's process has
it. Answers {"ready": true}, then lines of {"gflops", "gigabytes_per_second"}, each the best of a few repeats.
"""

import json
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ..cli.process import num_cores

ONE, ALL = "one", "all"
PRODUCT_SIZE, GPU_PRODUCT_SIZE = 1024, 8192  # large enough for the peak
PRODUCT_OPERATIONS = 2.0 * 2048**3  # of the calibrating product, in which --against counts our seconds
ARRAY_ELEMENTS, GPU_ARRAY_ELEMENTS = 2**24, 2**28  # float32: beyond any cache
NUM_REPEATS = 5


class Limits(NamedTuple):
    """What was measured beside the rounds, a number a round."""

    gflops: np.ndarray  # float64 [rounds]: 10^9 operations a second of the matrix product
    gigabytes_per_second: np.ndarray  # float64 [rounds]: two arrays read and one written

    @property
    def product_seconds(self) -> np.ndarray:
        """float64 [rounds]: of the calibrating product, at this rate."""
        return PRODUCT_OPERATIONS / (self.gflops * 1e9)


def cores() -> tuple[str, ...]:
    """What can be measured here: all cores, and one where a process can be pinned to it and there are several.

    A GPU has no cores to pin to: it is measured whole.
    """
    import jax

    if jax.default_backend() != "cpu" or not hasattr(os, "sched_setaffinity"):
        return (ALL,)
    return (ONE, ALL) if num_cores() > 1 else (ALL,)


def joined(answers: Sequence[Mapping[str, Any]]) -> Limits:
    """The answers of one process."""
    return Limits(*(np.array([one[name] for one in answers], np.float64) for name in Limits._fields))


def best(found: Mapping[str, Mapping[str, Limits]]) -> dict[str, dict[str, float]]:
    """The best that was seen beside any workload: cores -> "gflops", "gigabytes_per_second".

    >>> low, high = Limits(np.array([90.0, 100.0]), np.array([9.0, 8.0])), Limits(np.array([95.0]), np.array([12.0]))
    >>> best({"a": {"all": low}, "b": {"all": high}})
    {'all': {'gflops': 100.0, 'gigabytes_per_second': 12.0}}
    """
    result: dict[str, dict[str, float]] = {}
    for limits in found.values():
        for which, one in limits.items():
            seen = result.setdefault(which, dict.fromkeys(Limits._fields, 0.0))
            for name, values in one._asdict().items():
                seen[name] = max(seen[name], float(values.max()))
    return result


def main(which: str) -> None:
    """Measures once for every line of the input."""
    if which == ONE:  # before JAX counts the cores
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    import jax
    import jax.numpy as jnp

    from mnistlab.timing import time_calls

    on_cpu = jax.default_backend() == "cpu"
    size = PRODUCT_SIZE if on_cpu else GPU_PRODUCT_SIZE
    matrix = jax.random.normal(jax.random.key(0), (size, size))
    product = jax.jit(lambda left: left @ left)
    long = jnp.ones(ARRAY_ELEMENTS if on_cpu else GPU_ARRAY_ELEMENTS, jnp.float32)
    total = [long + 1.0]
    add = jax.jit(lambda total, other: 0.5 * total + other, donate_argnums=0)  # in place: no fresh pages to fetch

    def add_once() -> jax.Array:
        total[0] = add(total[0], long)
        return total[0]

    def seconds(function: Any, *args: Any) -> float:
        return float(time_calls(function, *args, num_repeats=NUM_REPEATS).finished_seconds.min())

    print(json.dumps({"ready": True}), flush=True)
    for _ in sys.stdin:
        gflops = 2.0 * size**3 / seconds(product, matrix) / 1e9
        gigabytes = 3.0 * long.nbytes / seconds(add_once) / 1e9
        print(json.dumps({"gflops": gflops, "gigabytes_per_second": gigabytes}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
