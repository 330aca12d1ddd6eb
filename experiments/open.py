"""Opens the page of a run in the web browser, and prints its path.

python -m experiments.open results/lenet_vs_dense
"""

import webbrowser
from pathlib import Path

from mnistlab.errors import UserError

from . import common


def main(run: str) -> None:
    """Opens report.html of the folder `run`; where there is no browser the path is all one gets."""
    page = Path(run) / "report.html"
    if not page.is_file():
        raise UserError(f"{run} has no report.html; give the folder of a run that has ended, see mnistlab list")
    print(page.absolute(), flush=True)  # before what the browser says
    if not webbrowser.open(page.absolute().as_uri()):
        print("no browser was found here; open that file where there is one: it needs nothing else")


if __name__ == "__main__":
    common.enter(main, ("RUN",), needs_jax=False)
