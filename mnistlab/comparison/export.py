"""Trained networks for other programs: JAX's own format, npz, safetensors, ONNX; each with its model card."""

import dataclasses
import importlib.util
import io
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.export
import numpy as np
from flax import traverse_util

from mnistlab import files
from mnistlab.comparison import card, nets, onnx_graph
from mnistlab.comparison.loaded import Net
from mnistlab.errors import UserError, file_errors
from mnistlab.nets import models
from mnistlab.report import text
from mnistlab.training import loop
from mnistlab.training.population import EVAL_BATCH_SIZE
from mnistlab.training.step import TrainState


class Format(NamedTuple):
    """One way to write a network."""

    file: str
    write: Callable[[Net], bytes]
    use: str  # Python that reads the file and makes `logits` of `image`, or `arrays`
    package: str | None = None  # that it needs beside mnistlab's own


def export(net: Net, format: str, folder: Path) -> Path:
    """Leaves a network's file and README.md (model card, how to use it) in the new `folder`; gives the file's path.

    Raises:
      UserError: no such format, its package is missing, the network has no such form, or `folder` is there already or
        cannot be made.
    """
    if format not in FORMATS:
        raise UserError(f"format is {format!r:.40}; expected one of {', '.join(FORMATS)}")
    check_package(format)
    if os.path.lexists(folder):
        raise UserError(f"{folder} is there already; remove it or choose another --output")
    how = FORMATS[format]
    data, readme = how.write(net), _readme(net, how)
    with file_errors(f"cannot write {folder}", "free the space or choose another --output"):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as temporary:
            whole = Path(temporary) / "whole"
            files.write_atomic(whole / how.file, data)
            files.write_atomic(whole / "README.md", readme)
            whole.rename(folder)
    return folder / how.file


def check_package(format: str) -> None:
    """Makes sure that what a format needs is installed.

    Raises:
      UserError: it is not.
    """
    package = FORMATS[format].package
    if package is not None and importlib.util.find_spec(package) is None:
        raise UserError(f"format {format} needs the package {package}: pip install 'mnistlab[{format}]'")


def arrays(net: Net) -> dict[str, np.ndarray]:
    """All arrays that the logits are made of, by dotted names: params.conv_1.kernel, batch_stats.batchnorm_1.mean."""
    tree = {"params": net.weights["params"], **net.weights["model_state"]}
    found = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        name = jax.tree_util.keystr(path, simple=True, separator=".")
        if not name.startswith("settings."):  # rates of dropout, which only training heeds
            found[name] = np.asarray(leaf, order="C")
    return found


def _jax(net: Net) -> bytes:
    """A named network for any number of images; another for as many as its function was kept for."""
    if net.exported is not None:
        call, leaves = net.exported.call, jax.tree.leaves(dict(net.weights))
        return _serialized(lambda image: call(leaves, image), (EVAL_BATCH_SIZE,), net)
    predict = loop.predict_of(_plain(net.config))
    state = TrainState(opt_state=(), **jax.tree.map(np.asarray, dict(net.weights)))
    batch = (EVAL_BATCH_SIZE,) if _has_fixed_batch(net) else tuple(jax.export.symbolic_shape("batch"))
    return _serialized(lambda image: predict(state, image), batch, net)


def _has_fixed_batch(net: Net) -> bool:
    """Whether JAX can say it only for so many images at a time: kept so, or masks are drawn example by example."""
    return net.exported is not None or bool(dict(net.config.model_options).get("dropout_at_evaluation"))


def _plain(config: Any) -> Any:
    """With XLA's own convolutions, which every backend knows."""
    return dataclasses.replace(config, model_options=tuple((dict(config.model_options) | {"form": "lax"}).items()))


def _serialized(function: Callable[[Any], Any], batch: tuple[Any, ...], net: Net) -> bytes:
    image = jax.ShapeDtypeStruct((*batch, *net.image.shape), net.image.dtype)
    return bytes(jax.export.export(jax.jit(function), platforms=nets.PLATFORMS)(image).serialize())


def _npz(net: Net) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays(net))
    return buffer.getvalue()


def _safetensors(net: Net) -> bytes:
    from safetensors import numpy

    return bytes(numpy.save(arrays(net), metadata={"model_card": card.markdown(net.card)}))


def _onnx(net: Net) -> bytes:
    options = dict(net.config.model_options)
    obstacles = {
        "takes fractions": net.image.dtype == np.float32,
        "is no table of layers of mnistlab": not _is_table(net),
        "drops units at random in evaluation too": bool(options.get("dropout_at_evaluation")),
    }
    for what, is_so in obstacles.items():
        if is_so:
            raise UserError(f"{net.variant} {what}, so it has no ONNX form; take --format=jax")
    flat: dict[tuple[str, ...], Any] = {}
    for collection in (net.weights["params"], *net.weights["model_state"].values()):
        flat |= traverse_util.flatten_dict(collection)
    weights = traverse_util.unflatten_dict(flat)
    network = loop.make_model(net.config.model, net.config.model_options)
    assert isinstance(network, models.Network)
    return onnx_graph.build(network.layers, weights, _image_shape(net), net.config.pixel_scale, card.markdown(net.card))


def _is_table(net: Net) -> bool:
    return net.exported is None and isinstance(net.config.model, str)


def _image_shape(net: Net) -> tuple[int, int, int]:
    height, width, channels = net.image.shape
    return height, width, channels


FORMATS = {
    "jax": Format(
        "net.jax",
        _jax,
        "from pathlib import Path\n\nfrom jax import export\n\n"
        'net = export.deserialize(bytearray(Path("net.jax").read_bytes()))\nlogits = net.call(image)',
    ),
    "npz": Format("net.npz", _npz, 'import numpy as np\n\narrays = dict(np.load("net.npz"))'),
    "safetensors": Format(
        "net.safetensors",
        _safetensors,
        'from safetensors.numpy import load_file\n\narrays = load_file("net.safetensors")',
        "safetensors",
    ),
    "onnx": Format(
        "net.onnx",
        _onnx,
        'import onnxruntime\n\nsession = onnxruntime.InferenceSession("net.onnx")\n'
        '(logits,) = session.run(None, {"image": image})',
        "onnx",
    ),
}

LAYOUTS = """\
Images are [batch, rows, columns, channels] and enter as float32(image) * {scale:.10g}. The layers, in their order:

{layers}

- conv: kernel [rows, columns, channels in, channels out] (HWIO), y = x * kernel + bias as a cross-correlation (the
  kernel is not turned over); `valid` pads nothing, `same` pads with zeros as TensorFlow does: for ceil(size / stride)
  outputs, of an odd number of zeros the larger half at the end.
- avgpool, maxpool: without padding, what does not fill a window is dropped; the stride is the window's if none is said.
- flatten: rows, then columns, then channels ([H, W, C] in C order).
- dense: kernel [in, out], y = x @ kernel + bias.
- batchnorm: scale (x - mean) / sqrt(var + 0.001) + bias, channel by channel.
- local response normalisation r: x / (1 + 2e-5 s) ^ 0.75 with s the sum of x ^ 2 over the channels c - r to c + r.
- inception: side by side in channels `one`; `three` of `three_reduce`; `five` of `five_reduce`; `projection` of the
  largest of the 3x3 pixels around each; all convolutions `same` with relu.
- separable conv: each channel c under kernel[:, :, 0, c] alone, `same` as in conv and without a bias; then `pointwise`,
  a conv of 1x1.
- x + (...): a block's layers one after another, and what came in added to what comes out.
- global avgpool: the mean over all rows and columns.
- dropout: {dropout}."""


def _readme(net: Net, how: Format) -> str:
    dtype = str(net.image.dtype)
    what = f"{dtype} [batch, {', '.join(map(str, _image_shape(net)))}]" + (", 0 to 255" if dtype == "uint8" else "")
    if _has_fixed_batch(net) and how.file == "net.jax":
        what += f"; batch is {EVAL_BATCH_SIZE}: fill up with zeros, and drop those rows of the logits"
    parts = [
        card.markdown(net.card),
        f"## How to use it\n\n```python\n{how.use}\n```",
        f"`image` is {what}; `logits` are float32 [batch, classes], and their softmax the probabilities.",
    ]
    if "arrays" in how.use:
        rows = [(name, str(list(value.shape)), str(value.dtype)) for name, value in arrays(net).items()]
        parts.append(text.markdown_table(("array", "shape", "type"), rows))
        parts.append(_layouts(net))
    return "\n\n".join(parts) + "\n"


def _layouts(net: Net) -> str:
    if not _is_table(net):
        return "How the arrays are applied is in the code of the network."
    table = models.layer_table(loop.make_model(net.config.model, net.config.model_options), _image_shape(net))
    rows = [(row.name, row.layer, "×".join(map(str, row.output_shape))) for row in table]
    layers = text.markdown_table(("layer", "what it is", "output"), rows)
    is_dropping = dict(net.config.model_options).get("dropout_at_evaluation")
    dropout = "as in training, so that the logits are random" if is_dropping else "nothing, when a network is used"
    return LAYOUTS.format(scale=net.config.pixel_scale, layers=layers, dropout=dropout)
