"""Tables, figures and one self-contained html page; the only importer of matplotlib.

Everything here takes plain numbers, NumPy arrays and texts and returns a string or a figure; only `save_figure` writes.
matplotlib is imported when the first figure is made, without pyplot and so without global state.

Letters: S seeds, E epochs, K settings, n seeds of one variant, k classes.
"""

from __future__ import annotations

import html
import io
import itertools
import math
import re
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mnistlab.analysis.stats import UNKNOWN, mean_interval
from mnistlab.errors import UserError
from mnistlab.files import write_atomic

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Floats: TypeAlias = NDArray[np.floating[Any]]

# ---------------------------------------------------------------------------------------------------------------------
# Numbers

MISSING = "–"


def _decimals(uncertainty: float) -> int:
    """Decimals that show one digit of `uncertainty`, two where it starts with 1."""
    if not math.isfinite(uncertainty) or uncertainty <= 0:
        return 4
    digit, exponent = f"{uncertainty:.1e}".split("e")
    return max(0, (1 if digit.startswith("1") else 0) - int(exponent))


def _minus(text: str) -> str:
    return text.replace("-", "−")


def format_value(metric: str, value: float | None) -> str:
    """`value` as its metric is usually printed: counts whole, seconds to 3 digits, all else to 4 decimals.

    >>> format_value("test_accuracy", 0.98664), format_value("params", 61706), format_value("train_seconds", 9.996)
    ('0.9866', '61,706', '10.0')
    """
    if value is None or math.isnan(value):
        return MISSING
    if metric.endswith(("params", "parameters", "epoch", "epochs", "examples", "seeds", "steps")) and value == int(
        value
    ):
        return _minus(f"{int(value):,}")
    if metric.endswith("seconds"):
        return format_significant(value)
    return _minus(f"{value:.4f}")


def format_significant(value: float, digits: int = 3) -> str:
    """`value` to `digits` significant digits, with thousands separators and no exponent down to 1e-4.

    >>> format_significant(28565.83), format_significant(0.1385), format_significant(2.3e-7)
    ('28,600', '0.139', '2.30e−07')
    """
    if not math.isfinite(value):
        return MISSING if math.isnan(value) else _minus(f"{value}")
    exponent = int(f"{value:.{digits - 1}e}".split("e")[1]) if value else 0
    if exponent < -4:
        return _minus(f"{value:.{digits - 1}e}")
    return _minus(f"{round(value, digits - 1 - exponent):,.{max(0, digits - 1 - exponent)}f}")


def format_mean_sd(mean: float, sd: float, n: int) -> str:
    """Mean and standard deviation over n seeds; the standard deviation decides the digits.

    >>> format_mean_sd(0.98713, 0.00087, 8), format_mean_sd(0.98713, float("nan"), 1)
    ('0.9871 ± 0.0009 (n=8)', '0.9871 (n=1)')
    """
    if n < 2 or not math.isfinite(sd):
        return _minus(f"{mean:.4f} (n={n})")
    decimals = _decimals(sd)
    return _minus(f"{mean:,.{decimals}f} ± {sd:,.{decimals}f} (n={n})")


def format_interval(mean: float, low: float, high: float, *, signed: bool = False) -> str:
    """Mean and interval; half the interval's width decides the digits; `signed` writes the + of a difference.

    >>> format_interval(0.00891, 0.0081, 0.0097, signed=True), format_interval(0.98712, 0.98652, 0.98772)
    ('+0.0089 [+0.0081, +0.0097]', '0.9871 [0.9865, 0.9877]')
    """
    if math.isnan(mean):
        return MISSING
    decimals = _decimals((high - low) / 2)
    sign = "+" if signed else ""
    middle = f"{mean:{sign},.{decimals}f}"
    if not (math.isfinite(low) and math.isfinite(high)):
        return _minus(middle)
    return _minus(f"{middle} [{low:{sign},.{decimals}f}, {high:{sign},.{decimals}f}]")


def format_p(p: float) -> str:
    """A p-value: three decimals, or the bound it is under.

    >>> format_p(0.0078), format_p(0.00002), format_p(1.0)
    ('0.008', '< 0.001', '1.000')
    """
    if math.isnan(p):
        return MISSING
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def _cell(value: object) -> str:
    if value is None:
        return MISSING
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    if isinstance(value, int | np.integer):
        return _minus(f"{int(value):,}")
    if isinstance(value, float | np.floating):
        number = float(value)
        return MISSING if math.isnan(number) else _minus(f"{number:,.0f}" if abs(number) >= 1e4 else f"{number:.4g}")
    return str(value)


_NUMBER = re.compile(r"(–|[<≤≥>~≈]?\s*[+−-]?[\[(]?\s*[+−-]?\d[\d,. ±eE+×n=()\[\]%−-]*(ms|s|x)?)(, \d+ not finite)?")


def _numeric_columns(cells: Sequence[Sequence[str]], num_columns: int) -> list[bool]:
    """Whether a column holds numbers only (and at least one)."""
    columns = [[row[j] for row in cells if row[j] not in ("", MISSING)] for j in range(num_columns)]
    return [bool(column) and all(_NUMBER.fullmatch(cell) for cell in column) for column in columns]


def _table_cells(header: Sequence[str], rows: Sequence[Sequence[object]]) -> tuple[list[list[str]], list[bool]]:
    cells = [[_cell(value) for value in row] for row in rows]
    for row in cells:
        if len(row) != len(header):
            raise ValueError(f"a table row has {len(row)} cells, its header has {len(header)}: {row}")
    return cells, _numeric_columns(cells, len(header))


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A table in Markdown; columns of numbers go right.

    >>> print(markdown_table(("variant", "n"), [("dense", 8)]))
    | variant | n |
    | :-- | --: |
    | dense | 8 |
    """
    cells, numeric = _table_cells(header, rows)
    rule = ["--:" if right else ":--" for right in numeric]
    lines = [[cell.replace("|", "\\|") for cell in line] for line in (list(header), rule, *cells)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def text_table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A table for the terminal: two spaces between columns, columns of numbers to the right.

    >>> print(text_table(["variant", "params"], [["lenet5", 61706], ["dense", 101770]]))
    variant   params
    -------  -------
    lenet5    61,706
    dense    101,770
    """
    cells, numeric = _table_cells(header, rows)
    widths = [max(len(row[j]) for row in [list(header), *cells]) for j in range(len(header))]

    def line(row: Sequence[str]) -> str:
        aligned = zip(row, widths, numeric, strict=True)
        return "  ".join(cell.rjust(width) if right else cell.ljust(width) for cell, width, right in aligned).rstrip()

    return "\n".join([line(header), "  ".join("-" * width for width in widths), *map(line, cells)])


# ---------------------------------------------------------------------------------------------------------------------
# Figures

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
_COLORS = (BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY, BLACK)
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_DASHES: tuple[Any, ...] = ("-", "--", "-.", (0, (1, 1)), (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (8, 2)))
_GREY = "#5f5f5f"

_WIDTH_INCHES = 7.2
_STYLE: dict[str, Any] = {
    "font.family": ["DejaVu Sans"],
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.labelsize": 9,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "figure.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.linewidth": 0.6,
    "grid.color": "#e3e3e3",
    "grid.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "lines.linewidth": 1.3,
    "lines.markersize": 4,
    "axes.formatter.useoffset": False,
    "svg.fonttype": "path",
    "svg.hashsalt": "mnistlab",
    "image.composite_image": False,
}


def _style() -> AbstractContextManager[None]:
    import matplotlib.style

    return matplotlib.style.context(["default", _STYLE])


def _figure(width_inches: float, height_inches: float, title: str | None = None) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width_inches, height_inches), layout="constrained")
    if title:
        figure.suptitle(title)
    return figure


def _laid_out(figure: Figure) -> Figure:
    """`figure` with its layout computed once and kept: computed at every draw, it would drift in the last digits."""
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    return figure


def _spread(values: Floats) -> tuple[Floats, Floats, Floats]:
    """float [S, E] -> mean, lowest, highest, each [E], over the seeds that are finite there (NaN where none is)."""
    finite = np.isfinite(values)
    count = finite.sum(0)
    mean = np.where(count > 0, np.where(finite, values, 0.0).sum(0) / np.maximum(count, 1), np.nan)
    low = np.where(count > 0, np.where(finite, values, np.inf).min(0), np.nan)
    high = np.where(count > 0, np.where(finite, values, -np.inf).max(0), np.nan)
    return mean, low, high


def _jitter(n: int, width: float = 0.5) -> Floats:
    """n offsets in ±width/2, evenly spread and always the same (multiples of the golden ratio, modulo 1)."""
    if n == 1:
        return np.zeros(1)
    return (np.arange(1, n + 1) * 0.6180339887498949 % 1.0 - 0.5) * width


def _legend(figure: Figure, num_columns: int, extra: Sequence[Any] = (), order: Sequence[str] = ()) -> None:
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


def _limit_tail(axes: Axes, drawn: Sequence[tuple[Floats, Floats, str]], *, high: bool) -> None:
    """Ends the y axis where a bad first epoch would waste it; what lies beyond gets arrows and its extreme's number."""
    sign = 1.0 if high else -1.0
    values = sign * np.concatenate([y[np.isfinite(y)] for _, y, _ in drawn])
    if values.size < 8:
        return
    typical = float(np.quantile(values, 0.9))
    limit = typical + 4.0 * (typical - float(values.min()))
    if values.max() <= limit or typical == values.min():
        return
    inside = values[values <= limit]
    edge = float(inside.max() + 0.08 * (inside.max() - inside.min()))
    floor = float(inside.min() - 0.05 * (inside.max() - inside.min()))
    if values.max() - edge < 0.5 * (edge - floor):
        return
    axes.set_ylim(*sorted((sign * edge, sign * floor)))
    outside = [(x[beyond], color) for x, y, color in drawn if (beyond := sign * y > edge).any()]
    for x, color in outside:
        axes.plot(
            x,
            np.full(x.shape, 0.985 if high else 0.015),
            linestyle="none",
            marker="^" if high else "v",
            color=color,
            markersize=4,
            clip_on=False,
            transform=axes.get_xaxis_transform(),
            gid="beyond",
        )
    extreme = sign * float(values.max())
    axes.annotate(
        f"up to {format_significant(extreme)}" if high else f"down to {format_significant(extreme)}",
        (max(float(x.max()) for x, _ in outside), 0.985 if high else 0.015),
        xycoords=axes.get_xaxis_transform(),
        xytext=(5, -1 if high else 3),
        textcoords="offset points",
        va="top" if high else "bottom",
        fontsize=7.5,
        color=_GREY,
        bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 0.6},
    )


_PARTS = (
    ("train", "training", BLUE, "o", BLACK, (0, (4, 2))),
    ("val", "validation", VERMILLION, "s", "#6b6b6b", (0, (1, 1))),
)


def figure_history(
    ours: Mapping[str, Mapping[str, ArrayLike]], reported: Mapping[str, Mapping[str, ArrayLike]] | None = None
) -> Figure:
    """Loss and accuracy against epoch, a row of two panels a variant; the reported curve broken, behind ours.

    Nothing is smoothed. With several seeds the line is the mean and the band reaches from the lowest to the highest
    seed; epochs that a stopped seed did not run are NaN and left out, and its last epoch gets a tick on the x axis.

    Args:
      ours: variant -> metric (train_loss, train_accuracy, val_loss, val_accuracy) -> float [S, E] or [E].
      reported: variant -> metric -> float [E]; variants and metrics may be missing.
    """
    from matplotlib.patches import Patch
    from matplotlib.ticker import MaxNLocator

    with _style():
        figure = _figure(_WIDTH_INCHES, 0.55 + 2.15 * len(ours))
        grid = figure.subplots(len(ours), 2, squeeze=False)
        num_seeds: set[int] = set()
        for row, (variant, metrics) in zip(grid, ours.items(), strict=True):
            for axes, quantity in zip(row, ("loss", "accuracy"), strict=True):
                drawn: list[tuple[Floats, Floats, str]] = []
                last_epochs: set[int] = set()
                for part, label, color, marker, reported_color, dashes in _PARTS:
                    metric = f"{part}_{quantity}"
                    theirs = (reported or {}).get(variant, {}).get(metric)
                    if theirs is not None:
                        y = np.asarray(theirs, np.float64)
                        x = np.arange(1.0, y.size + 1)
                        axes.plot(
                            x,
                            y,
                            color=reported_color,
                            linestyle=dashes,
                            linewidth=2.0,
                            zorder=2,
                            label=f"reported {label}",
                        )
                        drawn.append((x, y, reported_color))
                    if metric not in metrics:
                        continue
                    values = np.atleast_2d(np.asarray(metrics[metric], np.float64))
                    mean, low, high = _spread(values)
                    x = np.arange(1.0, mean.size + 1)
                    size = 3.2 if mean.size <= 30 else 2.0
                    axes.plot(
                        x, mean, color=color, marker=marker, markersize=size, linewidth=1.0, zorder=3, label=label
                    )
                    drawn.append((x, mean, color))
                    if len(values) > 1:
                        num_seeds.add(len(values))
                        axes.fill_between(x, low, high, color=color, alpha=0.22, linewidth=0, zorder=1)
                        drawn += [(x, low, color), (x, high, color)]
                        lasts = [
                            int(np.flatnonzero(np.isfinite(seed))[-1]) + 1 for seed in values if np.isfinite(seed).any()
                        ]
                        last_epochs |= {last for last in lasts if last < mean.size}
                if last_epochs:
                    axes.plot(
                        sorted(last_epochs),
                        np.zeros(len(last_epochs)),
                        linestyle="none",
                        marker="|",
                        markersize=9,
                        color=BLACK,
                        clip_on=False,
                        transform=axes.get_xaxis_transform(),
                        label="last epoch of a seed that stopped",
                    )
                axes.set(title=f"{variant}: {quantity}", xlabel="epoch", ylabel=quantity)
                axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
                axes.grid(True)
                if drawn:
                    _limit_tail(axes, drawn, high=quantity == "loss")
        seeds = " or ".join(str(n) for n in sorted(num_seeds))
        band = [Patch(color=_GREY, alpha=0.3, linewidth=0, label=f"line mean, band lowest to highest of {seeds} seeds")]
        order = [label for _, part, *_ in _PARTS for label in (part, f"reported {part}")]
        _legend(figure, 3 if num_seeds else 4, band if num_seeds else [], order)
        return _laid_out(figure)


def figure_predictions(
    image: NDArray[np.uint8],
    truth: ArrayLike,
    predicted: ArrayLike | None,
    class_names: Sequence[str],
    rows: int,
    columns: int,
    title: str | None = None,
) -> Figure:
    """The first rows x columns images, titled with truth and prediction; a wrong one is red, framed and marked ✗.

    Args:
      image: uint8 [n, H, W, C] with C 1 or 3.
      truth: int [n].
      predicted: int [n], or None for images that only show their label.
    """
    true_labels = np.asarray(truth)
    labels = None if predicted is None else np.asarray(predicted)
    n = min(rows * columns, len(image))
    one_line = max(map(len, class_names)) <= 2 and columns <= 5
    with _style():
        cell = min(1.42, _WIDTH_INCHES / columns)
        text_height = 0.22 if labels is None or one_line else 0.36
        figure = _figure(cell * columns, (cell * 0.86 + text_height) * rows + (0.3 if title else 0.0), title)
        grid = figure.subplots(rows, columns, squeeze=False).ravel()
        for axes in grid[n:]:
            axes.set_axis_off()
        for k, axes in enumerate(grid[:n]):
            pixels = image[k, ..., 0] if image.shape[-1] == 1 else image[k]
            axes.imshow(pixels, cmap="gray_r", vmin=0, vmax=255, interpolation="none")
            axes.set(xticks=[], yticks=[])
            name = class_names[int(true_labels[k])]
            wrong = labels is not None and labels[k] != true_labels[k]
            text = name
            if labels is not None:
                gap = " " if one_line else "\n"
                text = f"truth {name},{gap}predicted {class_names[int(labels[k])]}{' ✗' if wrong else ''}"
            axes.set_title(text, fontsize=8, pad=3, color=VERMILLION if wrong else "black")
            axes.spines[:].set(visible=True, color=VERMILLION if wrong else "#c8c8c8", linewidth=2.0 if wrong else 0.5)
        return _laid_out(figure)


def figure_confusion(counts: ArrayLike, class_names: Sequence[str], title: str | None = None) -> Figure:
    """Confusion matrix: int [k, k], row the truth, column the prediction; colour is the share of the true class."""
    from matplotlib.colors import PowerNorm

    table = np.asarray(counts)
    share = table / np.maximum(table.sum(1, keepdims=True), 1)
    with _style():
        size = max(3.6, 0.47 * len(class_names))
        figure = _figure(size + 1.6, size + 0.7, title)
        axes = figure.subplots()
        # The square root lets the few mistakes be seen beside the many right answers.
        picture = axes.imshow(share, cmap="Blues", norm=PowerNorm(0.5, 0.0, 1.0), interpolation="none")
        for (i, j), count in np.ndenumerate(table):
            dark = share[i, j] > 0.35
            color = "white" if dark else ("#9a9a9a" if count == 0 else "black")
            axes.text(j, i, f"{int(count)}", ha="center", va="center", fontsize=8, color=color)
        positions = range(len(class_names))
        long = max(map(len, class_names)) > 3
        axes.set_xticks(
            positions, class_names, rotation=40 if long else 0, ha="right" if long else "center", rotation_mode="anchor"
        )
        axes.set_yticks(positions, class_names)
        axes.set(xlabel="predicted class", ylabel="true class")
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        bar = figure.colorbar(picture, ax=axes, shrink=0.8, aspect=25, ticks=[0.0, 0.01, 0.1, 0.25, 0.5, 1.0])
        bar.ax.set_yticklabels(["0", "1 %", "10 %", "25 %", "50 %", "100 %"])
        bar.set_label("share of the true class (square-root scale)")
        bar.outline.set_visible(False)
        return _laid_out(figure)


def figure_layer_table(rows: Sequence[tuple[str, str, Sequence[int] | str, int]], title: str | None = None) -> Figure:
    """The layers of a network, one a line: (name, layer, output shape, parameters), and the sum of the parameters."""
    header = ("name", "layer", "output shape", "parameters")
    lines = [
        (name, layer, shape if isinstance(shape, str) else "×".join(map(str, shape)), f"{count:,}")
        for name, layer, shape, count in rows
    ]
    total = ("total", "", "", f"{sum(count for *_, count in rows):,}")
    widths = [max(len(line[j]) for line in [header, *lines, total]) for j in range(4)]
    line_inches, em_inches = 0.205, 0.078
    width = max(em_inches * (sum(widths) + 3 * 3) + 0.2, 0.09 * len(title or "") + 0.2)
    height = line_inches * (len(lines) + 2) + 0.15 + (0.3 if title else 0.0)
    with _style():
        figure = _figure(width, height, title)
        axes = figure.subplots()
        axes.set_axis_off()
        axes.set(xlim=(0, width), ylim=(len(lines) + 2.1, -0.1))
        starts = np.cumsum([0.1, *(em_inches * (w + 3) for w in widths[:3])])
        for i, line in enumerate([header, *lines, total]):
            weight = "bold" if i in (0, len(lines) + 1) else "normal"
            for j, text in enumerate(line):
                right = j == 3
                axes.text(
                    width - 0.1 if right else starts[j],
                    i + 0.5,
                    text,
                    ha="right" if right else "left",
                    va="center",
                    fontsize=8.5,
                    weight=weight,
                )
        for y, thick in ((0.0, 1.2), (1.0, 0.6), (len(lines) + 1.0, 0.6), (len(lines) + 2.0, 1.2)):
            axes.plot([0, width], [y, y], color=BLACK, linewidth=thick, clip_on=False)
        return _laid_out(figure)


def _row_axes(
    labels: Sequence[str], row_inches: float, wrap: int, width_ratios: Sequence[float] = (1.0,)
) -> tuple[Figure, list[Axes]]:
    """Panels side by side with one labelled row an entry, the first on top."""
    wrapped = ["\n".join(textwrap.wrap(label, wrap)) for label in labels]
    heights = [max(row_inches, 0.15 * (label.count("\n") + 1) + 0.14) for label in wrapped]
    figure = _figure(_WIDTH_INCHES, 1.0 + sum(heights))
    panels = list(figure.subplots(1, len(width_ratios), sharey=True, squeeze=False, width_ratios=width_ratios)[0])
    panels[0].set_yticks(range(len(labels)), wrapped)
    panels[0].set_ylim(len(labels) - 0.45, -0.55)
    for axes in panels:
        axes.grid(True, axis="x")
        axes.tick_params(axis="y", length=0)
        axes.margins(x=0.06)
    return figure, panels


def _finite_rows(values: Mapping[str, ArrayLike]) -> dict[str, Floats]:
    """The finite numbers under each label, which says how many they are and how many were not finite."""
    rows: dict[str, Floats] = {}
    for name, array in values.items():
        everything = np.asarray(array, np.float64).ravel()
        finite = everything[np.isfinite(everything)]
        lost = everything.size - finite.size
        rows[f"{name} (n={finite.size}{f', {lost} not finite' if lost else ''})"] = finite
    return rows


def _seed_row(axes: Axes, y: float, values: Floats, interval: tuple[float, float], label: str) -> None:
    """The seeds as dots in the upper part of the row, under them their mean and its interval, so that neither hides."""
    axes.plot(
        values,
        y - 0.13 + _jitter(values.size, 0.36),
        linestyle="none",
        marker="o",
        markersize=3.8,
        color=SKY,
        markeredgecolor=BLUE,
        markeredgewidth=0.4,
        zorder=2,
        label="one seed",
    )
    if all(map(math.isfinite, interval)):
        axes.plot(interval, [y + 0.25] * 2, color=BLACK, linewidth=1.6, marker="|", markersize=6, zorder=3)
    axes.plot(
        [values.mean()], [y + 0.25], linestyle="none", marker="D", markersize=4.5, color=BLACK, zorder=4, label=label
    )


def figure_seeds(values: Mapping[str, ArrayLike], label: str, reported: Mapping[str, float] | None = None) -> Figure:
    """Every seed a dot, the mean with its 95 % interval (Student's t), the reported number a bar; a row a variant.

    Args:
      values: variant -> float [n]; a diverged seed (not finite) is not drawn but counted in the row's label.
      label: the metric with its unit, for the axis.
      reported: variant -> number, for those that have one.
    """
    with _style():
        rows = _finite_rows(values)
        figure, (axes,) = _row_axes(list(rows), 0.42, 34)
        for y, (variant, array) in enumerate(zip(values, rows.values(), strict=True)):
            if array.size:
                _seed_row(axes, y, array, mean_interval(array), "mean and its 95 % interval (t)")
            if reported and variant in reported:
                axes.plot(
                    [reported[variant]] * 2,
                    [y - 0.4, y + 0.4],
                    color=VERMILLION,
                    linestyle=(0, (3, 1)),
                    linewidth=2.0,
                    zorder=1,
                    label="reported",
                )
        axes.set_xlabel(label)
        _legend(figure, 3)
        return _laid_out(figure)


def figure_differences(
    differences: Mapping[str, ArrayLike], intervals: Mapping[str, tuple[float, float]], label: str
) -> Figure:
    """Paired differences, every seed a dot, mean and the given interval, and a line at zero; a row a claim.

    Args:
      differences: claim -> float [n], one difference a seed; those not finite are counted in the row's label.
      intervals: claim -> (low, high); NaN or missing where there is none.
      label: the metric with its unit, for the axis.
    """
    with _style():
        rows = _finite_rows(differences)
        figure, (axes,) = _row_axes(list(rows), 0.42, 34)
        axes.axvline(0.0, color=VERMILLION, linestyle="--", linewidth=1.0, zorder=1, label="no difference")
        for y, (claim, array) in enumerate(zip(differences, rows.values(), strict=True)):
            if array.size:
                _seed_row(axes, y, array, intervals.get(claim, UNKNOWN), "mean and its 95 % interval")
        axes.set_xlabel(label)
        _legend(figure, 3)
        return _laid_out(figure)


def figure_durations(seconds: Mapping[str, Mapping[str, ArrayLike]], label: str) -> Figure:
    """Durations on a logarithmic axis, every round a dot, the median a bar; a panel a workload, a row a peer.

    The first peer, and those whose names begin with its name, stand out.

    Args:
      seconds: workload -> peer -> float [rounds].
      label: what was timed, with its unit.
    """
    with _style():
        num_rows = sum(len(peers) for peers in seconds.values())
        figure = _figure(7.0, 0.24 * num_rows + 0.35 * len(seconds) + 0.5)
        panels = figure.subplots(
            len(seconds), 1, sharex=True, squeeze=False, height_ratios=[len(peers) for peers in seconds.values()]
        )[:, 0]
        for axes, (workload, peers) in zip(panels, seconds.items(), strict=True):
            for y, (peer, values) in enumerate(peers.items()):
                array = np.asarray(values, float)
                color = BLUE if peer.startswith(next(iter(peers))) else _GREY
                axes.plot(array, np.full(len(array), y), "o", color=color, markersize=3.5, alpha=0.6, linewidth=0)
                axes.plot([np.median(array)] * 2, [y - 0.35, y + 0.35], color=color, linewidth=2.4)
            axes.set(ylim=(len(peers) - 0.5, -0.5), xscale="log")
            axes.set_yticks(range(len(peers)), list(peers), fontsize=7.5)
            axes.set_title(workload, loc="left", fontsize=9)
            axes.grid(axis="y", visible=False)
        panels[-1].set_xlabel(label)
        return _laid_out(figure)


_RUN, _MEAN = "where one more run would fall (95 %)", "ours: mean and its 95 % interval"


@dataclass(frozen=True)
class ForestRow:
    """One row of `figure_forest`: mean, its interval, where one more run would fall, and what the source reported."""

    label: str
    mean: float
    mean_interval: tuple[float, float] = UNKNOWN
    run_interval: tuple[float, float] = UNKNOWN
    reported: float | None = None


def figure_forest(rows: Sequence[ForestRow], label: str) -> Figure:
    """Ours minus reported, a row an experiment and variant, with both numbers beside it.

    Thick bars are the intervals of the mean, thin ones those of one more run: a reported number whose line crosses the
    thin bar could have been one of our runs. Rows that no source reported have no bar.
    """
    with _style():
        names = [row.label for row in rows]
        figure, (numbers, axes) = _row_axes(names, 0.27, 34, width_ratios=(0.85, 1.0))
        numbers.set(xlim=(0, 1), xticks=[])
        numbers.spines[:].set_visible(False)
        numbers.grid(False)
        for x, text in ((0.3, "reported"), (1.0, "ours, 95 % interval")):
            numbers.annotate(
                text, (x, 1), (0, 3), ("axes fraction"), "offset points", ha="right", fontsize=8, weight="bold"
            )
        for y, row in enumerate(rows):
            if y % 2 == 0:
                for panel in (numbers, axes):
                    panel.axhspan(y - 0.5, y + 0.5, color="#f3f3f3", linewidth=0, zorder=0)
            theirs = MISSING if row.reported is None else _minus(f"{row.reported:.4f}")
            ours = format_interval(row.mean, *row.mean_interval)
            numbers.text(0.3, y, theirs, ha="right", va="center", fontsize=8)
            numbers.text(1.0, y, ours, ha="right", va="center", fontsize=8)
            if row.reported is None:
                continue
            run, interval = (np.array(pair) - row.reported for pair in (row.run_interval, row.mean_interval))
            axes.plot(run, [y, y], color=BLUE, linewidth=0.9, marker="|", markersize=5, zorder=2, label=_RUN)
            axes.plot(interval, [y, y], color=BLUE, linewidth=3.2, solid_capstyle="butt", zorder=3)
            axes.plot([row.mean - row.reported], [y], "D", color=BLUE, markersize=4.5, zorder=4, label=_MEAN)
        axes.axvline(0.0, color=VERMILLION, linestyle="--", linewidth=1.2, zorder=1, label="reported")
        axes.set_xlabel(f"ours − reported, {label}")
        axes.spines["left"].set_visible(False)
        axes.locator_params(axis="x", nbins=6)
        _legend(figure, 3)
        return _laid_out(figure)


def _ticks_at(axes: Axes, x: Floats, log_x: bool) -> None:
    """Ticks at the settings themselves while they are few, else at 1, 2, 5 (log) or at whole numbers (epochs)."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator

    if log_x:
        axes.set_xscale("log")
    if x.size <= 8:
        axes.set_xticks(x, [f"{value:g}" for value in x])
        axes.set_xticks([], minor=True)
    elif log_x:
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.set_xticks([], minor=True)
    elif np.array_equal(x, np.round(x)):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))


def figure_lines(
    x: ArrayLike,
    lines: Mapping[str, tuple[ArrayLike, ArrayLike, ArrayLike]],
    x_label: str,
    y_label: str,
    *,
    log_x: bool = False,
    log_y: bool = False,
    band: str | None = None,
) -> Figure:
    """Lines with bands, on logarithmic axes where asked.

    Args:
      x: float [m].
      lines: label -> (mean, low, high), each float [m]; NaN is left out.
      band: what the band is, for the legend ("lowest to highest of 10 rounds").
    """
    from matplotlib.patches import Patch

    positions = np.asarray(x, np.float64)
    with _style():
        figure = _figure(5.4, 3.5)
        axes = figure.subplots()
        for k, (label, triple), color, marker, dashes in zip(
            itertools.count(),
            lines.items(),
            itertools.cycle(_COLORS),
            itertools.cycle(_MARKERS),
            itertools.cycle(_DASHES),
            strict=False,
        ):
            mean, low, high = (np.asarray(values, np.float64) for values in triple)
            every = max(1, positions.size // 16)  # of curves that coincide, every marker is seen
            axes.plot(
                positions,
                mean,
                color=color,
                marker=marker,
                linestyle=dashes,
                markevery=(k * every // len(lines), every),
                label=label,
                zorder=3,
            )
            axes.fill_between(positions, low, high, color=color, alpha=0.22, linewidth=0, zorder=1)
        if log_y:
            axes.set_yscale("log")
        _ticks_at(axes, positions, log_x)
        axes.set(xlabel=x_label, ylabel=y_label)
        axes.grid(True)
        _legend(figure, 3, [Patch(color=_GREY, alpha=0.3, linewidth=0, label=f"band: {band}")] if band else [])
        return _laid_out(figure)


def figure_sweep(
    x: ArrayLike, values: Mapping[str, ArrayLike], x_label: str, y_label: str, *, log_x: bool = True
) -> Figure:
    """Sensitivity to a setting: the mean over seeds against the setting, the band from the lowest to the highest seed.

    Args:
      x: float [K], the settings.
      values: variant (or metric) -> float [K, S]; a seed that is not finite is left out.
    """
    spreads = {name: _spread(np.asarray(array, np.float64).T) for name, array in values.items()}
    num_seeds = {np.asarray(array).shape[1] for array in values.values()}
    band = (
        f"lowest to highest of {' or '.join(map(str, sorted(num_seeds)))} seeds"
        if max(num_seeds, default=1) > 1
        else None
    )
    return figure_lines(x, spreads, x_label, y_label, log_x=log_x, band=band)


def figure_singular_images(images: ArrayLike, titles: Sequence[str], label: str = "weight of the pixel") -> Figure:
    """Signed images float [n, H, W] in a row, on one diverging colour scale symmetric about zero."""
    arrays = np.asarray(images, np.float64)
    columns = min(5, len(arrays))
    rows = -(-len(arrays) // columns)
    bound = float(np.abs(arrays).max()) or 1.0
    with _style():
        figure = _figure(_WIDTH_INCHES * max(columns, 2) / 5 + 0.9, 1.6 * rows + 0.1)
        grid = figure.subplots(rows, columns, squeeze=False)
        for axes in grid.ravel()[len(arrays) :]:
            axes.set_axis_off()
        for axes, array, title in zip(grid.ravel(), arrays, titles, strict=False):
            picture = axes.imshow(array, cmap="RdBu_r", vmin=-bound, vmax=bound, interpolation="none")
            axes.set(xticks=[], yticks=[])
            axes.set_title(title, fontsize=8)
            axes.spines[:].set(visible=True, color="#c8c8c8", linewidth=0.5)
        figure.colorbar(picture, ax=grid, shrink=0.9, aspect=20, label=label)
        return _laid_out(figure)


def pixels(figure: Figure) -> NDArray[np.uint8]:
    """`figure` as a picture at 100 dots an inch, uint8 [H, W, 3], for TensorBoard."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    with _style():
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def _saved(figure: Figure, **options: Any) -> bytes:
    buffer = io.BytesIO()
    with _style():
        figure.savefig(buffer, **options)
    return buffer.getvalue()


def _svg(figure: Figure) -> str:
    return _saved(figure, format="svg", metadata={"Date": None, "Creator": None}).decode()


def save_figure(figure: Figure, folder: Path, name: str) -> tuple[Path, Path]:
    """Writes `folder/name.svg` and `folder/name.png` (200 dots an inch) atomically; the same figure, the same bytes.

    Raises:
      UserError: the folder cannot be written.
    """
    svg, png = folder / f"{name}.svg", folder / f"{name}.png"
    write_atomic(svg, _svg(figure))
    write_atomic(png, _saved(figure, format="png", dpi=200, metadata={"Software": None}))
    return svg, png


# ---------------------------------------------------------------------------------------------------------------------
# The page


@dataclass(frozen=True)
class Heading:
    """A heading; level 2 for sections, 3 and 4 below (the page's title is level 1)."""

    text: str
    level: int = 2


@dataclass(frozen=True)
class Text:
    """Paragraphs, parted by empty lines; `backquotes` make code, nothing else is markup."""

    text: str
    notice: bool = False  # framed: what must be known before the rest is read


@dataclass(frozen=True)
class Table:
    """A table; columns of numbers go right, cells that are verdicts are drawn as such."""

    header: Sequence[str]
    rows: Sequence[Sequence[object]]
    caption: str = ""


@dataclass(frozen=True)
class Picture:
    """A figure, or the path of an svg that `save_figure` wrote; `alt` says in words what is to be seen."""

    figure: Figure | Path
    caption: str
    alt: str


@dataclass(frozen=True)
class Command:
    """A command to copy."""

    text: str
    caption: str = "How to repeat it"


@dataclass(frozen=True)
class Details:
    """Blocks that open on a click (and are always printed)."""

    summary: str
    blocks: Sequence[Block]


Draw: TypeAlias = Callable[..., Picture]
"""(figure, file name, caption, text in place of the picture) -> the saved figure as a block of the page."""


def draw_into(folder: Path) -> Draw:
    """What saves figures in `folder`, as svg and png, and makes blocks of them."""

    def draw(figure: Any, name: str, caption: str, alt: str | None = None) -> Picture:
        svg, _ = save_figure(figure, folder, _file_name(name))
        return Picture(svg, caption, alt or caption)

    return draw


def _file_name(name: str) -> str:
    return re.sub(r"[^\w.+-]+", "_", name).strip("_")


Block: TypeAlias = Heading | Text | Table | Picture | Command | Details

# Each verdict has a sign and a border of its own, so that it reads without colour.
_VERDICTS = {
    "holds": ("holds", "✓"),
    "reversed": ("reversed", "✗"),
    "not resolved": ("open", "?"),
    "inside": ("holds", "✓"),
    "outside": ("reversed", "✗"),
}

_CSS = """
:root { color-scheme: light dark; --ink: #1a1a1a; --paper: #fff; --soft: #5a5a5a; --line: #d5d5d5; --shade: #f5f5f3;
  --good: #00563f; --bad: #9a3f00; }
@media (prefers-color-scheme: dark) { :root {
  --ink: #e6e6e6; --paper: #161616; --soft: #a8a8a8; --line: #3c3c3c; --shade: #222; --good: #4cc9a0; --bad: #ff9a5c;
} }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 1rem/1.5 system-ui, sans-serif; }
main, footer { max-width: 60rem; margin: 0 auto; padding: 1rem; }
p, li, figcaption, caption { max-width: 46rem; }
h1 { font-size: 1.75rem; line-height: 1.2; margin: 1rem 0; }
h2 { font-size: 1.3rem; margin: 2.2rem 0 .6rem; padding-top: .6rem; border-top: 1px solid var(--line); }
h3 { font-size: 1.08rem; margin: 1.6rem 0 .4rem; }
h4 { font-size: 1rem; margin: 1.2rem 0 .3rem; }
a { color: inherit; }
nav ul { list-style: none; margin: 0; padding: 0; display: flex; flex-wrap: wrap; gap: .2rem 1.2rem; }
code, pre { font: .875rem/1.45 ui-monospace, monospace; }
.notice { border: 1.5px solid var(--ink); border-left-width: .5rem; border-radius: .25rem; padding: .5rem .8rem; }
p code { background: var(--shade); padding: .05rem .25rem; border-radius: .2rem; }
pre { background: var(--shade); border: 1px solid var(--line); border-radius: .3rem;
  padding: .7rem .9rem; margin: .3rem 0 1rem; overflow-x: auto; }
.label { color: var(--soft); font-size: .875rem; margin: 1rem 0 0; }
.wide { overflow-x: auto; margin: 1rem 0; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums;
  border-top: 2px solid var(--ink); border-bottom: 2px solid var(--ink); }
caption { text-align: left; padding: 0 0 .4rem; color: var(--soft); }
th, td { text-align: left; vertical-align: top; padding: .3rem .7rem; }
thead th { border-bottom: 1px solid var(--ink); vertical-align: bottom; }
tbody tr + tr td { border-top: 1px solid var(--line); }
.number { text-align: right; }
td.number { white-space: nowrap; }
.words { min-width: 13rem; }
.verdict { white-space: nowrap; font-weight: 600; padding: .05rem .4rem; border: 1.5px solid; border-radius: .25rem; }
.holds { color: var(--good); }
.reversed { color: var(--bad); border-style: double; border-width: 3px; }
.open { color: var(--soft); border-style: dashed; font-weight: 400; }
figure { margin: 1.2rem 0; }
figcaption { color: var(--soft); font-size: .9rem; margin-top: .4rem; }
.picture { overflow-x: auto; }
.picture svg { display: block; max-width: 100%; height: auto; background: #fff; }
details { border: 1px solid var(--line); border-radius: .3rem; padding: .5rem .9rem; margin: 1rem 0; }
summary { cursor: pointer; font-weight: 600; }
footer { color: var(--soft); font-size: .85rem; border-top: 1px solid var(--line); margin-top: 2rem; }
@media (prefers-color-scheme: dark) { .picture svg { border-radius: .3rem; } }
@page { margin: 15mm; }
@media print {
  :root { --ink: #000; --paper: #fff; --soft: #333; --line: #bbb; --shade: #f5f5f3; --good: #00563f; --bad: #9a3f00; }
  body { font-size: 10pt; }
  main, footer { max-width: none; padding: 0; }
  nav { display: none; }
  h1, h2, h3, h4, caption, .label, summary { break-after: avoid; page-break-after: avoid; }
  figure, table, pre, tr { break-inside: avoid; page-break-inside: avoid; }
  .wide, .picture, pre { overflow: visible; }
  pre { white-space: pre-wrap; }
  table { font-size: 8.5pt; }
  th, td { padding: .15rem .4rem; }
  td.number, .verdict { white-space: normal; }
  .words { min-width: 0; }
  .picture svg { min-width: 0 !important; }
  details { border: 0; padding: 0; }
  details::details-content { content-visibility: visible; height: auto; }
}
""".strip()


def _inline_svg(svg: str, prefix: str, alt: str) -> str:
    """An svg file as an element of a page: no prolog, no metadata, no namespaces; every id and reference prefixed."""
    match = re.search(r"<svg\b.*</svg>", svg, re.DOTALL)
    if match is None:
        raise UserError("the picture is no svg: expected a file that save_figure wrote")
    body = re.sub(r"<metadata>.*?</metadata>", "", match.group(), flags=re.DOTALL)
    body = re.sub(r'\sxmlns(:\w+)?="[^"]*"', "", body).replace("xlink:href=", "href=")
    body = re.sub(r'(\sid=")', rf"\g<1>{prefix}", body)
    body = re.sub(r'(\shref="#|url\(#)', rf"\g<1>{prefix}", body)
    body = re.sub(r"\s*\n\s*", "\n", body)
    width = re.search(r'<svg\b[^>]*?\swidth="([\d.]+)pt"', body)
    # On a narrow screen a figure scrolls before its text gets too small to read.
    style = f' style="min-width: min({width.group(1)}pt, 32rem)"' if width else ""
    return body.replace("<svg", f'<svg role="img" aria-label="{html.escape(alt)}"{style}', 1)


def _html_cell(cell: str) -> str:
    text = html.escape(cell)
    for word, (style, sign) in _VERDICTS.items():
        if cell == word or cell.startswith(f"{word} ("):
            rest = html.escape(cell.removeprefix(word))
            return f'<span class="verdict {style}">{sign} {word}</span>{rest}'
    return text


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "section"


def _render(block: Block, numbers: Mapping[str, Iterator[int]]) -> str:
    match block:
        case Heading(text, level):
            level = min(max(level, 2), 6)
            return f'<h{level} id="h{next(numbers["heading"])}-{_slug(text)}">{html.escape(text)}</h{level}>'
        case Text(text, notice):
            paragraphs = [html.escape(part.strip()) for part in re.split(r"\n\s*\n", text) if part.strip()]
            tag = '<p class="notice" role="note">' if notice else "<p>"
            return re.sub(r"`([^`]+)`", r"<code>\1</code>", "\n".join(f"{tag}{part}</p>" for part in paragraphs))
        case Table(header, rows, caption):
            cells, numeric = _table_cells(header, rows)
            long = [max((len(row[j]) for row in cells), default=0) > 24 for j in range(len(header))]
            kind = [
                ' class="number"' if right else ' class="words"' if words else ""
                for right, words in zip(numeric, long, strict=True)
            ]
            head = "".join(f'<th scope="col"{k}>{html.escape(name)}</th>' for name, k in zip(header, kind, strict=True))
            body = "\n".join(
                "<tr>" + "".join(f"<td{k}>{_html_cell(cell)}</td>" for cell, k in zip(row, kind, strict=True)) + "</tr>"
                for row in cells
            )
            title = f"<caption>Table {next(numbers['table'])}. {html.escape(caption)}</caption>\n" if caption else ""
            content = f"{title}<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>"
            return f'<div class="wide"><table>\n{content}</table></div>'
        case Picture(figure, caption, alt):
            number = next(numbers["figure"])
            svg = figure.read_text(encoding="utf-8") if isinstance(figure, Path) else _svg(figure)
            picture = _inline_svg(svg, f"f{number}-", alt)
            text = f"<figcaption>Figure {number}. {html.escape(caption)}</figcaption>"
            return f'<figure>\n<div class="picture">{picture}</div>\n{text}\n</figure>'
        case Command(text, caption):
            return f'<p class="label">{html.escape(caption)}</p>\n<pre><code>{html.escape(text.strip())}</code></pre>'
        case Details(summary, blocks):
            inner = "\n".join(_render(inside, numbers) for inside in blocks)
            return f"<details><summary>{html.escape(summary)}</summary>\n{inner}\n</details>"
    raise TypeError(f"no page block: {block!r}")


def html_page(title: str, blocks: Sequence[Block], footer: str = "") -> str:
    """One page that needs nothing but itself: figures inline, no scripts, no addresses; for screen, phone and paper.

    Figures and tables with captions are numbered in order; more than three level-2 headings give a list of contents.
    """
    numbers = {kind: itertools.count(1) for kind in ("heading", "table", "figure")}
    parts = [_render(block, numbers) for block in blocks]
    sections = re.findall(r'^<h2 id="([^"]+)">(.*)</h2>$', "\n".join(parts), re.MULTILINE)
    contents = "".join(f'<li><a href="#{name}">{text}</a></li>' for name, text in sections)
    nav = f'<nav aria-label="Contents"><ul>{contents}</ul></nav>\n' if len(sections) > 3 else ""
    end = f"<footer>{html.escape(footer)}</footer>\n" if footer else ""
    name = html.escape(title)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{name}</title>\n<style>\n{_CSS}\n</style>\n</head>\n<body>\n<main>\n<h1>{name}</h1>\n{nav}"
        + "\n".join(parts)
        + f"\n</main>\n{end}</body>\n</html>\n"
    )
