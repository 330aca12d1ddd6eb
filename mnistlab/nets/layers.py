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

from mnistlab.nets.cells import PIXEL, Cell, Cells, expansion, square_cell, to_cells, to_image

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


def convolution_form(backend: str) -> str:
    """The quickest form of a convolution on a backend.

    "lax" is XLA's own convolution. XLA's CPU compiler makes a naive loop of its gradients inside `lax.scan`, and `vmap`
    over seeds makes grouped convolutions of it, which cuDNN runs slowly; "slices" (shifted slices, one matmul) has
    neither fault. "cells" is "slices" over cells of several pixels, wide enough for the CPU's vector units. Measured on
    a CPU only; the choice for the others is an expectation.

    >>> convolution_form("cpu")
    'cells'
    """
    return {"cpu": "cells", "tpu": "lax"}.get(backend, "slices")


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

    def __call__(self, x: jax.Array | Cells, context: Context, cell: Cell) -> jax.Array:
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

    def _paddings(self, shape: tuple[int, ...]) -> tuple[tuple[int, int], tuple[int, int]]:
        if self.padding == "VALID":
            return (0, 0), (0, 0)
        h, w = (same_padding(size, self.kernel_size, self.stride) for size in shape[:2])
        return h, w

    def shape_after(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        padded = [size + sum(pad) for size, pad in zip(shape, self._paddings(shape), strict=False)]
        h, w = ((size - self.kernel_size) // self.stride + 1 for size in padded)
        return h, w, self.features

    @nn.compact
    def __call__(self, x: jax.Array | Cells, context: Context, cell: Cell) -> Cells:
        k = self.kernel_size
        kernel = self.param("kernel", nn.initializers.glorot_uniform(), (k, k, x.shape[-1], self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        if context.form == "lax":
            y = lax.conv_general_dilated(
                to_image(x),
                kernel,
                (self.stride, self.stride),
                self.padding,
                dimension_numbers=("NHWC", "HWIO", "NHWC"),
            )
            return to_cells(ACTIVATIONS[self.activation](y + _last(bias, y)), cell)
        return Cells(self._product(x, kernel, bias, cell), cell)

    def _product(self, x: jax.Array | Cells, kernel: jax.Array, bias: jax.Array, cell: Cell) -> jax.Array:
        """The output's cells, as one matmul over shifted slices of the input's cells."""
        shape = x.shape[1:]
        (top, _), (left, _) = self._paddings(shape)
        height, width, _ = self.shape_after(shape)
        step = math.isqrt(len(cell)) * self.stride  # pixels from one output cell to the next
        if isinstance(x, Cells) and (step % x.size or top != left):
            x = to_image(x)
        size = x.size if isinstance(x, Cells) else step
        rows, columns = height * self.stride // step, width * self.stride // step
        before = -(-top // size) if isinstance(x, Cells) else 0  # whole cells of padding
        offset = before * size - top if isinstance(x, Cells) else 0
        count = -(-(offset + (step - self.stride) + self.kernel_size) // size)
        stride = step // size
        need = (rows - 1) * stride + count, (columns - 1) * stride + count  # cells
        if isinstance(x, Cells):
            array, cell_in = x.array, x.cell
            array = _fit(array, (0, 1), (before, before), need)
        else:
            cell_in = square_cell(size)
            image = _fit(x, (1, 2), (top, left), (need[0] * size, need[1] * size))
            array = to_cells(image, cell_in).array
        patches = jnp.concatenate(
            [
                array[a : a + (rows - 1) * stride + 1 : stride, b : b + (columns - 1) * stride + 1 : stride]
                for a, b in square_cell(count)
            ],
            -1,
        )
        channels = kernel.shape[2:]
        joined = expansion(self.kernel_size, self.stride, offset, count, cell_in, cell)
        matrix = jnp.einsum("spk,kio->sipo", joined, kernel.reshape(-1, *channels), precision=lax.Precision.HIGHEST)
        # Two axes, and the bias spread by a product: what XLA's CPU compiler turns into loops without index arithmetic.
        spread = np.tile(np.eye(self.features, dtype=np.float32), len(cell))
        y = patches.reshape(-1, patches.shape[-1]) @ matrix.reshape(patches.shape[-1], -1)
        y = y + _last(jnp.matmul(bias, spread, precision=lax.Precision.HIGHEST), y)
        return ACTIVATIONS[self.activation](y).reshape(*patches.shape[:3], -1)

    def __str__(self) -> str:
        stride = f" stride {self.stride}" if self.stride > 1 else ""
        k = self.kernel_size
        return f"conv {self.features} {k}x{k}{stride} {self.padding.lower()} {self.activation or ''}".strip()


def _fit(array: jax.Array, axes: tuple[int, int], before: tuple[int, int], length: tuple[int, int]) -> jax.Array:
    """Zeros before the two axes, then zeros after or a cut, so that they have these lengths."""
    config = [(0, 0, 0)] * array.ndim
    for axis, first, total in zip(axes, before, length, strict=True):
        config[axis] = (first, total - first - array.shape[axis], 0)
    return lax.pad(array, jnp.zeros((), array.dtype), config)


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

    def _windows(self, x: jax.Array | Cells, cell: Cell) -> tuple[jax.Array, Cell]:
        """[rows, columns, N, window ** 2, pixels * C] and the cell of what remains when axis 3 is reduced."""
        before = self.cell_before(cell)
        if isinstance(x, Cells) and x.cell == before != PIXEL:
            return x.array.reshape(*x.array.shape[:3], self.window**2, -1), cell
        h, w, _ = self.shape_after(x.shape[1:])
        array, stride = to_cells(x, PIXEL).array, self.stride or self.window
        slices = [
            array[a : a + (h - 1) * stride + 1 : stride, b : b + (w - 1) * stride + 1 : stride]
            for a, b in square_cell(self.window)
        ]
        return jnp.stack(slices, 3), PIXEL

    def _description(self, kind: str) -> str:
        return f"{kind} {self.window}" + (f" stride {self.stride}" if self.stride else "")


class AvgPool(_Pool):
    """Mean over windows; no padding, so what does not fill a window is dropped. The stride is the window's if None."""

    def __call__(self, x: jax.Array | Cells, context: Context, cell: Cell) -> Cells:
        if isinstance(x, Cells) and x.cell == self.cell_before(cell) != PIXEL:
            # As a product, because XLA's CPU compiler never fuses one: the gradient that comes from the next
            # convolution's slices is then summed once, not anew for every pixel to which the pool's gradient copies it.
            *outer, width = x.array.shape
            kept_width = width // self.window**2
            mean = np.tile(np.eye(kept_width, dtype=np.float32), (self.window**2, 1)) / self.window**2
            pooled = jnp.matmul(x.array.reshape(-1, width), mean, precision=lax.Precision.HIGHEST)
            return Cells(pooled.reshape(*outer, kept_width), cell)
        windows, kept = self._windows(x, cell)
        return to_cells(Cells(windows.mean(3), kept), cell)

    def __str__(self) -> str:
        return self._description("avgpool")


class MaxPool(_Pool):
    """Largest of each window, by reshape and max; no padding, stride as in AvgPool."""

    def __call__(self, x: jax.Array | Cells, context: Context, cell: Cell) -> Cells:
        windows, kept = self._windows(x, cell)
        return to_cells(Cells(windows.max(3), kept), cell)

    def __str__(self) -> str:
        return self._description("maxpool")


class LocalResponseNorm(Layer):
    """TensorFlow's: y_c = x_c / (bias + alpha * sum of x^2 over channels c-r..c+r) ^ beta."""

    depth_radius: int = 2
    bias: float = 1.0
    alpha: float = 2e-5
    beta: float = 0.75

    def __call__(self, x: jax.Array | Cells, context: Context, cell: Cell) -> Cells:
        def normalise(pixels: jax.Array) -> jax.Array:
            channel = np.arange(pixels.shape[-1])
            near = (abs(channel[:, None] - channel) <= self.depth_radius).astype(np.float32)
            total = jnp.matmul(pixels * pixels, near, precision=lax.Precision.HIGHEST)
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
    def __call__(self, x: jax.Array | Cells, context: Context, cell: Cell) -> jax.Array | Cells:
        if len(x.shape) == 2:
            return self._normalise(x, context)
        return to_cells(x, cell).map(lambda pixels: self._normalise(pixels, context))

    def _normalise(self, x: jax.Array, context: Context) -> jax.Array:
        """x: [N, C] or [rows, columns, N, pixels, C]."""
        channels = x.shape[-1]
        gamma = self.param("scale", nn.initializers.ones, (channels,))
        beta = self.param("bias", nn.initializers.zeros, (channels,))
        mean_ = self.variable("batch_stats", "mean", jnp.zeros, (channels,))
        var_ = self.variable("batch_stats", "var", jnp.ones, (channels,))
        mean, var = mean_.value, var_.value
        if context.train:
            axes = tuple(range(x.ndim - 1))
            n = x.shape[0 if x.ndim == 2 else 2]
            weight = jnp.ones(n, x.dtype) if context.weight is None else context.weight
            each = _last(weight.reshape((-1,) + (1,) * (1 if x.ndim == 2 else 2)), x)

            def total(value: jax.Array) -> jax.Array:
                return lax.psum(value, context.axis_name) if context.axis_name else value

            count = jnp.maximum(total(weight.sum()), 1.0) * (x.size // (n * channels))
            mean = total((each * x).sum(axes)) / count
            var = total((each * (x - _last(mean, x)) ** 2).sum(axes)) / count
            if not self.is_initializing():
                mean_.value = self.momentum * mean_.value + (1 - self.momentum) * mean
                var_.value = self.momentum * var_.value + (1 - self.momentum) * var
        factor = gamma * lax.rsqrt(var + self.epsilon)
        return (x - _last(mean, x)) * _last(factor, x) + _last(beta, x)

    def __str__(self) -> str:
        return "batchnorm"


class Dropout(Layer):
    """y = x * mask / (1 - rate), mask drawn for each example from its position in the whole batch.

    The rate is a float32 scalar in collection "settings", so that a sweep over rates is a vmap; it is met to 1 / 65536.
    Needs rngs={"dropout": key}.
    """

    rate: float

    @nn.compact
    def __call__(self, x: jax.Array | Cells, context: Context, cell: Cell) -> jax.Array | Cells:
        rate = self.variable("settings", "rate", lambda: jnp.float32(self.rate)).value
        if self.is_initializing() or not (context.train or context.dropout_at_evaluation):
            return x
        n, *shape = x.shape
        position = jnp.arange(n)
        if context.axis_name:
            position += lax.axis_index(context.axis_name) * n
        key = self.make_rng("dropout")
        size = math.prod(shape)
        words = jax.vmap(lambda i: jax.random.bits(jax.random.fold_in(key, i), (-(-size // 2),)))(position)
        halves = lax.bitcast_convert_type(words, jnp.uint16).reshape(n, -1)[:, :size]  # two draws from each word
        keep = halves.reshape(x.shape) >= jnp.round(rate * 65536).astype(jnp.uint32)
        scale = keep / (1 - rate)
        if not isinstance(x, Cells):
            return x * scale
        return dataclasses.replace(x, array=x.array * to_cells(scale, x.cell).array)

    def __str__(self) -> str:
        return f"dropout {self.rate:g}"


class Flatten(Layer):
    """[N, H, W, C] -> [N, H * W * C]."""

    def cell_before(self, cell: Cell) -> Cell:
        return PIXEL

    def shape_after(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return (math.prod(shape),)

    def __call__(self, x: jax.Array | Cells, context: Context, cell: Cell) -> jax.Array:
        return to_image(x).reshape(x.shape[0], -1)

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
    def __call__(self, x: jax.Array, context: Context, cell: Cell) -> jax.Array:
        kernel = self.param("kernel", nn.initializers.glorot_uniform(), (x.shape[-1], self.features))
        y = x @ kernel
        if self.use_bias:
            y = y + _last(self.param("bias", nn.initializers.zeros, (self.features,)), y)
        return ACTIVATIONS[self.activation](y)

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
    def __call__(self, x: jax.Array | Cells, context: Context, cell: Cell) -> Cells:
        one, three, five, projection, three_reduce, five_reduce = self.filters
        x = to_cells(x, PIXEL)

        def conv(features: int, size: int, name: str, x: Cells) -> Cells:
            return Conv(features, size, padding="SAME", activation="relu", name=name)(x, context, PIXEL)

        padded = jnp.pad(x.array, ((1, 1), (1, 1), (0, 0), (0, 0)), constant_values=-jnp.inf)
        largest = MaxPool(3, stride=1)(Cells(padded), context, PIXEL)
        branches = (
            conv(one, 1, "one", x),
            conv(three, 3, "three", conv(three_reduce, 1, "three_reduce", x)),
            conv(five, 5, "five", conv(five_reduce, 1, "five_reduce", x)),
            conv(projection, 1, "projection", largest),
        )
        return to_cells(Cells(jnp.concatenate([branch.array for branch in branches], -1)), cell)

    def __str__(self) -> str:
        return f"inception {' '.join(map(str, self.filters))} relu"
