"""Layers for few parameters: separable convolutions, blocks with a shortcut, one mean for a whole plane."""

import functools
import operator

import flax.linen as nn
import jax

from mnistlab.errors import UserError
from mnistlab.nets.cells import PIXEL, Cell, Cells, Image, fit, square_cell, to_cells, windows
from mnistlab.nets.layers import Context, Conv, Layer, same_padding


class SeparableConv(Layer):
    """y = activation(d * pointwise + bias), d_c = x_c * depthwise_c: a k x k kernel of each channel alone, then 1 x 1.

    SAME; Glorot-uniform kernels [k, k, C] and [1, 1, C, features], zero bias. As keras.layers.SeparableConv2D.
    """

    features: int
    kernel_size: int
    activation: str | None = None

    def cell_before(self, cell: Cell) -> Cell:
        return PIXEL

    def shape_after(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return *shape[:2], self.features

    @nn.compact
    def __call__(self, x: Image, context: Context, cell: Cell) -> Cells:
        k, channels = self.kernel_size, x.shape[-1]
        kernel = self.param("kernel", nn.initializers.glorot_uniform(), (k, k, 1, channels))
        planes = to_cells(x, PIXEL)
        depthwise = Cells(_depthwise(planes, kernel[:, :, 0]))
        return Conv(self.features, 1, activation=self.activation, name="pointwise")(depthwise, context, cell)

    def __str__(self) -> str:
        k = self.kernel_size
        return f"separable conv {self.features} {k}x{k} same {self.activation or ''}".strip()


def _depthwise(x: Cells, kernel: jax.Array) -> jax.Array:
    """Each channel of [C, H, W, N] under its own kernel of [k, k, C], SAME: a sum of shifted multiples."""
    channels, h, w, _ = x.array.shape
    k = len(kernel)
    (top, bottom), (left, right) = same_padding(h, k), same_padding(w, k)
    padded = fit(x, (top, left), (h + top + bottom, w + left + right)).array
    shifted = windows(padded, square_cell(k), (h, w)) * kernel.reshape(k * k, channels, 1, 1, 1)
    return functools.reduce(operator.add, shifted)


class Residual(Layer):
    """y = x + f(x), f being the layers one after another, which must keep the shape."""

    layers: tuple[Layer, ...]

    @property
    def names(self) -> list[str]:
        """What each layer is called: its kind and its place."""
        return [f"{type(layer).__name__.lower()}_{place}" for place, layer in enumerate(self.layers, 1)]

    def cell_before(self, cell: Cell) -> Cell:
        return PIXEL

    def shape_after(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        after = shape
        for layer in self.layers:
            after = layer.shape_after(after)
        if after != shape:
            raise UserError(f"{self} makes {after} of {shape}; a block with a shortcut must keep the shape")
        return shape

    @nn.compact
    def __call__(self, x: Image, context: Context, cell: Cell) -> Cells:
        x = inner = to_cells(x, PIXEL)
        for name, layer in zip(self.names, self.layers, strict=True):
            inner = layer.clone(parent=self, name=name)(inner, context, PIXEL)
        return to_cells(Cells(x.array + to_cells(inner, PIXEL).array), cell)

    def __str__(self) -> str:
        return f"x + ({', '.join(map(str, self.layers))})"


class GlobalAvgPool(Layer):
    """The mean of each channel over all pixels: [N, H, W, C] -> [N, C]."""

    def cell_before(self, cell: Cell) -> Cell:
        return PIXEL

    def shape_after(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return shape[-1:]

    def __call__(self, x: Image, context: Context, cell: Cell) -> jax.Array:
        return to_cells(x, PIXEL).array.mean((1, 2)).T

    def __str__(self) -> str:
        return "global avgpool"
