"""Products of square matrices: how long one takes, how exact it is, and what of its operands a device keeps."""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from mnistlab.timing import time_calls
from mnistlab.training import sizing

CHECKED_SIZE = 1000  # results up to this size are checked against float64
MEMORY_SAFETY = 1.5  # what the matrices take, and half as much again, must be free

Product = Callable[[jax.Array, jax.Array], jax.Array]


class Row(NamedTuple):
    """One size on one device; arrays are empty where the product was not taken, and `note` says why."""

    device: str
    size: int
    dispatch_ms: np.ndarray  # float64 [rounds]
    finished_ms: np.ndarray  # float64 [rounds]
    error: float | None = None  # largest relative error against float64, over the elements of the last round's product
    note: str = ""


class Precision(NamedTuple):
    """What a device keeps of a product's operands."""

    fraction_bits: int  # of 23 in a float32
    name: str


def product(left: jax.Array, right: jax.Array) -> jax.Array:
    """left @ right, float32 [n, n]."""
    return left @ right


def measure(
    product: Product,
    devices: Mapping[str, jax.Device],
    size: int,
    num_rounds: int,
    seed: int,
    skip: Mapping[str, str] | None = None,
) -> list[Row]:
    """A fresh pair of uniform [0, 1) matrices each round, the same for every device; a row for each device.

    Making and moving the matrices is outside the timing, and so is one product before it, which compiles.

    Args:
      skip: device -> why it is left out at this size.
    """
    skipped = dict(skip or {})
    times: dict[str, list[Any]] = {name: [] for name in devices}
    errors: dict[str, float] = {}
    for number in range(num_rounds):
        if set(skipped) >= set(devices):
            break
        pair = random_pair(size, seed, number)
        for name, device in devices.items():
            if name in skipped:
                continue
            try:
                left, right = jax.block_until_ready(jax.device_put(pair, device))
                times[name].append(time_calls(product, left, right, num_warmup=int(number == 0), num_repeats=1))
                if size <= CHECKED_SIZE and number == num_rounds - 1:
                    errors[name] = largest_relative_error(np.asarray(product(left, right)), *pair)
            except jax.errors.JaxRuntimeError as error:
                skipped[name] = f"failed: {str(error).splitlines()[0][:80]}"
    rows = []
    for name in devices:
        timings = [] if name in skipped else times[name]
        dispatch = np.array([1e3 * timing.dispatch_seconds[0] for timing in timings])
        finished = np.array([1e3 * timing.finished_seconds[0] for timing in timings])
        rows.append(Row(name, size, dispatch, finished, errors.get(name), skipped.get(name, "")))
    return rows


def random_pair(size: int, seed: int, number: int) -> tuple[np.ndarray, np.ndarray]:
    """Two matrices float32 [size, size], uniform on [0, 1)."""
    stream = np.random.default_rng([seed, size, number])
    return stream.random((size, size), np.float32), stream.random((size, size), np.float32)


def largest_relative_error(result: np.ndarray, left: np.ndarray, right: np.ndarray) -> float:
    """max |C - AB| / AB over the elements, with AB in float64; the elements of A and B are not negative.

    >>> largest_relative_error(np.array([[2.002]]), np.array([[1.0]]), np.array([[2.0]]))  # doctest: +ELLIPSIS
    0.000999...
    """
    exact = left.astype(np.float64) @ right.astype(np.float64)
    return float(np.max(np.abs(result - exact) / exact))


def error_bound(size: int, fraction_bits: int) -> float:
    """What no element's relative error may exceed: 2 d + n u, with d = 2^-bits if operands are cut, else 0; u = 2^-24.

    Each operand is off by a factor in 1 ± d, and n u bounds a float32 sum of n terms that are not negative (Higham 2002,
    Accuracy and Stability of Numerical Algorithms, section 3.1). Terms in d u and u^2 are covered by 1 % on top.
    """
    cut = 2.0**-fraction_bits if fraction_bits < 23 else 0.0
    return 1.01 * (2 * cut + size * 2.0**-24)


def measured_precision(product: Product, device: jax.Device, size: int = 512) -> Precision:
    """Multiplies 1 + 2^-k by one and sees for which k it survives: 23 in float32, 10 in TensorFloat-32, 7 in bfloat16."""
    probe = np.ones((size, size), np.float32)
    bits = np.arange(1, 24)
    probe[:, :23] += np.float32(2.0) ** -bits.astype(np.float32)
    one = np.eye(size, dtype=np.float32)
    result = np.asarray(product(*jax.device_put((probe, one), device)))
    survived = int(bits[(result[:, :23] == probe[:, :23]).all(axis=0)].max(initial=0))
    names = {23: "float32", 10: "TensorFloat-32", 7: "bfloat16"}
    return Precision(survived, names.get(survived, f"{survived} bits of 23"))


def peak_gflops(product: Product, device: jax.Device, sizes: Sequence[int], seed: int) -> float:
    """The best rate of three finished products at any of `sizes` that fits, 2 n^3 / seconds."""
    best = 0.0
    for size in sizes:
        if does_not_fit(size, device):
            continue
        left, right = jax.block_until_ready(jax.device_put(random_pair(size, seed, 0), device))
        seconds = time_calls(product, left, right, num_repeats=3).finished_seconds.min()
        best = max(best, gflops(size, 1e3 * seconds))
    return best


def gflops(size: int, milliseconds: float) -> float:
    """2 n^3 operations over the time.

    >>> gflops(10_000, 2_000.0)
    1000.0
    """
    return 2.0 * size**3 / milliseconds / 1e6


def does_not_fit(size: int, device: jax.Device) -> str:
    """Why matrices of this size are not taken on `device`; empty when they fit, or when nobody can tell.

    Both operands are drawn on the host; a device takes copies of them and the product.
    """
    on_host = 5 if device.platform == "cpu" else 2
    wanted = [("host", on_host, sizing.host_memory())]
    if device.platform != "cpu":
        wanted.append((device.platform, 3, sizing.free_memory(device)))
    for place, num_matrices, free in wanted:
        needed = MEMORY_SAFETY * num_matrices * size * size * 4
        if free is not None and needed > free:
            return f"not taken: needs {needed / 2**30:.3g} GiB on the {place}, {free / 2**30:.3g} are free"
    return ""


def find_devices() -> dict[str, jax.Device]:
    """The first CPU and every accelerator of this process; the first of a platform is called by the platform's name."""
    found: dict[str, jax.Device] = {}
    with contextlib.suppress(RuntimeError):
        found["cpu"] = jax.local_devices(backend="cpu")[0]
    for device in jax.local_devices():
        if device.platform != "cpu":
            found[device.platform if device.platform not in found else f"{device.platform}{device.id}"] = device
    return found
