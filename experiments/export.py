"""A trained network for other programs, with its model card: JAX's own format, npz, safetensors or ONNX.

python -m experiments.export RUN VARIANT --format=jax [--seed=0] [--which=best] [--output=FOLDER]

RUN is a folder that a training experiment left. FOLDER, which must not be there, gets the network's file and README.md: data,
protocol, accuracy, what not to use it for, and the lines that read the file.
"""

from pathlib import Path

from absl import flags

from mnistlab.comparison import export, loaded
from mnistlab.comparison.nets import KINDS

from . import common
from .cli.flags import usable

NAME = "export"
FLAGS = flags.FLAGS


def main(run: str, variant: str) -> None:
    """Reads the network and writes it."""
    export.check_package(FLAGS.format)
    net = loaded.load_net(Path(run), variant, seed=FLAGS.seed, which=FLAGS.which)
    if FLAGS.output:
        folder = usable("output", FLAGS.output)
    else:
        name = f"{Path(run).resolve().name}_{variant}_seed{net.seed}_{net.which}_{FLAGS.format}"
        folder = common.workdir(NAME) / name.replace("/", "_").replace(" ", "_")
    path = export.export(net, FLAGS.format, folder)
    print(f"{net}\n{path}: {path.stat().st_size:,} bytes\nmodel card and how to use it: {folder / 'README.md'}")


def define_flags() -> None:
    """Flags of this entry point beside the common ones."""
    common.define_run_flags()
    flags.DEFINE_enum("format", "jax", list(export.FORMATS), "onnx and safetensors need the package of that name.")
    flags.DEFINE_integer("seed", None, "Which run of the variant; default the first.")
    flags.DEFINE_enum("which", "last", KINDS, "The final weights, which were tested, or those best in validation.")
    flags.DEFINE_string("output", None, "The folder that is made; default <workdir>/<run>_<variant>_...")


if __name__ == "__main__":
    define_flags()
    common.enter(main, ("RUN", "VARIANT"))
