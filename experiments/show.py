"""Prints what a run left: its table, its claims in sentences, the command that repeats it.

python -m experiments.show results/lenet_vs_dense
"""

from pathlib import Path

from mnistlab.comparison import show

from . import common


def main(run: str) -> None:
    """Prints the run in the folder `run`."""
    print("\n".join(show.lines(Path(run))))


if __name__ == "__main__":
    common.enter(main, ("RUN",), needs_jax=False)
