"""Every export format for every network of the sources: the largest difference of logits to JAX's, bytes, seconds.

python tests/exports.py      weights are random, the images 100 of MNIST's; npz and safetensors are applied by NumPy
"""

import tempfile
import time
from pathlib import Path

import jax
import numpy as np
from test_nets import applied, made_net

import mnistlab
from mnistlab.comparison import export
from mnistlab.errors import UserError
from mnistlab.nets import models
from mnistlab.report import text


def read_back(format, path, layers, images):
    """The logits of a file, by its own reader."""
    if format == "jax":
        return np.asarray(jax.export.deserialize(bytearray(path.read_bytes())).call(images))
    if format == "onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
        return session.run(None, {"image": images})[0]
    if format == "safetensors":
        from safetensors.numpy import load_file

        return applied(layers, load_file(path), images)
    return applied(layers, dict(np.load(path)), images)


def main():
    """Prints the table, line by line."""
    images, rows = mnistlab.load("mnist").test.image[:100], []
    with tempfile.TemporaryDirectory() as folder:
        for name, layers in models.MODELS.items():
            net = made_net(name)
            want = net.logits(images)
            for format in export.FORMATS:
                start = time.perf_counter()
                try:
                    path = export.export(net, format, Path(folder) / name / format)
                except UserError as error:
                    print(error)
                    continue
                seconds = time.perf_counter() - start
                largest = np.abs(read_back(format, path, layers, images) - want).max()
                size = f"{path.stat().st_size:,}"
                rows.append((name, format, f"{largest:.1e}", f"{np.abs(want).max():.1f}", size, f"{seconds:.2f}"))
    print(text.text_table(("network", "format", "largest difference", "largest logit", "bytes", "seconds"), rows))


if __name__ == "__main__":
    main()
