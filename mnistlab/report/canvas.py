"""How a figure is made, styled, laid out and saved: without pyplot, and so without global state.

matplotlib is imported when the first figure is made.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mnistlab.files import write_atomic

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# The palette of Okabe and Ito, told apart in colour blindness; markers and dashes differ too, for grey print.
BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY, BLACK = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#E69F00",
    "#56B4E9",
    "#000000",
)
GREY = "#5f5f5f"

WIDTH_INCHES = 7.2


def style() -> AbstractContextManager[None]:
    """Within it, matplotlib draws in our style (the file mnistlab.mplstyle), whatever the user's own says."""
    import matplotlib.style

    return matplotlib.style.context(["default", "mnistlab.report.mnistlab"])


def new_figure(width_inches: float, height_inches: float, is_laid_out: bool = True) -> Figure:
    """An empty figure, whose axes matplotlib arranges where `is_laid_out`."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width_inches, height_inches), layout="constrained" if is_laid_out else None)


def laid_out(figure: Figure) -> Figure:
    """`figure` with its layout computed once and kept: computed at every draw, it would drift in the last digits."""
    figure.draw_without_rendering()
    figure.set_layout_engine(None)  # "none" would leave an engine, for which each file is drawn twice
    return figure


def legend(figure: Figure, num_columns: int, extra: Sequence[Any] = (), order: Sequence[str] = ()) -> None:
    """One legend above all panels, where it covers no data; every label once, those in `order` first."""
    handles: dict[str, Any] = {}
    for axes in figure.axes:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    for handle in extra:
        handles.setdefault(handle.get_label(), handle)
    labels = [label for label in order if label in handles]
    labels += [label for label in handles if label not in labels]
    if labels:
        column_inches = 0.45 + 0.065 * max(map(len, labels))
        ncols = max(1, min(num_columns, len(labels), int(figure.get_figwidth() / column_inches)))
        figure.legend([handles[label] for label in labels], labels, loc="outside upper center", ncols=ncols)


def pixels(figure: Figure) -> NDArray[np.uint8]:
    """`figure` as a picture at 100 dots an inch, uint8 [H, W, 3], for TensorBoard."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    with style():
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def _saved(figure: Figure, **options: Any) -> bytes:
    buffer = io.BytesIO()
    with style():
        figure.savefig(buffer, **options)
    return buffer.getvalue()


def svg_of(figure: Figure) -> str:
    """`figure` as the text of an svg file."""
    return _saved(figure, format="svg", metadata={"Date": None, "Creator": None}).decode()


def save_figure(figure: Figure, folder: Path, name: str) -> tuple[Path, Path]:
    """Writes `folder/name.svg` and `folder/name.png` (200 dots an inch) atomically; the same figure, the same bytes.

    Raises:
      UserError: the folder cannot be written.
    """
    svg, png = folder / f"{name}.svg", folder / f"{name}.png"
    write_atomic(svg, svg_of(figure))
    write_atomic(png, _saved(figure, format="png", dpi=200, metadata={"Software": None}))
    return svg, png
