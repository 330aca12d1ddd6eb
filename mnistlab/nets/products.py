"""A convolution of cells by products: a dense one over all pixels that a cell sees, or a direct sum for one channel."""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from mnistlab.nets.cells import Cell, expansion, square_cell, windows


class Window(NamedTuple):
    """What an output cell sees: num_cells x num_cells input cells, the window of its first pixel `offset` inside."""

    kernel_size: int
    stride: int
    offset: int
    num_cells: int
    cell_in: Cell
    cell_out: Cell


def patches(array: jax.Array, count: int, length: tuple[int, int]) -> jax.Array:
    """[K, rows, columns, N] -> the count x count cells that each of `length` cells sees, [count ** 2 * K, M].

    M is rows * columns * N of the output, here and below.
    """
    seen = windows(array, square_cell(count), length)
    return seen.reshape(-1, math.prod(seen.shape[2:]))


def dense(seen: jax.Array, kernel: jax.Array, window: Window) -> jax.Array:
    """Patches, kernel [k, k, Cin, Cout] -> [pixels out * Cout, M]: one product with the kernel spread over them."""
    joined = expansion(*window)
    matrix = jnp.einsum("spk,kio->sipo", joined, kernel.reshape(-1, *kernel.shape[2:]), precision=lax.Precision.HIGHEST)
    return jnp.einsum("ki,kj->ij", matrix.reshape(len(seen), -1), seen)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def direct(seen: jax.Array, kernel: jax.Array, window: Window) -> jax.Array:
    """As `dense` for one channel in, without its products with zeros: k x k multiply-adds along the batch a pixel.

    The gradient is that of `dense`: as a sum it would be slower.
    """
    return _direct(seen, kernel, window)


@functools.partial(jax.jit, static_argnums=2, inline=True)  # traced once for all programs, of which it is a part
def _direct(seen: jax.Array, kernel: jax.Array, window: Window) -> jax.Array:
    shape = kernel.shape[-1], seen.shape[-1]
    taps = [jnp.broadcast_to(tap[:, None], shape) for tap in kernel.reshape(-1, kernel.shape[-1])]
    pixels = [jnp.broadcast_to(pixel, shape) for pixel in seen]
    planes = []
    for joined in expansion(*window).transpose(1, 0, 2):
        terms = [lax.mul(taps[k], pixels[s]) for s, k in zip(*np.nonzero(joined), strict=True)]
        planes.append(functools.reduce(lax.add, terms))
    return jnp.concatenate(planes)


def _direct_forward(
    seen: jax.Array, kernel: jax.Array, window: Window
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return direct(seen, kernel, window), (seen, kernel)


def _direct_backward(
    window: Window, saved: tuple[jax.Array, jax.Array], gradient: jax.Array
) -> tuple[jax.Array, jax.Array]:
    return jax.vjp(functools.partial(dense, window=window), *saved)[1](gradient)


direct.defvjp(_direct_forward, _direct_backward)
