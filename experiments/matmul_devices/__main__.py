"""The command: sizes and rounds beside the common flags."""

from absl import flags

from mnistlab.errors import UserError

from .. import common, matmul_devices
from .experiment import NAME, NUM_ROUNDS, SIZES, run

__doc__ = matmul_devices.__doc__  # of --help
FLAGS = flags.FLAGS


def define_flags() -> None:
    """Flags of this entry point beside the common ones."""
    common.define_run_flags()
    common.define_training_flags()
    flags.DEFINE_list("sizes", [str(size) for size in SIZES], "Sizes of the square matrices.")
    flags.DEFINE_integer("rounds", NUM_ROUNDS, "Products of each size on each device.")


def _main() -> None:
    try:
        sizes = [int(size) for size in FLAGS.sizes]
    except ValueError as error:
        raise UserError(f"sizes are {','.join(FLAGS.sizes)!r}; expected whole numbers, such as 500,1000") from error
    options = common.options(NAME)
    run(options, sizes, FLAGS.rounds, common.log)


if __name__ == "__main__":
    define_flags()
    common.enter(_main)
