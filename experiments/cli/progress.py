"""Progress on the terminal: a bar, or lines."""

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mnistlab.comparison.experiment import Display
    from mnistlab.training.train import Epoch


def display(progress: str = "auto") -> "Display":
    """Progress as a bar where stderr is a terminal, else as plain lines."""
    from mnistlab.comparison.experiment import Display

    bar = progress == "bar" or (progress == "auto" and sys.stderr.isatty())
    state: dict[str, Any] = {}

    def line(text: str) -> None:
        print(text, flush=True)

    def begin(variant: str, num_epochs: int) -> None:
        state.update(variant=variant, num_epochs=num_epochs)

    def epoch(variant: str, epoch: "Epoch") -> None:
        if progress == "none":
            return
        values = {name: float(_mean(values)) for name, values in epoch.record.items()}
        crowd = f"{variant} seeds {epoch.runs[0].seed}-{epoch.runs[-1].seed}" if len(epoch.runs) > 1 else variant
        if not bar:
            shown = " - ".join(f"{name}: {value:.4f}" for name, value in values.items())
            line(f"{crowd} epoch {epoch.number}/{state['num_epochs']} - {epoch.seconds:.1f}s - {shown}")
            return
        from tqdm import tqdm

        if state.get("crowd") != crowd:
            end()
            state.update(
                crowd=crowd, bar=tqdm(total=state["num_epochs"], desc=crowd, unit="epoch", initial=epoch.number - 1)
            )
        state["bar"].set_postfix({name.replace("accuracy", "acc"): f"{value:.4f}" for name, value in values.items()})
        state["bar"].update()

    def end() -> None:
        if state.get("bar") is not None:
            state["bar"].close()
        state.update(bar=None, crowd=None)

    return Display(line, begin, epoch, end)


def _mean(values: Any) -> float:
    import numpy as np

    finite = values[np.isfinite(values)]
    return finite.mean() if len(finite) else float("nan")
