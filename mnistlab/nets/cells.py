"""Images cut into cells of pixels, the batch last: the form in which a convolution is one product of two matrices."""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

Cell = tuple[tuple[int, int], ...]  # the pixels (row, column) of a square cell, in the order in which they are kept
PIXEL: Cell = ((0, 0),)


def square_cell(size: int) -> Cell:
    """The cell of size x size pixels, row by row."""
    return tuple((y, x) for y in range(size) for x in range(size))


@dataclasses.dataclass(frozen=True)
class Cells:
    """Images cut into square cells: array float32 [pixels * C, rows, columns, N].

    The batch is the longest axis and is last, so that every loop and every product runs along it.
    """

    array: jax.Array
    cell: Cell = PIXEL

    @property
    def size(self) -> int:
        """Side of a cell in pixels."""
        return math.isqrt(len(self.cell))

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(N, H, W, C), as the user thinks of it."""
        width, rows, columns, n = self.array.shape
        return n, rows * self.size, columns * self.size, width // len(self.cell)

    @property
    def pixels(self) -> jax.Array:
        """[pixels, C, rows, columns, N]."""
        return self.array.reshape(len(self.cell), -1, *self.array.shape[1:])

    def map(self, function: Callable[[jax.Array], jax.Array]) -> "Cells":
        """The function applied to `pixels`, whose shape it keeps."""
        return dataclasses.replace(self, array=function(self.pixels).reshape(self.array.shape))


@dataclasses.dataclass(frozen=True)
class Columns:
    """Vectors, the batch last: array float32 [K, N]."""

    array: jax.Array

    @property
    def shape(self) -> tuple[int, int]:
        """(N, K), as the user thinks of it."""
        return self.array.shape[1], self.array.shape[0]


Image = jax.Array | Cells | Columns
"""What a layer gives the next one: [N, H, W, C] or [N, K], or the same with the batch last."""


def to_cells(image: Image, cell: Cell) -> Cells:
    """[N, H, W, C] or other cells -> cells; H and W must be multiples of the cell's side."""
    if isinstance(image, Cells) and image.cell == cell:
        return image
    planes = _planes(image)
    if cell == PIXEL:
        return Cells(planes)
    c, h, w, n = planes.shape
    size = math.isqrt(len(cell))
    array = planes.reshape(c, h // size, size, w // size, size, n).transpose(2, 4, 0, 1, 3, 5)
    array = array.reshape(size * size, c, h // size, w // size, n)
    if cell != square_cell(size):
        array = jnp.stack([array[y * size + x] for y, x in cell])
    return Cells(array.reshape(-1, *array.shape[2:]), cell)


def to_columns(x: Image) -> Columns:
    """[N, K] with the batch last."""
    if isinstance(x, Columns):
        return x
    assert isinstance(x, jax.Array)
    return Columns(x.T)


def to_image(x: Image) -> jax.Array:
    """Cells -> [N, H, W, C]."""
    if isinstance(x, Columns):
        return x.array.T
    return _planes(x).transpose(3, 1, 2, 0) if isinstance(x, Cells) else x


def _planes(x: Image) -> jax.Array:
    """[C, H, W, N]."""
    if not isinstance(x, Cells):
        assert isinstance(x, jax.Array)
        return x.transpose(3, 1, 2, 0)
    if x.cell == PIXEL:
        return x.array
    pixels, size = x.pixels, x.size
    if x.cell != square_cell(size):
        pixels = jnp.stack([pixels[x.cell.index(pixel)] for pixel in square_cell(size)])
    _, c, rows, columns, n = pixels.shape
    pixels = pixels.reshape(size, size, c, rows, columns, n).transpose(2, 3, 0, 4, 1, 5)
    return pixels.reshape(c, rows * size, columns * size, n)


def fit(x: Cells, before: tuple[int, int], length: tuple[int, int], value: float = 0.0) -> Cells:
    """`before` rows and columns of cells of `value` first, then more of them last, or some cut, to have `length`."""
    array = x.array
    for axis, first, total in zip((1, 2), before, length, strict=True):
        array = lax.slice_in_dim(array, 0, min(array.shape[axis], total - first), axis=axis)
        sizes = [first, total - first - array.shape[axis]]
        # Joined, not padded: XLA's CPU compiler fuses what is joined with the loops that read it.
        ends = [jnp.full((*array.shape[:axis], size, *array.shape[axis + 1 :]), value, array.dtype) for size in sizes]
        array = jnp.concatenate([part for part in (ends[0], array, ends[1]) if part.shape[axis]], axis)
    return dataclasses.replace(x, array=array)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def windows(array: jax.Array, starts: tuple[tuple[int, int], ...], length: tuple[int, int]) -> jax.Array:
    """Parts of [K, rows, columns, N], `length` rows and columns from each of `starts`: [len(starts), K, *length, N].

    Their gradients are added in place, one after another: XLA's own sum of padded arrays takes longer on a CPU.
    """
    h, w = length
    return jnp.stack([array[:, y : y + h, x : x + w] for y, x in starts])


def _windows_forward(
    array: jax.Array, starts: tuple[tuple[int, int], ...], length: tuple[int, int]
) -> tuple[jax.Array, tuple[int, ...]]:
    return windows(array, starts, length), array.shape


def _windows_backward(
    starts: tuple[tuple[int, int], ...], length: tuple[int, int], shape: tuple[int, ...], gradient: jax.Array
) -> tuple[jax.Array]:
    del length
    return (windows_added(list(gradient), starts, shape),)


windows.defvjp(_windows_forward, _windows_backward)


def windows_added(parts: Sequence[jax.Array], starts: tuple[tuple[int, int], ...], shape: tuple[int, ...]) -> jax.Array:
    """The transpose of `windows`: an array [K, rows, columns, N] in which each part is added from its start on."""
    total = jnp.zeros(shape, parts[0].dtype)
    for (y, x), part in zip(starts, parts, strict=True):
        _, h, w, _ = part.shape
        total = lax.dynamic_update_slice(total, total[:, y : y + h, x : x + w] + part, (0, y, x, 0))
    return total


def expansion(kernel_size: int, stride: int, offset: int, count: int, cell_in: Cell, cell_out: Cell) -> np.ndarray:
    """0/1 array [count * count * pixels in, pixels out, kernel_size ** 2]: which kernel element joins which two pixels.

    The output's cell sees count x count input cells; its first pixel's window begins `offset` pixels inside them.
    """
    size = math.isqrt(len(cell_in))
    seen = [(a * size + u, b * size + v) for a in range(count) for b in range(count) for u, v in cell_in]
    rows = np.array([[y - offset - stride * v for v, _ in cell_out] for y, _ in seen])
    columns = np.array([[x - offset - stride * v for _, v in cell_out] for _, x in seen])
    inside = (rows >= 0) & (rows < kernel_size) & (columns >= 0) & (columns < kernel_size)
    index = np.where(inside, rows * kernel_size + columns, -1)
    return (index[..., None] == np.arange(kernel_size**2)).astype(np.float32)
