"""Images cut into cells of pixels, the form in which a convolution is one matrix product."""

import dataclasses
import math
from collections.abc import Callable

import jax
import numpy as np

Cell = tuple[tuple[int, int], ...]  # the pixels (row, column) of a square cell, in the order in which they are kept
PIXEL: Cell = ((0, 0),)


def square_cell(size: int) -> Cell:
    """The cell of size x size pixels, row by row."""
    return tuple((y, x) for y in range(size) for x in range(size))


@dataclasses.dataclass(frozen=True)
class Cells:
    """Images cut into square cells: array float32 [rows, columns, N, pixels * C], the batch in the middle.

    Rows, columns and batch together are the rows of one matmul; a cell's pixels and channels are its columns.
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
        rows, columns, n, width = self.array.shape
        return n, rows * self.size, columns * self.size, width // len(self.cell)

    @property
    def pixels(self) -> jax.Array:
        """[rows, columns, N, pixels, C]."""
        return self.array.reshape(*self.array.shape[:3], len(self.cell), -1)

    def map(self, function: Callable[[jax.Array], jax.Array]) -> "Cells":
        """The function applied to `pixels`, whose shape it keeps."""
        return dataclasses.replace(self, array=function(self.pixels).reshape(self.array.shape))


def to_cells(image: jax.Array | Cells, cell: Cell) -> Cells:
    """[N, H, W, C] or other cells -> cells; H and W must be multiples of the cell's side."""
    if isinstance(image, Cells):
        if image.cell == cell:
            return image
        image = to_image(image)
    n, h, w, c = image.shape
    size = math.isqrt(len(cell))
    array = image.reshape(n, h // size, size, w // size, size, c).transpose(1, 3, 0, 2, 4, 5)
    array = array.reshape(h // size, w // size, n, size * size, c)
    if cell != square_cell(size):
        array = array[..., np.array([y * size + x for y, x in cell]), :]
    return Cells(array.reshape(h // size, w // size, n, -1), cell)


def to_image(x: jax.Array | Cells) -> jax.Array:
    """Cells -> [N, H, W, C]."""
    if not isinstance(x, Cells):
        return x
    pixels, size = x.pixels, x.size
    if x.cell != square_cell(size):
        pixels = pixels[..., np.array([x.cell.index(pixel) for pixel in square_cell(size)]), :]
    rows, columns, n, _, c = pixels.shape
    return pixels.reshape(rows, columns, n, size, size, c).transpose(2, 0, 3, 1, 4, 5).reshape(x.shape)


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
