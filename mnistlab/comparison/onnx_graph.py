"""A network of MODELS as an ONNX model, written row by row of its table of layers.

Images uint8 [batch, H, W, C] -> logits float32 [batch, classes]; inside, ONNX's order [batch, C, H, W].
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from mnistlab.nets import blocks
from mnistlab.nets import layers as kinds
from mnistlab.nets.layers import Layer
from mnistlab.nets.models import Layers, layer_names

OPSET, IR_VERSION = 17, 8  # of 2022: what any runtime still in use reads
ACTIVATIONS = {"relu": "Relu", "tanh": "Tanh", "sigmoid": "Sigmoid"}


def build(
    layers: Layers,
    weights: Mapping[str, Mapping[str, Any]],
    image_shape: tuple[int, ...],
    pixel_scale: float,
    description: str,
) -> bytes:
    """The serialised ONNX model of `layers`.

    Args:
      weights: layer name -> the arrays of that layer, its moving averages among them.
      image_shape: (H, W, C).
    """
    import onnx
    from onnx import TensorProto, helper

    graph = _Graph()
    x = graph.add("Cast", ["image"], to=TensorProto.FLOAT)
    x = graph.add("Mul", [x, graph.constant(np.float32(pixel_scale))])
    x = graph.add("Transpose", [x], perm=[0, 3, 1, 2])
    shape = image_shape
    for name, layer in zip(layer_names(layers), layers, strict=True):
        x = graph.layer(x, layer, shape, weights.get(name, {}), name)
        shape = layer.shape_after(shape)
    graph.nodes.append(helper.make_node("Identity", [x], ["logits"], name="logits"))
    model = helper.make_model(
        helper.make_graph(
            graph.nodes,
            "mnistlab",
            [helper.make_tensor_value_info("image", TensorProto.UINT8, ["batch", *image_shape])],
            [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", *shape])],
            graph.constants,
        ),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="mnistlab",
        doc_string=description,
    )
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString())


class _Graph:
    """Nodes and constants as they are added; every method gives the name of its result."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def add(self, kind: str, inputs: list[str], **attributes: Any) -> str:
        from onnx import helper

        name = f"{kind.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [name], name=name, **attributes))
        return name

    def constant(self, value: Any, name: str | None = None) -> str:
        from onnx import numpy_helper

        name = name or f"constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def layer(self, x: str, layer: Layer, shape: tuple[int, ...], weights: Mapping[str, Any], name: str) -> str:
        """`layer` applied to x, which has `shape` without the batch."""
        match layer:
            case kinds.Pad():
                k = layer.size
                return self.add("Pad", [x, self.constant(np.array([0, 0, k, k, 0, 0, k, k]))])
            case kinds.Conv():
                return self.conv(x, layer, shape, weights, name)
            case kinds.AvgPool():
                return self.pool("AveragePool", x, layer.window, layer.stride)
            case kinds.MaxPool():
                return self.pool("MaxPool", x, layer.window, layer.stride)
            case kinds.LocalResponseNorm():
                size = 2 * layer.depth_radius + 1
                alpha = layer.alpha * size  # ONNX divides by the size
                return self.add("LRN", [x], size=size, alpha=alpha, beta=layer.beta, bias=layer.bias)
            case kinds.BatchNorm():
                arrays = [self.constant(weights[part], f"{name}.{part}") for part in ("scale", "bias", "mean", "var")]
                return self.add("BatchNormalization", [x, *arrays], epsilon=layer.epsilon)
            case kinds.Flatten():
                if len(shape) == 3:
                    x = self.add("Transpose", [x], perm=[0, 2, 3, 1])
                return self.add("Flatten", [x], axis=1)
            case kinds.Dense():
                return self.dense(x, layer, weights, name)
            case kinds.Inception():
                return self.inception(x, layer, shape, weights, name)
            case kinds.Dropout():
                return x
            case blocks.SeparableConv():
                own = {"kernel": weights["kernel"], "bias": np.zeros(shape[-1], np.float32)}
                depthwise = kinds.Conv(shape[-1], layer.kernel_size, padding="SAME")
                x = self.conv(x, depthwise, shape, own, name)
                last = kinds.Conv(layer.features, 1, activation=layer.activation)
                return self.conv(x, last, shape, weights["pointwise"], f"{name}.pointwise")
            case blocks.Residual():
                y = x
                for inner, part in zip(layer.layers, layer.names, strict=True):
                    y = self.layer(y, inner, shape, weights.get(part, {}), f"{name}.{part}")
                    shape = inner.shape_after(shape)
                return self.add("Add", [x, y])
            case blocks.GlobalAvgPool():
                return self.add("ReduceMean", [x], axes=[2, 3], keepdims=0)
        raise TypeError(f"{type(layer).__name__} has no form in ONNX here")

    def conv(self, x: str, layer: kinds.Conv, shape: tuple[int, ...], weights: Mapping[str, Any], name: str) -> str:
        """A convolution of x, which has `shape`; a kernel of fewer channels sees each group of channels alone."""
        (top, bottom), (left, right) = layer.paddings(shape)
        kernel = self.constant(np.transpose(weights["kernel"], (3, 2, 0, 1)), f"{name}.kernel")
        bias = self.constant(weights["bias"], f"{name}.bias")
        group = shape[-1] // np.shape(weights["kernel"])[2]
        strides = [layer.stride] * 2
        y = self.add("Conv", [x, kernel, bias], strides=strides, pads=[top, left, bottom, right], group=group)
        return self.activated(y, layer.activation)

    def dense(self, x: str, layer: kinds.Dense, weights: Mapping[str, Any], name: str) -> str:
        bias = [self.constant(weights["bias"], f"{name}.bias")] if layer.use_bias else []
        y = self.add("Gemm", [x, self.constant(weights["kernel"], f"{name}.kernel"), *bias])
        return self.activated(y, layer.activation)

    def pool(self, kind: str, x: str, window: int, stride: int | None, pad: int = 0) -> str:
        strides = [stride or window] * 2
        return self.add(kind, [x], kernel_shape=[window] * 2, strides=strides, pads=[pad] * 4)

    def activated(self, x: str, activation: str | None) -> str:
        return x if activation is None else self.add(ACTIVATIONS[activation], [x])

    def inception(
        self, x: str, layer: kinds.Inception, shape: tuple[int, ...], weights: Mapping[str, Any], name: str
    ) -> str:
        one, three, five, projection, three_reduce, five_reduce = layer.filters

        def conv(x: str, features: int, size: int, part: str) -> str:
            row = kinds.Conv(features, size, padding="SAME", activation="relu")
            seen = (*shape[:2], np.shape(weights[part]["kernel"])[2])  # a row may follow one that reduces the channels
            return self.conv(x, row, seen, weights[part], f"{name}.{part}")

        branches = [
            conv(x, one, 1, "one"),
            conv(conv(x, three_reduce, 1, "three_reduce"), three, 3, "three"),
            conv(conv(x, five_reduce, 1, "five_reduce"), five, 5, "five"),
            conv(self.pool("MaxPool", x, 3, 1, pad=1), projection, 1, "projection"),
        ]
        return self.add("Concat", branches, axis=1)
