"""The page's playground: networks as JSON and float16 weights, answered in the browser by net.js, drawn by draw.js."""

import base64
import json
from collections.abc import Callable, Mapping, Sequence
from importlib import resources
from typing import Any, NamedTuple

import flax.linen as nn
import numpy as np
from jinja2 import StrictUndefined, Template

from mnistlab.data.datasets import IMAGE_SHAPE, NAMES, Dataset
from mnistlab.errors import UserError
from mnistlab.nets import blocks, layers, models
from mnistlab.nets.layers import Layer
from mnistlab.report.text import class_words

MOST_SEEDS = 8
MOST_PAGE_BYTES = 3_000_000
NUM_IMAGES = 24
DRAWN = ("mnist",)  # datasets whose images are drawn strokes, centred by mass in a box of 20 pixels

Spec = dict[str, Any]
Leaf = tuple[str, ...]
Shape = tuple[int, ...]


class Trained(NamedTuple):
    """A network of R runs, as the playground needs it."""

    model: nn.Module
    variables: Mapping[str, Any]  # "params" and "batch_stats": float32 arrays with the runs on the first axis
    pixel_scale: float
    seeds: Sequence[int]


class Description(NamedTuple):
    """A network for net.js."""

    layers: list[Spec]
    leaves: list[Leaf]  # of the variables, in the order in which the layers take their weights


class Playground(NamedTuple):
    """The playground of a page."""

    html: str  # empty where no network is in it
    notes: list[str]  # which networks or seeds are not in it, and why


def describe(model: nn.Module, image_shape: Shape) -> Description:
    """The layers of a network made of mnistlab's own layers.

    Raises:
      UserError: it is another module, or has a layer of the user's own.

    >>> describe(models.make_model("dense"), (28, 28, 1)).layers[0]
    {'kind': 'dense', 'activation': 'relu', 'bias': True, 'shape': (128,)}
    """
    if type(model) is not models.Network:
        raise UserError(f"{type(model).__name__} is a module of its own, not a table of layers")
    return Description(*_described_layers(models.layer_names(model.layers), model.layers, image_shape))


def _described_layers(names: Sequence[str], rows: Sequence[Layer], shape: Shape) -> tuple[list[Spec], list[Leaf]]:
    """Layers one after another, and the leaves in the order in which they take their weights."""
    specs: list[Spec] = []
    leaves: list[Leaf] = []
    for name, layer in zip(names, rows, strict=True):
        if type(layer) not in _DESCRIBE:
            raise UserError(f"the page cannot compute its layer {type(layer).__name__}")
        spec, own = _DESCRIBE[type(layer)](layer, shape)
        shape = layer.shape_after(shape)
        specs += [{**spec, "shape": shape}] if spec else []
        leaves += [(kind, name, *path) for kind, *path in own]
    return specs, leaves


def _conv(layer: Any, shape: Shape) -> tuple[Spec, list[Leaf]]:
    before = [first for first, _ in layer.paddings(shape)]
    spec = {"kind": "conv", "size": layer.kernel_size, "stride": layer.stride, "before": before}
    return {**spec, "activation": layer.activation or "none"}, [("params", "kernel"), ("params", "bias")]


def _dense(layer: Any, shape: Shape) -> tuple[Spec, list[Leaf]]:
    leaves: list[Leaf] = [("params", "kernel"), *([("params", "bias")] if layer.use_bias else [])]
    return {"kind": "dense", "activation": layer.activation or "none", "bias": layer.use_bias}, leaves


def _pool(kind: str) -> Callable[[Any, Shape], tuple[Spec, list[Leaf]]]:
    return lambda layer, shape: (
        {"kind": kind, "window": layer.window, "stride": layer.stride or layer.window, "before": [0, 0]},
        [],
    )


def _batch_norm(layer: Any, shape: Shape) -> tuple[Spec, list[Leaf]]:
    leaves: list[Leaf] = [("params", "scale"), ("params", "bias"), ("batch_stats", "mean"), ("batch_stats", "var")]
    return {"kind": "batchnorm", "epsilon": layer.epsilon}, leaves


def _lrn(layer: Any, shape: Shape) -> tuple[Spec, list[Leaf]]:
    spec = {"radius": layer.depth_radius, "bias": layer.bias, "alpha": layer.alpha, "beta": layer.beta}
    return {"kind": "lrn", **spec}, []


def _inception(layer: Any, shape: Shape) -> tuple[Spec, list[Leaf]]:
    one, three, five, projection, three_reduce, five_reduce = layer.filters
    largest: Spec = {"kind": "maxpool", "window": 3, "stride": 1, "before": [1, 1], "shape": shape}
    paths = (
        [(one, 1, "one")],
        [(three_reduce, 1, "three_reduce"), (three, 3, "three")],
        [(five_reduce, 1, "five_reduce"), (five, 5, "five")],
        [(projection, 1, "projection")],
    )
    branches: list[list[Spec]] = []
    leaves: list[Leaf] = []
    for path in paths:
        branches.append([largest] if path is paths[-1] else [])
        for features, size, name in path:
            spec, names = _conv(layers.Conv(features, size, padding="SAME", activation="relu"), shape)
            branches[-1].append({**spec, "shape": (*shape[:2], features)})
            leaves += [(kind, name, leaf) for kind, leaf in names]
    return {"kind": "parallel", "branches": branches}, leaves


def _separable(layer: Any, shape: Shape) -> tuple[Spec, list[Leaf]]:
    before = [layers.same_padding(side, layer.kernel_size)[0] for side in shape[:2]]
    depthwise: Spec = {"kind": "depthwise", "size": layer.kernel_size, "before": before, "shape": shape}
    pointwise, leaves = _conv(layers.Conv(layer.features, 1, activation=layer.activation), shape)
    branch = [depthwise, {**pointwise, "shape": layer.shape_after(shape)}]
    own = [("params", "kernel"), *((kind, "pointwise", *path) for kind, *path in leaves)]
    return {"kind": "parallel", "branches": [branch]}, own


def _residual(layer: Any, shape: Shape) -> tuple[Spec, list[Leaf]]:
    specs, leaves = _described_layers(layer.names, layer.layers, shape)
    return {"kind": "residual", "layers": specs}, leaves


_DESCRIBE: dict[type[Layer], Callable[[Any, Shape], tuple[Spec, list[Leaf]]]] = {
    layers.Pad: lambda layer, shape: ({"kind": "pad", "size": layer.size}, []),
    layers.Conv: _conv,
    layers.AvgPool: _pool("avgpool"),
    layers.MaxPool: _pool("maxpool"),
    layers.LocalResponseNorm: _lrn,
    layers.BatchNorm: _batch_norm,
    layers.Inception: _inception,
    blocks.SeparableConv: _separable,
    blocks.Residual: _residual,
    blocks.GlobalAvgPool: lambda layer, shape: ({"kind": "globalavgpool"}, []),
    layers.Dense: _dense,
    layers.Dropout: lambda layer, shape: ({}, []),
    layers.Flatten: lambda layer, shape: ({}, []),  # numbers in memory stay as they are
}


def half_weights(description: Description, variables: Mapping[str, Any]) -> np.ndarray:
    """float16 [R, numbers]: the weights as the page holds them, in the order of the description."""
    parts = []
    for leaf in description.leaves:
        value: Any = variables
        for key in leaf:
            value = value[key]
        parts.append(np.asarray(value).reshape(len(value), -1))
    with np.errstate(over="ignore"):  # what is too large becomes infinite, and its run is left out
        return np.concatenate(parts, axis=1).astype("<f2")


def build(nets: Mapping[str, Trained], dataset: Dataset, image: np.ndarray, label: np.ndarray, room: int) -> Playground:
    """The playground of networks by name.

    Args:
      image: uint8 [n, side, side, 1], the images to choose from; label: int [n].
      room: bytes that the page has left for it.
    """
    shape = dataset.test.image.shape[1:]
    if dataset.test.image.dtype != np.uint8 or shape[0] != shape[1] or shape[2:] != (1,):
        return Playground("", [f"No playground: it takes square grey images of pixels 0..255, not {shape}."])
    found, notes = _described(nets, shape)
    num_logits = max((description.layers[-1]["shape"][0] for description, _, _ in found.values()), default=0)
    room -= len(_html(dataset, [], image, label, num_logits).encode()) + 200 * len(found)
    count = min(MOST_SEEDS, max((len(weights) for _, _, weights in found.values()), default=0))
    while count > 1 and sum(map(len, _entries(found, nets, count))) > room:
        count -= 1
    entries: list[str] = []
    for name, entry in zip(found, _entries(found, nets, count), strict=True):
        if sum(map(len, entries)) + len(entry) > room:
            notes.append(f"{name} is not in the playground: the page would be larger than 3 MB.")
            continue
        entries.append(entry)
    fewer = any(len(weights) > count for _, _, weights in found.values())
    if fewer and entries:
        few = "seed is" if count == 1 else f"{count} seeds are"
        notes.append(f"The first {few} in the playground, as many of each network as a page of 3 MB holds, at most 8.")
    return Playground(_html(dataset, entries, image, label, num_logits) if entries else "", notes)


Found = tuple[Description, list[int], np.ndarray]  # numbers of the runs, and their weights


def _described(nets: Mapping[str, Trained], shape: Shape) -> tuple[dict[str, Found], list[str]]:
    """The networks that the page can compute, and of the others why not."""
    found: dict[str, Found] = {}
    notes: list[str] = []
    for name, net in nets.items():
        try:
            description = describe(net.model, shape)
        except UserError as error:
            notes.append(f"{name} is not in the playground: {error}.")
            continue
        weights = half_weights(description, net.variables)
        finite = np.flatnonzero(np.isfinite(weights).all(axis=1))
        if len(finite) < len(weights):
            lost = len(weights) - len(finite)
            notes.append(f"{name}: {lost} of {len(weights)} seeds have weights that are not finite as float16.")
        if len(finite):
            if getattr(net.model, "dropout_at_evaluation", False):
                notes.append(f"{name} was evaluated with dropout on; in the playground it is off.")
            found[name] = description, [int(number) for number in finite], weights[finite]
    return found, notes


def _entries(found: Mapping[str, Found], nets: Mapping[str, Trained], count: int) -> list[str]:
    """JSON of each network with its first `count` runs."""
    return [
        json.dumps(
            {
                "name": name,
                "seeds": [int(nets[name].seeds[number]) for number in numbers[:count]],
                "scale": nets[name].pixel_scale,
                "layers": description.layers,
                "weights": [_base64(one) for one in weights[:count]],
            }
        )
        for name, (description, numbers, weights) in found.items()
    ]


def is_drawn(dataset: Dataset) -> bool:
    """Whether its images are digits in MNIST's form, which one can draw."""
    return dataset.name in DRAWN and dataset.train.image.shape[1:] == IMAGE_SHAPE


def _html(dataset: Dataset, entries: Sequence[str], image: np.ndarray, label: np.ndarray, num_logits: int) -> str:
    side = image.shape[1]
    draws = is_drawn(dataset)
    frame = {"box": 20, "byMass": True} if draws else {"box": side, "byMass": False}
    about = {
        "side": side,
        "draws": draws,
        "onBlack": dataset.name in NAMES,
        "place": {"side": side, **frame},
        "classes": class_words(dataset.class_names, num_logits),
        "images": [_base64(one) for one in image],
        "labels": [int(one) for one in label],
    }
    data = f'{json.dumps(about)[:-1]}, "nets": [{", ".join(entries)}]}}'
    folder = resources.files("mnistlab.report")
    files = {name: folder.joinpath(f"{name}.{kind}").read_text() for name, kind in (("net", "js"), ("draw", "js"))}
    template = Template(folder.joinpath("templates", "playground.html.j2").read_text(), undefined=StrictUndefined)
    how = "draw" if draws else "choose"
    return template.render(
        files, style=folder.joinpath("playground.css").read_text(), data=data.replace("<", "\\u003c"), how=how
    )


def _base64(array: np.ndarray) -> str:
    return base64.b64encode(array.tobytes()).decode()


def choose_images(wrong: np.ndarray, num_images: int = NUM_IMAGES) -> np.ndarray:
    """Which of n images to offer, int [at most num_images]: half of them `wrong` bool [n], in turn with right ones.

    >>> choose_images(np.array([False, False, True, False, True]), 4)
    array([2, 0, 4, 1])
    """
    hard, easy = np.flatnonzero(wrong), np.flatnonzero(~wrong)
    num_hard = min(len(hard), max(num_images // 2, num_images - len(easy)))
    hard, easy = hard[:num_hard], easy[: num_images - num_hard]
    turn = np.concatenate([2 * np.arange(len(hard)), 2 * np.arange(len(easy)) + 1])
    return np.concatenate([hard, easy])[np.argsort(turn, kind="stable")]
