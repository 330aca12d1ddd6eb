"""The homeworks' networks and small ones of ours; MODELS reads like their tables. All return logits."""

import inspect
import math
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from mnistlab.errors import UserError
from mnistlab.nets.blocks import GlobalAvgPool, Residual, SeparableConv
from mnistlab.nets.layers import (
    PIXEL,
    AvgPool,
    BatchNorm,
    Cell,
    Context,
    Conv,
    Dense,
    Dropout,
    Flatten,
    Image,
    Inception,
    Layer,
    LocalResponseNorm,
    MaxPool,
    Pad,
    convolution_form,
    to_image,
)
from mnistlab.registry import Registry

Layers = tuple[Layer, ...]


def _lenet5_relu(after_pool: Layers = (), after_flatten: Layers = (), after_dense: Layers = ()) -> Layers:
    """Experiment 9's LeNet-5 with a regulariser's layers at the source's places."""
    return (
        Conv(6, 5, padding="SAME", activation="relu"),
        MaxPool(2),
        *after_pool,
        Conv(16, 5, activation="relu"),
        MaxPool(2),
        *after_pool,
        Conv(120, 5, activation="relu"),
        Flatten(),
        *after_flatten,
        Dense(84, "relu"),
        *after_dense,
        Dense(10),
    )


def _cnn_a(after_pool: Layers = (), at_end: Layers = ()) -> Layers:
    """Experiment 6's model A; B and C differ from it in what stands after the pools or at the end."""
    return (
        Conv(8, 5, stride=2, padding="SAME", activation="relu"),
        AvgPool(2),
        *after_pool,
        Conv(16, 3, padding="SAME", activation="relu"),
        AvgPool(3, stride=2),
        *after_pool,
        Conv(64, 2, padding="SAME", activation="relu"),
        Conv(128, 3, activation="relu"),
        *at_end,
        Conv(32, 1, activation="relu"),
        *at_end,
        Flatten(),
        Dense(10),
    )


def _cnn_d(first: Layers, second: Layers) -> Layers:
    """Experiment 6's model D; E differs from it in the two parts between the pools."""
    return (
        Conv(8, 5, stride=2, padding="SAME", activation="relu"),
        Conv(16, 5, padding="SAME", activation="relu"),
        AvgPool(2),
        LocalResponseNorm(),
        *first,
        AvgPool(3, stride=2),
        LocalResponseNorm(),
        *second,
        Conv(128, 3, activation="relu"),
        Conv(32, 1, activation="relu"),
        Flatten(),
        Dense(10),
    )


def _cnn_e() -> Layers:
    """Experiment 6's model E.

    The source's: the block's filters (8, 16, 4, 4, 12, 2), at which it breaks off; GoogLeNet's first block over 8.
    Ours: all around it, which is D with its two pairs of equal convolutions replaced by such blocks, the second with
    doubled filters.
    """
    return _cnn_d((Inception((8, 16, 4, 4, 12, 2)),), (Inception((16, 32, 8, 8, 24, 4)),))


def _small(first: int, wide: tuple[int, int], blocks: tuple[int, int]) -> Layers:
    """Few parameters: a convolution, then separable ones with shortcuts, `blocks` of them at 14 x 14 and at 7 x 7.

    Args:
      wide: channels at 14 x 14 and at 7 x 7.
    """

    def separable(features: int) -> Layers:
        return SeparableConv(features, 3, "relu"), BatchNorm()

    return (
        Conv(first, 5, stride=2, padding="SAME", activation="relu"),
        BatchNorm(),
        *separable(wide[0]),
        *(Residual(separable(wide[0])),) * blocks[0],
        MaxPool(2),
        *(separable(wide[1]) if wide[1] != wide[0] else ()),
        *(Residual(separable(wide[1])),) * blocks[1],
        GlobalAvgPool(),
        Dense(10),
    )


MODELS: Registry[Layers] = Registry(
    {
        "lenet5": (
            Conv(6, 5, padding="SAME", activation="tanh"),
            AvgPool(2),
            Conv(16, 5, activation="tanh"),
            AvgPool(2),
            Flatten(),
            Dense(120, "tanh"),
            Dense(84, "tanh"),
            Dense(10),
        ),
        "dense": (Flatten(), Dense(128, "relu"), Dense(10)),
        "mlp512": (Flatten(), Dense(512, "relu"), Dropout(0.2), Dense(10)),
        "lenet5_adadelta": (
            Pad(2),
            Conv(6, 5, activation="relu"),
            AvgPool(2),
            Dropout(0.25),
            Conv(16, 5, activation="relu"),
            AvgPool(2),
            Conv(120, 5, activation="relu"),
            Flatten(),
            Dense(128, "relu"),
            Dropout(0.5),
            Dense(10),
        ),
        "cnn_a": _cnn_a(),
        "cnn_b": _cnn_a(at_end=(Dropout(0.45),)),
        "cnn_c": _cnn_a(after_pool=(LocalResponseNorm(),)),
        "cnn_d": _cnn_d(
            (Conv(32, 3, padding="SAME", activation="relu"),) * 2,
            (Conv(64, 2, padding="SAME", activation="relu"),) * 2,
        ),
        "cnn_e": _cnn_e(),
        "mlp_128_64": (Flatten(), Dense(128, "relu"), Dense(64, "relu"), Dense(10)),
        "lenet5_relu": _lenet5_relu(),
        "lenet5_relu_dropout": _lenet5_relu((Dropout(0.5),), (Dropout(0.5),), (Dropout(0.5),)),
        "lenet5_relu_batchnorm": _lenet5_relu((BatchNorm(),), (BatchNorm(),), (BatchNorm(),)),
        "small_8k": _small(16, (32, 32), (1, 3)),
        "small_20k": _small(24, (48, 52), (1, 3)),
        "small_62k": _small(32, (64, 96), (1, 4)),
        "small_110k": _small(32, (64, 128), (2, 4)),
    }
)
"""What TrainConfig.model may name; a script may add its own layers: MODELS["mine"] = (Flatten(), Dense(10))."""


def takes(model: nn.Module, name: str) -> bool:
    """Whether a module's call takes a keyword."""
    return name in inspect.signature(model.__call__).parameters


def init_variables(model: nn.Module, key: jax.Array, image: jax.Array) -> dict[str, Any]:
    """The variables of any Linen module, of which `train` may be a required keyword."""
    given: dict[str, Any] = {"train": False} if takes(model, "train") else {}
    return model.init({"params": key, "dropout": key}, image, **given)  # type: ignore[return-value]


class Network(nn.Module):
    """The layers one after another: image float32 [N, H, W, C] -> logits float32 [N, classes].

    `weight` float32 [N] is 0 for examples that only fill up the batch (None: all count); batch statistics heed it.
    `axis_name` names the mapped axis over which the batch is split; batch statistics and dropout heed it.
    `first` int32 [] is the place of the first example in the whole batch, where this is a part; dropout heeds it.
    """

    layers: Layers
    dropout_at_evaluation: bool = False
    form: str | None = None  # how convolutions are computed; None: what is quickest on the backend

    @property
    def examples_are_independent(self) -> bool:
        """Whether sums over parts of a batch are worth it and are those of the whole: convolutions, no statistics."""
        layers = _flat(self.layers)
        # Who knows what is in a layer of somebody else?
        ours = all(type(layer).__module__.startswith(f"{__package__}.") for layer in layers)
        statistics = any(isinstance(layer, BatchNorm) for layer in layers)
        return any(isinstance(layer, Conv) for layer in layers) and ours and not statistics

    @nn.compact
    def __call__(
        self,
        image: jax.Array,
        train: bool = False,
        weight: jax.Array | None = None,
        axis_name: str | None = None,
        first: jax.Array | None = None,
    ) -> jax.Array:
        form = self.form or convolution_form(jax.default_backend())
        context = Context(train, weight, axis_name, self.dropout_at_evaluation, form, first)
        cells = output_cells(self.layers, image.shape[1:], form)
        x: Image = jnp.asarray(image)
        for name, layer, cell in zip(layer_names(self.layers), self.layers, cells, strict=True):
            x = layer.clone(parent=self, name=name)(x, context, cell)
        return to_image(x)


def _flat(layers: Layers) -> list[Layer]:
    """The layers and those inside them."""
    return [found for layer in layers for found in (layer, *_flat(getattr(layer, "layers", ())))]


def output_cells(layers: Layers, shape: tuple[int, ...], form: str) -> list[Cell]:
    """The cells in which each layer gives its output, such that the next finds its input as it needs it.

    Raises:
      UserError: nothing is left of the image after some layer.
    """
    shapes = []
    for layer in layers:
        shapes.append(shape := layer.shape_after(shape))
        if min(shape) < 1:
            raise UserError(f"{layer} leaves nothing of the image: it is too small for this network")
    cells: list[Cell] = []
    cell = PIXEL
    for layer, (*sides, _) in zip(reversed(layers), reversed(shapes), strict=True):
        size = math.isqrt(len(cell))
        cells.append(cell if form == "cells" and not any(side % size for side in sides) else PIXEL)
        cell = layer.cell_before(cells[-1])
    return cells[::-1]


def layer_names(layers: Layers) -> list[str]:
    """Kind and running number of the kind.

    >>> layer_names((Conv(6, 5), AvgPool(2), Conv(16, 5)))
    ['conv_1', 'avgpool_1', 'conv_2']
    """
    kinds = [type(layer).__name__.lower() for layer in layers]
    return [f"{kind}_{kinds[: i + 1].count(kind)}" for i, kind in enumerate(kinds)]


def make_model(
    name: str,
    *,
    form: str | None = None,
    dropout_at_evaluation: bool = False,
    use_bias: bool | None = None,
) -> nn.Module:
    """The network of that name in MODELS: `model.apply(variables, image, train=False, weight=None, ...)` -> logits.

    form: how convolutions are computed, "cells", "slices" or "lax"; None chooses for the backend.
    dropout_at_evaluation: keras_vs_scratch's quirk; evaluation then needs rngs={"dropout": key} too.
    use_bias: False leaves the biases of the dense layers out.
    Raises UserError for an unknown name.
    """
    if name not in MODELS:
        raise UserError(f"unknown model {name!r}; choose one of {', '.join(MODELS)}")
    layers = MODELS[name]
    if use_bias is not None:
        layers = tuple(layer.clone(use_bias=use_bias) if isinstance(layer, Dense) else layer for layer in layers)
    return Network(layers, dropout_at_evaluation, form)


def count_parameters(params: Any) -> int:
    """Number of numbers in a tree of arrays (or of their shapes).

    >>> count_parameters({"kernel": jnp.zeros((3, 2)), "bias": jnp.zeros(2)})
    8
    """
    return sum(leaf.size for leaf in jax.tree.leaves(params))


class LayerRow(NamedTuple):
    """One row of a network's table."""

    name: str
    layer: str
    output_shape: tuple[int, ...]  # without the batch
    parameters: int  # in total: moving averages included, as Keras counts
    trainable: int  # without them


def layer_table(model: nn.Module, image_shape: tuple[int, int, int]) -> list[LayerRow]:
    """One row for each layer as it is called, and for parameters of the model's own; nothing is computed.

    >>> for row in layer_table(make_model("dense"), (28, 28, 1)):
    ...     print(*row)
    flatten_1 flatten (784,) 0 0
    dense_1 dense 128 relu (128,) 100480 100480
    dense_2 dense 10 (10,) 1290 1290
    """
    rows: list[tuple[str, str, tuple[int, ...]]] = []

    def record(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
        out = call(*args, **kwargs)
        module = context.module
        if context.method_name == "__call__" and len(module.path) == 1:
            own = type(module).__str__ is not nn.Module.__str__
            shape = jax.tree.leaves(out)[-1].shape  # of a carry and an output the output
            rows.append((str(module.name), str(module) if own else type(module).__name__, tuple(shape[1:])))
        return out

    def init(image: jax.Array) -> Any:
        return init_variables(model, jax.random.key(0), image)

    with nn.intercept_methods(record):
        variables = jax.eval_shape(init, jax.ShapeDtypeStruct((1, *image_shape), jnp.float32))
    trees = [variables.get(kind, {}) for kind in ("params", "batch_stats")]
    counts = {name: [count_parameters(tree.get(name, {})) for tree in trees] for name in {**trees[0], **trees[1]}}
    table = []
    for row in rows:  # what is called twice has its parameters once
        trained, averages = counts.pop(row[0], (0, 0))
        table.append(LayerRow(*row, trained + averages, trained))
    own_parts = [LayerRow(name, "parameters", (), sum(own), own[0]) for name, own in counts.items()]
    return table + own_parts
