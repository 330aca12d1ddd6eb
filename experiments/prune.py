"""Drops what only going on needs from a run that is done: checkpoints/<variant>/training; the weights stay.

python -m experiments.prune results/lenet_vs_dense

The run is shown, listed, compared and predicted from as before. With more seeds or variants it cannot go on.
"""

from pathlib import Path

from mnistlab.comparison import listing, prune
from mnistlab.report import text

from . import common


def main(run: str) -> None:
    """Prunes the run in the folder `run`."""
    dropped = prune.prune(Path(run))
    left = listing.bytes_in(Path(run))
    print(f"{run}: {dropped:,} bytes dropped ({text.format_bytes(dropped)}), {text.format_bytes(left)} left")


if __name__ == "__main__":
    common.enter(main, ("RUN",), needs_jax=False)
