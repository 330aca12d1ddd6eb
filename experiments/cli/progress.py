"""Progress on the terminal: a bar, or lines."""

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mnistlab.training.callbacks import Callback
    from mnistlab.training.result import Run


def log(line: str) -> None:
    """A line on stdout, at once."""
    print(line, flush=True)


def progress(kind: str, variant: str, num_epochs: int) -> "Callback":
    """Shows every epoch of a variant, as `kind` says: auto is a bar where stderr is a terminal, else lines."""
    from mnistlab.training.callbacks import Callback, Epoch, Snapshot

    class Lines(Callback):
        def on_epoch(self, epoch: Epoch) -> None:
            shown = " - ".join(f"{name}: {value:.4f}" for name, value in _means(epoch).items())
            log(f"{_title(variant, epoch.runs)} epoch {epoch.number}/{num_epochs} - {epoch.seconds:.1f}s - {shown}")

    class Bar(Callback):
        bar: Any = None

        def on_start(self, runs: "Sequence[Run]", snapshot: Snapshot) -> None:
            from tqdm import tqdm

            self.bar = tqdm(total=num_epochs, desc=_title(variant, runs), unit="epoch", initial=snapshot.num_epochs)

        def on_epoch(self, epoch: Epoch) -> None:
            shown = {name.replace("accuracy", "acc"): f"{value:.4f}" for name, value in _means(epoch).items()}
            self.bar.set_postfix(shown)
            self.bar.update()

        def on_end(self) -> None:
            if self.bar is not None:
                self.bar.close()

    if kind == "none":
        return Callback()
    return Bar() if kind == "bar" or (kind == "auto" and sys.stderr.isatty()) else Lines()


def _title(variant: str, runs: "Sequence[Run]") -> str:
    return f"{variant} seeds {runs[0].seed}-{runs[-1].seed}" if len(runs) > 1 else variant


def _means(epoch: Any) -> dict[str, float]:
    """Over the runs, of the finite values."""
    import numpy as np

    finite = {name: values[np.isfinite(values)] for name, values in epoch.record.items()}
    return {name: float(values.mean()) if len(values) else float("nan") for name, values in finite.items()}
