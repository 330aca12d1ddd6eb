"""A convolution of cells as matrix products: one dense product, or fewer multiplications by Winograd's identity."""

import functools
import math
import operator
import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from mnistlab.nets.cells import Cell, expansion, square_cell, windows

HIGHEST = lax.Precision.HIGHEST


class Window(NamedTuple):
    """What an output cell sees: count x count input cells, its first pixel's window `offset` pixels inside them."""

    kernel_size: int
    stride: int
    offset: int
    count: int
    cell_in: Cell
    cell_out: Cell


def convolve(array: jax.Array, kernel: jax.Array, window: Window, length: tuple[int, int]) -> jax.Array:
    """[pixels in * Cin, rows in, columns in, N], kernel [k, k, Cin, Cout] -> [pixels out * Cout, rows * columns * N].

    `length` is (rows, columns) of the output's cells.
    """
    if kernel.shape[2] == 1 and window.offset == 0 and not os.environ.get("NODIRECT"):
        patches = windows(array, square_cell(window.count), length)
        return direct(patches.reshape(-1, math.prod(patches.shape[2:])), kernel, window)
    if pairs_of_columns(window) and not os.environ.get("NOWINO"):
        return winograd(array, kernel, window, length)
    return dense(array, kernel, window, length)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def direct(patches: jax.Array, kernel: jax.Array, window: Window) -> jax.Array:
    """`convolve` of one channel, by multiplying and adding: one loop over the batch for each pixel out."""
    kernel = kernel.reshape(-1, kernel.shape[-1], 1)
    planes = []
    for elements in expansion(*window).transpose(1, 0, 2):  # [pixels seen, kernel_size ** 2]
        terms = [kernel[k] * patches[s : s + 1] for s, k in zip(*np.nonzero(elements), strict=True)]
        planes.append(functools.reduce(operator.add, terms))
    return jnp.concatenate(planes)


def _direct_forward(patches: jax.Array, kernel: jax.Array, window: Window) -> tuple[jax.Array, Any]:
    return direct(patches, kernel, window), (patches, kernel)


def _direct_backward(window: Window, saved: Any, gradient: jax.Array) -> tuple[jax.Array, jax.Array]:
    return jax.vjp(lambda patches, kernel: spread(patches, kernel, window), *saved)[1](gradient)


direct.defvjp(_direct_forward, _direct_backward)


def spread(patches: jax.Array, kernel: jax.Array, window: Window) -> jax.Array:
    joined = expansion(*window)
    matrix = jnp.einsum("spk,kio->sipo", joined, kernel.reshape(-1, *kernel.shape[2:]), precision=HIGHEST)
    return jnp.einsum("ki,kj->ij", matrix.reshape(len(patches), -1), patches)


def dense(array: jax.Array, kernel: jax.Array, window: Window, length: tuple[int, int]) -> jax.Array:
    """As `convolve`, by one product: the kernel spread over all pixels that an output cell sees."""
    patches = windows(array, square_cell(window.count), length)
    patches = patches.reshape(-1, math.prod(patches.shape[2:]))
    return spread(patches, kernel, window)


def pairs_of_columns(window: Window) -> bool:
    """Whether cells of 2 x 2 pixels, whole in every window, go to cells of 2 x 2: what `winograd` can compute."""
    whole = window.offset == 0 and 2 * window.count == window.kernel_size + 1
    return whole and window.stride == 1 and len(window.cell_in) == len(window.cell_out) == 4


class Transforms(NamedTuple):
    """y = of_output ((of_kernel g) * (of_input d)) is y_o = sum_k g_k d_(o + k) for o = 0, 1: float64."""

    of_output: np.ndarray  # [2, k + 1]
    of_kernel: np.ndarray  # [k + 1, k]
    of_input: np.ndarray  # [k + 1, k + 1]


def transforms(kernel_size: int) -> Transforms:
    """Winograd's F(2, k), by Toom and Cook: polynomials are multiplied at the points 0, 1, -1, 2, -2, ... and infinity.

    The product of polynomials with 2 and k coefficients is V^-1 ((V_k g) * (V_2 y)), V being the values at the points;
    its transpose in y is the correlation. Winograd 1980, Arithmetic Complexity of Computations.
    """
    size = kernel_size + 1
    points = np.array([0.0] + [sign * (1 + i // 2) for i, sign in zip(range(size - 2), [1, -1] * size, strict=False)])

    def values(num_coefficients: int) -> np.ndarray:
        powers = points[:, None] ** np.arange(num_coefficients)
        return np.vstack([powers, np.eye(num_coefficients)[-1:]])

    scale = np.array([np.prod(point - np.delete(points, i)) for i, point in enumerate(points)] + [1.0])[:, None]
    of_input = np.linalg.inv(values(size)).T * scale
    return Transforms(values(2).T, values(kernel_size) / scale, np.round(of_input, 9))


def combined(coefficients: np.ndarray, arrays: Sequence[jax.Array]) -> jax.Array:
    """sum_i coefficient_i array_i, without those whose coefficient is 0."""
    terms = [
        array if number == 1 else array * float(number)
        for number, array in zip(coefficients, arrays, strict=True)
        if number != 0
    ]
    return functools.reduce(operator.add, terms)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def winograd(array: jax.Array, kernel: jax.Array, window: Window, length: tuple[int, int]) -> jax.Array:
    """As `convolve`, with half the multiplications of `dense`: two neighbouring columns out at a time.

    The k + 1 columns that a pair sees are transformed, k + 1 products over rows and channels taken, and transformed
    back. Lavin and Gray 2016, arXiv 1509.09308, in one dimension.
    """
    return _winograd_forward(array, kernel, window, length)[0]


def _winograd_forward(array: jax.Array, kernel: jax.Array, window: Window, length: tuple[int, int]) -> Any:
    k, columns = window.kernel_size, length[1]
    of_output, _, of_input = transforms(k)
    pixels = array.reshape(4, -1, *array.shape[1:])
    planes = [[pixels[window.cell_in.index((u, v))] for v in range(2)] for u in range(2)]
    seen = []  # of each point: [count * u * C, rows * columns * N]
    for row in of_input:
        rows = jnp.concatenate(
            [combined(row, [planes[u][s % 2][:, :, s // 2 : s // 2 + columns] for s in range(k + 1)]) for u in range(2)]
        )
        seen.append(jnp.concatenate([rows[:, a : a + length[0]] for a in range(window.count)]).reshape(-1, math.prod(length) * array.shape[-1]))
    matrices = _winograd_kernel(kernel)
    products = [jnp.einsum("ki,kj->ij", matrix, columns) for matrix, columns in zip(matrices, seen, strict=True)]
    features = kernel.shape[-1]
    pairs = [combined(row, products).reshape(2, features, -1) for row in of_output]
    return jnp.concatenate([pairs[v][u] for u, v in window.cell_out]), (seen, kernel, array.shape)


def _winograd_kernel(kernel: jax.Array) -> jax.Array:
    """[k, k, C, F] -> of each point a matrix [rows in * C, 2 * F]."""
    k = len(kernel)
    below = np.arange(k + 1)[:, None, None] - np.arange(2)[:, None] == np.arange(k)  # [rows in, rows out of a cell, k]
    of_kernel = transforms(k).of_kernel.astype(np.float32)
    matrix = jnp.einsum("rok,tl,klcf->trcof", below.astype(np.float32), of_kernel, kernel, precision=HIGHEST)
    return matrix.reshape(k + 1, (k + 1) * kernel.shape[2], -1)


def _winograd_backward(window: Window, length: tuple[int, int], saved: Any, gradient: jax.Array) -> Any:
    seen, kernel, shape = saved
    k, (rows, columns) = window.kernel_size, length
    of_output, _, of_input = transforms(k)
    channels, features = kernel.shape[2:]
    matrices, of_kernel = jax.vjp(_winograd_kernel, kernel)
    by_pixel = gradient.reshape(4, features, -1)
    pairs = [jnp.concatenate([by_pixel[window.cell_out.index((u, v))] for u in range(2)]) for v in range(2)]
    products = [combined(column, pairs) for column in of_output.T]  # of each point: [2 * F, M]
    kernel_gradient = of_kernel(jnp.stack([jnp.einsum("ik,jk->ij", s, g) for s, g in zip(seen, products, strict=True)]))[0]
    by_row = []  # of each point: [u * C, rows in, columns, N]
    for matrix, product in zip(matrices, products, strict=True):
        parts = (matrix @ product).reshape(window.count, 2 * channels, rows, columns, -1)
        total = jnp.zeros((2 * channels, shape[1], columns, shape[-1]))
        for a, part in enumerate(parts):
            total = lax.dynamic_update_slice(total, total[:, a : a + rows] + part, (0, a, 0, 0))
        by_row.append(total)
    planes = {}
    for v in range(2):
        total = jnp.zeros((2 * channels, *shape[1:]))
        for b in range(window.count):
            part = combined(of_input[:, 2 * b + v], by_row)
            total = lax.dynamic_update_slice(total, total[:, :, b : b + columns] + part, (0, 0, b, 0))
        planes[v] = total.reshape(2, channels, *shape[1:])
    return jnp.concatenate([planes[v][u] for u, v in window.cell_in]), kernel_gradient


winograd.defvjp(_winograd_forward, _winograd_backward)
