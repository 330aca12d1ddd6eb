"""Layers as the homeworks' tables name them, with TensorFlow's and Keras's meaning (padding, initialisers, moments).

Every layer is a Linen module called as `layer(x, context)`: x is float32 [N, H, W, C] or [N, K], context says what the
whole network shares. Kernels are [kh, kw, Cin, Cout] and [in, out] as in `nn.Conv` and `nn.Dense`.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from mnistlab import random_words
from mnistlab.errors import UserError
from mnistlab.nets import products, winograd
from mnistlab.nets.cells import (
    PIXEL,
    Cell,
    Cells,
    Columns,
    Image,
    fit,
    square_cell,
    to_cells,
    to_columns,
    to_image,
    windows,
)
from mnistlab.nets.planes import max_of_planes, mean_of_planes

ACTIVATIONS: dict[str | None, Callable[[jax.Array], jax.Array]] = {
    None: lambda x: x,
    "relu": nn.relu,
    "tanh": jnp.tanh,
    "sigmoid": nn.sigmoid,
}


class Context(NamedTuple):
    """What one call of a network tells all its layers."""

    train: bool = False
    weight: jax.Array | None = None  # float32 [N], 0 for an example that only fills up the batch; None: all count
    axis_name: str | None = None  # the mapped axis over which the batch is split, if it is
    dropout_at_evaluation: bool = False
    form: str = "cells"
    first: jax.Array | None = None  # int32 []: the place of the first example in the whole batch, if this is a part


FORMS = ("cells", "slices", "lax")  # how a convolution may be computed


def convolution_form(backend: str) -> str:
    """The quickest form of a convolution on a backend.

    "lax" is XLA's own convolution. XLA's CPU compiler makes a naive loop of its gradients inside `lax.scan`, and `vmap`
    over seeds makes grouped convolutions of it, which cuDNN runs slowly; "slices" (shifted slices, one matmul) has
    neither fault. "cells" is "slices" over cells of several pixels, wide enough for the CPU's vector units, and the
    quickest on an H100 too, with one seed and with 16 (docs/gpu.md). On a TPU "lax" is an expectation.

    >>> convolution_form("cpu")
    'cells'
    """
    return "lax" if backend == "tpu" else "cells"


def same_padding(size: int, window: int, stride: int = 1) -> tuple[int, int]:
    """TensorFlow's "SAME" padding of one side of length `size`: (before, after), the odd one after.

    >>> same_padding(28, 5, 2), same_padding(3, 2)
    ((1, 2), (0, 1))
    """
    total = max((-(-size // stride) - 1) * stride + window - size, 0)
    return total // 2, total - total // 2


class Layer(nn.Module):
    """One row of a network's table: `layer(x, context, cell)` -> cells of the kind `cell`, or [N, K]."""

    def cell_before(self, cell: Cell) -> Cell:
        """The cells in which the input should come if the output is to come in `cell`."""
        return cell

    def shape_after(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Output shape without the batch, from the input's."""
        return shape


class Pad(Layer):
    """`size` rows and columns of zeros on every side."""

    size: int

    def shape_after(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        h, w, c = shape
        return h + 2 * self.size, w + 2 * self.size, c

    def __call__(self, x: Image, context: Context, cell: Cell) -> jax.Array:
        return jnp.pad(to_image(x), ((0, 0), (self.size, self.size), (self.size, self.size), (0, 0)))

    def __str__(self) -> str:
        return f"pad {self.size}"


def _last(value: jax.Array, like: jax.Array) -> jax.Array:
    """`value` along the last axes of `like`, with as many axes: broadcasting across ranks is an error in the tests."""
    return value.reshape((1,) * (like.ndim - value.ndim) + value.shape)


class Conv(Layer):
    """y = activation(x * kernel + bias); Glorot-uniform kernel [k, k, Cin, Cout], zero bias.

    In the forms "cells" and "slices" the kernel is spread over cells: what is a k x k convolution of pixels is a small
    dense kernel over few cells, computed as one matmul over shifted slices.
    """

    features: int
    kernel_size: int
    stride: int = 1
    padding: str = "VALID"
    activation: str | None = None

    def cell_before(self, cell: Cell) -> Cell:
        return square_cell(math.isqrt(len(cell)) * self.stride)

    def paddings(self, shape: tuple[int, ...]) -> tuple[tuple[int, int], tuple[int, int]]:
        """((above, below), (left, right)) of an image (H, W, C).

        Raises:
          UserError: a padding that is neither "VALID" nor "SAME", in whichever letters.
        """
        if self.padding.upper() == "VALID":
            return (0, 0), (0, 0)
        if self.padding.upper() != "SAME":
            raise UserError(f"padding is {self.padding!r}; expected VALID or SAME")
        h, w = (same_padding(size, self.kernel_size, self.stride) for size in shape[:2])
        return h, w

    def shape_after(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        padded = [size + sum(pad) for size, pad in zip(shape, self.paddings(shape), strict=False)]
        h, w = ((size - self.kernel_size) // self.stride + 1 for size in padded)
        return h, w, self.features

    @nn.compact
    def __call__(self, x: Image, context: Context, cell: Cell) -> Cells:
        k = self.kernel_size
        kernel = self.param("kernel", nn.initializers.glorot_uniform(), (k, k, x.shape[-1], self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        if context.form == "lax":
            y = lax.conv_general_dilated(
                to_image(x),
                kernel,
                (self.stride, self.stride),
                self.paddings(x.shape[1:]),
                dimension_numbers=("NHWC", "HWIO", "NHWC"),
            )
            return to_cells(ACTIVATIONS[self.activation](y + _last(bias, y)), cell)
        return self._product(x, kernel, bias, cell)

    def _product(self, x: Image, kernel: jax.Array, bias: jax.Array, cell: Cell) -> Cells:
        """The output's cells, as products over the cells of the input that each of them sees."""
        (top, _), (left, _) = self.paddings(x.shape[1:])
        height, width, _ = self.shape_after(x.shape[1:])
        size = math.isqrt(len(cell)) * self.stride  # pixels from one output cell to the next: the side of an input cell
        rows, columns = height * self.stride // size, width * self.stride // size
        offset = 0
        if isinstance(x, Cells) and x.size == size and top == left:
            before = -(-top // size)  # whole cells of padding
            offset = before * size - top
            count = -(-(offset + size - self.stride + self.kernel_size) // size)
            x = fit(x, (before, before), (rows - 1 + count, columns - 1 + count))
        else:
            count = -(-(size - self.stride + self.kernel_size) // size)
            need = (rows - 1 + count) * size, (columns - 1 + count) * size
            x = to_cells(fit(to_cells(x, PIXEL), (top, left), need), square_cell(size))
        window = products.Window(self.kernel_size, self.stride, offset, count, x.cell, cell)
        if winograd.computes(window):
            y = winograd.convolve(x.array, kernel, window, (rows, columns))
        else:
            seen = products.patches(x.array, count, (rows, columns))
            y = (products.direct if kernel.shape[2] == 1 else products.dense)(seen, kernel, window)
        y = ACTIVATIONS[self.activation](y + jnp.tile(bias, len(cell)).reshape(-1, 1))
        return Cells(y.reshape(-1, rows, columns, x.array.shape[-1]), cell)

    def __str__(self) -> str:
        stride = f" stride {self.stride}" if self.stride > 1 else ""
        k = self.kernel_size
        return f"conv {self.features} {k}x{k}{stride} {self.padding.lower()} {self.activation or ''}".strip()


class _Pool(Layer):
    window: int
    stride: int | None = None

    def cell_before(self, cell: Cell) -> Cell:
        """The pixels that become one are `len(cell)` apart: pooling then adds contiguous blocks."""
        if self.stride not in (None, self.window):
            return PIXEL
        return tuple((y * self.window + v, x * self.window + u) for v, u in square_cell(self.window) for y, x in cell)

    def shape_after(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        h, w = ((size - self.window) // (self.stride or self.window) + 1 for size in shape[:2])
        return h, w, shape[-1]

    def _windows(self, x: Image, cell: Cell) -> tuple[jax.Array, Cell]:
        """[window ** 2, pixels * C, rows, columns, N] and the cell of what remains when axis 0 is reduced."""
        before = self.cell_before(cell)
        if isinstance(x, Cells) and x.cell == before != PIXEL:
            return x.array.reshape(self.window**2, -1, *x.array.shape[1:]), cell
        h, w, c = self.shape_after(x.shape[1:])
        stride = self.stride or self.window
        count = -(-self.window // stride)
        need = (h - 1 + count) * stride, (w - 1 + count) * stride
        pixels = to_cells(fit(to_cells(x, PIXEL), (0, 0), need), square_cell(stride))
        seen = windows(pixels.array, square_cell(count), (h, w))
        seen = seen.reshape(count, count, stride, stride, c, *seen.shape[2:]).transpose(0, 2, 1, 3, 4, 5, 6, 7)
        seen = seen.reshape(count * stride, count * stride, *seen.shape[4:])[: self.window, : self.window]
        return seen.reshape(self.window**2, *seen.shape[2:]), PIXEL

    def _description(self, kind: str) -> str:
        return f"{kind} {self.window}" + (f" stride {self.stride}" if self.stride else "")


class AvgPool(_Pool):
    """Mean over windows; no padding, so what does not fill a window is dropped. The stride is the window's if None."""

    def __call__(self, x: Image, context: Context, cell: Cell) -> Cells:
        seen, kept = self._windows(x, cell)
        return to_cells(Cells(mean_of_planes(seen), kept), cell)

    def __str__(self) -> str:
        return self._description("avgpool")


class MaxPool(_Pool):
    """Largest of each window, by reshape and max; no padding, stride as in AvgPool."""

    def __call__(self, x: Image, context: Context, cell: Cell) -> Cells:
        seen, kept = self._windows(x, cell)
        return to_cells(Cells(max_of_planes(seen), kept), cell)

    def __str__(self) -> str:
        return self._description("maxpool")


class LocalResponseNorm(Layer):
    """TensorFlow's: y_c = x_c / (bias + alpha * sum of x^2 over channels c-r..c+r) ^ beta."""

    depth_radius: int = 2
    bias: float = 1.0
    alpha: float = 2e-5
    beta: float = 0.75

    def __call__(self, x: Image, context: Context, cell: Cell) -> Cells:
        def normalise(pixels: jax.Array) -> jax.Array:
            channel = np.arange(pixels.shape[1])
            near = (abs(channel[:, None] - channel) <= self.depth_radius).astype(np.float32)
            total = jnp.einsum("cd,pdhwn->pchwn", near, pixels * pixels, precision=lax.Precision.HIGHEST)
            return pixels * (self.bias + self.alpha * total) ** -self.beta

        return to_cells(x, cell).map(normalise)

    def __str__(self) -> str:
        return f"local response normalisation {self.depth_radius}"


class BatchNorm(Layer):
    """y = gamma (x - mean) / sqrt(var + epsilon) + beta over examples and pixels; examples count by their weight.

    Keras's constants, and as Keras the biased variance in the moving average too. Collection "batch_stats": mean, var.
    """

    momentum: float = 0.99
    epsilon: float = 1e-3

    @nn.compact
    def __call__(self, x: Image, context: Context, cell: Cell) -> Image:
        if len(x.shape) == 2:
            x = to_columns(x)
            return Columns(self._normalise(x.array[None], context)[0])
        return to_cells(x, cell).map(lambda pixels: self._normalise(pixels, context))

    def _normalise(self, x: jax.Array, context: Context) -> jax.Array:
        """x: [pixels, C, ..., N]."""
        channels, n = x.shape[1], x.shape[-1]
        gamma = self.param("scale", nn.initializers.ones, (channels,))
        beta = self.param("bias", nn.initializers.zeros, (channels,))
        mean_ = self.variable("batch_stats", "mean", jnp.zeros, (channels,))
        var_ = self.variable("batch_stats", "var", jnp.ones, (channels,))

        def along_channels(value: jax.Array) -> jax.Array:
            return value.reshape(1, -1, *[1] * (x.ndim - 2))

        mean, var = mean_.value, var_.value
        if context.train:
            axes = (0, *range(2, x.ndim))
            weight = jnp.ones(n, x.dtype) if context.weight is None else context.weight
            each = _last(weight, x)

            def total(value: jax.Array) -> jax.Array:
                return lax.psum(value, context.axis_name) if context.axis_name else value

            count = jnp.maximum(total(weight.sum()), 1.0) * (x.size // (n * channels))
            mean = total((each * x).sum(axes)) / count
            var = total((each * (x - along_channels(mean)) ** 2).sum(axes)) / count
            if not self.is_initializing():
                mean_.value = self.momentum * mean_.value + (1 - self.momentum) * mean
                var_.value = self.momentum * var_.value + (1 - self.momentum) * var
        factor = gamma * lax.rsqrt(var + self.epsilon)
        return (x - along_channels(mean)) * along_channels(factor) + along_channels(beta)

    def __str__(self) -> str:
        return "batchnorm"


class Dropout(Layer):
    """y = x * mask / (1 - rate), mask drawn for each example from its position in the whole batch.

    The rate is a float32 scalar in collection "settings", so that a sweep over rates is a vmap; it is met to 1 / 65536.
    Needs rngs={"dropout": key}.
    """

    rate: float

    @nn.compact
    def __call__(self, x: Image, context: Context, cell: Cell) -> Image:
        rate = self.variable("settings", "rate", lambda: jnp.float32(self.rate)).value
        if self.is_initializing() or not (context.train or context.dropout_at_evaluation):
            return x
        n, *shape = x.shape
        position = jnp.arange(n)
        if context.first is not None:
            position += context.first
        elif context.axis_name:
            position += lax.axis_index(context.axis_name) * n
        key = self.make_rng("dropout")
        size = math.prod(shape)
        words = random_words.of_examples(key, position, -(-size // 2))
        halves = lax.bitcast_convert_type(words, jnp.uint16).reshape(n, -1)[:, :size]  # two draws from each word
        draw = halves.reshape(x.shape)
        if isinstance(x, jax.Array):
            return x * self._scale(draw, rate)
        draw = to_cells(draw, x.cell).array if isinstance(x, Cells) else draw.T
        return dataclasses.replace(x, array=x.array * self._scale(draw, rate))

    def _scale(self, draw: jax.Array, rate: jax.Array) -> jax.Array:
        return (draw >= jnp.round(rate * 65536).astype(jnp.uint32)) / (1 - rate)

    def __str__(self) -> str:
        return f"dropout {self.rate:g}"


class Flatten(Layer):
    """[N, H, W, C] -> [N, H * W * C]; cells become columns."""

    def cell_before(self, cell: Cell) -> Cell:
        return PIXEL

    def shape_after(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return (math.prod(shape),)

    def __call__(self, x: Image, context: Context, cell: Cell) -> Image:
        if isinstance(x, jax.Array):
            return x.reshape(x.shape[0], -1)
        assert isinstance(x, Cells)
        planes = to_cells(x, PIXEL).array  # [C, H, W, N]
        return Columns(planes.transpose(1, 2, 0, 3).reshape(-1, planes.shape[-1]))

    def __str__(self) -> str:
        return "flatten"


class Dense(Layer):
    """y = activation(x @ kernel + bias); Glorot-uniform kernel [in, out], zero bias."""

    features: int
    activation: str | None = None
    use_bias: bool = True

    def shape_after(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return (self.features,)

    @nn.compact
    def __call__(self, x: Image, context: Context, cell: Cell) -> Image:
        kernel = self.param("kernel", nn.initializers.glorot_uniform(), (x.shape[-1], self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,)) if self.use_bias else None
        activation = ACTIVATIONS[self.activation]
        if isinstance(x, jax.Array):
            y = x @ kernel
            return activation(y if bias is None else y + _last(bias, y))
        y = jnp.einsum("ki,kj->ij", kernel, to_columns(x).array)
        return Columns(activation(y if bias is None else y + bias.reshape(-1, 1)))

    def __str__(self) -> str:
        bias = "" if self.use_bias else " without bias"
        return f"dense {self.features} {self.activation or ''}".strip() + bias


class Inception(Layer):
    """GoogLeNet's block: 1x1, 3x3 after a 1x1, 5x5 after a 1x1, and 1x1 after a 3x3 max pool, side by side in channels.

    `filters` in the order (1x1, 3x3, 5x5, pool projection, 3x3 reduce, 5x5 reduce). All SAME, all relu.
    """

    filters: tuple[int, int, int, int, int, int]

    def cell_before(self, cell: Cell) -> Cell:
        return PIXEL

    def shape_after(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return *shape[:2], sum(self.filters[:4])

    @nn.compact
    def __call__(self, x: Image, context: Context, cell: Cell) -> Cells:
        one, three, five, projection, three_reduce, five_reduce = self.filters
        x = to_cells(x, PIXEL)

        def conv(features: int, size: int, name: str, x: Cells) -> Cells:
            return Conv(features, size, padding="SAME", activation="relu", name=name)(x, context, PIXEL)

        _, h, w, _ = x.shape
        largest = MaxPool(3, stride=1)(fit(x, (1, 1), (h + 2, w + 2), -jnp.inf), context, PIXEL)
        branches = (
            conv(one, 1, "one", x),
            conv(three, 3, "three", conv(three_reduce, 1, "three_reduce", x)),
            conv(five, 5, "five", conv(five_reduce, 1, "five_reduce", x)),
            conv(projection, 1, "projection", largest),
        )
        return to_cells(Cells(jnp.concatenate([branch.array for branch in branches])), cell)

    def __str__(self) -> str:
        return f"inception {' '.join(map(str, self.filters))} relu"
