"""Winograd's minimal filtering in one dimension: a convolution of 2 x 2 cells with half the multiplications."""

import functools
import operator
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from mnistlab.nets.cells import windows_added
from mnistlab.nets.products import Window

LARGEST_KERNEL = 5


class Transforms(NamedTuple):
    """of_output ((of_kernel g) * (of_input d)) is y_o = sum_i g_i d_(o + i) for o = 0, 1: float64."""

    of_output: np.ndarray  # [2, k + 1]
    of_kernel: np.ndarray  # [k + 1, k]
    of_input: np.ndarray  # [k + 1, k + 1]


def transforms(kernel_size: int) -> Transforms:
    """Of F(2, k), by Toom and Cook: polynomials are multiplied at the points 0, 1, -1, 2, -2, ... and infinity.

    The product of polynomials with 2 and k coefficients is V^-1 ((V_k g) * (V_2 y)), V being the values at the points;
    its transpose in y is the correlation. Winograd 1980, Arithmetic Complexity of Computations.

    >>> transforms(3).of_input
    array([[-1.,  0.,  1.,  0.],
           [ 0.,  1.,  1.,  0.],
           [ 0., -1.,  1.,  0.],
           [ 0., -1.,  0.,  1.]])
    """
    size = kernel_size + 1
    points = np.array([0.0] + [(1 + i // 2) * (-1.0) ** i for i in range(size - 2)])

    def values(num_coefficients: int) -> np.ndarray:
        powers = points[:, None] ** np.arange(num_coefficients)
        return np.vstack([powers, np.eye(num_coefficients)[-1:]])

    scale = np.array([np.prod(point - np.delete(points, i)) for i, point in enumerate(points)] + [1.0])[:, None]
    of_input = np.linalg.inv(values(size)).T * scale
    return Transforms(values(2).T, values(kernel_size) / scale, np.round(of_input) + 0.0)


def computes(window: Window) -> bool:
    """Whether whole cells of 2 x 2 pixels go to cells of 2 x 2, what `convolve` is for, and the kernel is small enough.

    Larger ones take more points, further from 0, and terms cancel that float32 cannot hold.
    """
    whole = window.offset == 0 and 2 * window.num_cells == window.kernel_size + 1
    small = window.kernel_size <= LARGEST_KERNEL
    return whole and small and window.stride == 1 and len(window.cell_in) == len(window.cell_out) == 4


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def convolve(array: jax.Array, kernel: jax.Array, window: Window, length: tuple[int, int]) -> jax.Array:
    """[4 * Cin, rows in, columns in, N], kernel [k, k, Cin, Cout] -> [4 * Cout, rows * columns * N].

    The k + 1 columns that a pair of columns sees are transformed, k + 1 products over rows and channels taken, and
    transformed back. `length` is (rows, columns) of the output's cells. Lavin and Gray 2016, arXiv 1509.09308.
    """
    return _forward(array, kernel, window, length)[0]


Saved = tuple[list[jax.Array], jax.Array, tuple[int, ...]]


def _forward(array: jax.Array, kernel: jax.Array, window: Window, length: tuple[int, int]) -> tuple[jax.Array, Saved]:
    k, (rows, columns) = window.kernel_size, length
    of_output, _, of_input = transforms(k)
    pixels = array.reshape(4, -1, *array.shape[1:])
    planes = [[pixels[window.cell_in.index((u, v))] for v in range(2)] for u in range(2)]
    seen = []  # at each point [(count, u, Cin), M]
    for row in of_input:
        along = jnp.concatenate(
            [_combined(row, [planes[u][s % 2][:, :, s // 2 : s // 2 + columns] for s in range(k + 1)]) for u in (0, 1)]
        )
        down = jnp.concatenate([along[:, a : a + rows] for a in range(window.num_cells)])
        seen.append(down.reshape(len(down), -1))
    products = [jnp.einsum("ki,kj->ij", matrix, at) for matrix, at in zip(_matrices(kernel), seen, strict=True)]
    pairs = [_combined(row, products).reshape(2, kernel.shape[-1], -1) for row in of_output]
    return jnp.concatenate([pairs[v][u] for u, v in window.cell_out]), (seen, kernel, array.shape)


def _matrices(kernel: jax.Array) -> jax.Array:
    """[k, k, Cin, Cout] -> at each point a matrix [(rows in, Cin), (rows out of a cell, Cout)]."""
    k = len(kernel)
    below = np.arange(k + 1)[:, None, None] - np.arange(2)[:, None] == np.arange(k)
    of_kernel = transforms(k).of_kernel.astype(np.float32)
    matrix = jnp.einsum(
        "rok,tl,klcf->trcof", below.astype(np.float32), of_kernel, kernel, precision=lax.Precision.HIGHEST
    )
    return matrix.reshape(k + 1, (k + 1) * kernel.shape[2], -1)


def _backward(
    window: Window, length: tuple[int, int], saved: Saved, gradient: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Written out: XLA's CPU compiler makes slow sums of padded arrays of the slices' own gradients."""
    seen, kernel, shape = saved
    rows, columns = length
    of_output, _, of_input = transforms(window.kernel_size)
    matrices, to_kernel = jax.vjp(_matrices, kernel)
    pixels = gradient.reshape(4, kernel.shape[-1], -1)
    pairs = [jnp.concatenate([pixels[window.cell_out.index((u, v))] for u in range(2)]) for v in range(2)]
    products = [_combined(column, pairs) for column in of_output.T]  # at each point [(rows out, Cout), M]
    of_matrices = [jnp.einsum("ik,jk->ij", at, product) for at, product in zip(seen, products, strict=True)]
    along = []  # at each point [(u, Cin), rows in, columns, N]
    for matrix, product in zip(matrices, products, strict=True):
        down = (matrix @ product).reshape(window.num_cells, -1, rows, columns, shape[-1])
        to = (down.shape[1], shape[1], columns, shape[-1])
        along.append(windows_added(list(down), tuple((a, 0) for a in range(window.num_cells)), to))
    planes = []
    for v in range(2):
        parts = [_combined(of_input[:, 2 * b + v], along) for b in range(window.num_cells)]
        whole = windows_added(parts, tuple((0, b) for b in range(window.num_cells)), (len(parts[0]), *shape[1:]))
        planes.append(whole.reshape(2, -1, *shape[1:]))
    return jnp.concatenate([planes[v][u] for u, v in window.cell_in]), to_kernel(jnp.stack(of_matrices))[0]


convolve.defvjp(_forward, _backward)


def _combined(coefficients: np.ndarray, arrays: Sequence[jax.Array]) -> jax.Array:
    """sum_i coefficient_i array_i, without those whose coefficient is 0."""
    pairs = [(float(number), array) for number, array in zip(coefficients, arrays, strict=True) if number]
    return functools.reduce(operator.add, [array if number == 1 else number * array for number, array in pairs])
