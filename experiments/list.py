"""What can be run, and the runs that there are: when, with how many seeds, what came out, size on disk.

python -m experiments.list [results/sweep]

Without a folder: the comparisons, the tools, and the runs under results. With one: the runs under it.
"""

from pathlib import Path

from mnistlab.comparison import listing

from . import common


def main(folder: str | None = None) -> None:
    """Prints both, or the runs under `folder`."""
    if folder is None:
        print(common.listing())
        if not common.RESULTS.is_dir():
            return
    found = listing.find_runs(common.RESULTS if folder is None else Path(folder))
    if found:
        print(f"\n{listing.runs_table(found).as_text()}")
    elif folder is not None:
        print(f"no runs under {folder}")


if __name__ == "__main__":
    common.enter(main, ("[FOLDER]",), needs_jax=False)
