"""Curves, and rows of dots and bars: plain numbers, NumPy arrays and texts in, a figure out.

Letters: S seeds, E epochs, K settings, n seeds of one variant, k classes.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mnistlab.analysis.stats import UNKNOWN, mean_interval
from mnistlab.report.canvas import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    SKY,
    VERMILLION,
    WIDTH_INCHES,
    laid_out,
    legend,
    new_figure,
    style,
)
from mnistlab.report.text import MISSING, format_interval, format_significant, minus

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis

    from mnistlab.analysis.looks import Looks
    from mnistlab.report.canvas import Figure

Floats: TypeAlias = NDArray[np.floating[Any]]

PHONE_INCHES = 4.6  # seen whole on a phone, its text still to be read

_COLORS = (BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY, BLACK)
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_DASHES: tuple[Any, ...] = ("-", "--", "-.", (0, (1, 1)), (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (8, 2)))


def _spread(values: Floats) -> tuple[Floats, Floats, Floats]:
    """float [S, E] -> mean, lowest, highest, each [E], over the seeds that are finite there (NaN where none is)."""
    finite = np.isfinite(values)
    count = finite.sum(0)
    mean = np.where(count > 0, np.where(finite, values, 0.0).sum(0) / np.maximum(count, 1), np.nan)
    low = np.where(count > 0, np.where(finite, values, np.inf).min(0), np.nan)
    high = np.where(count > 0, np.where(finite, values, -np.inf).max(0), np.nan)
    return mean, low, high


def _jitter(n: int, width: float) -> Floats:
    """n offsets in ±width/2, evenly spread and always the same (multiples of the golden ratio, modulo 1)."""
    if n == 1:
        return np.zeros(1)
    return (np.arange(1, n + 1) * 0.6180339887498949 % 1.0 - 0.5) * width


def _limit_tail(axes: Axes, drawn: Sequence[tuple[Floats, Floats]], *, high: bool) -> None:
    """Ends the y axis where a bad first epoch would waste it; a note beside the last point beyond tells the extreme."""
    sign = 1.0 if high else -1.0
    values = sign * np.concatenate([y[np.isfinite(y)] for _, y in drawn])
    if values.size < 8:
        return
    typical, least = float(np.quantile(values, 0.9)), float(values.min())
    inside = values[values <= typical + 4.0 * (typical - least)]
    edge, floor = inside.max() + 0.08 * np.ptp(inside), least - 0.05 * np.ptp(inside)
    if typical == least or values.max() - edge < 0.5 * (edge - floor):
        return
    axes.set_ylim(*sorted((sign * edge, sign * floor)))
    last = max(float(x[beyond].max()) for x, y in drawn if (beyond := sign * y > edge).any())
    axes.annotate(
        f"{'up' if high else 'down'} to {format_significant(sign * float(values.max()))}",
        (last, 0.985 if high else 0.015),
        xycoords=axes.get_xaxis_transform(),
        xytext=(5, -1 if high else 3),
        textcoords="offset points",
        va="top" if high else "bottom",
        fontsize=7.5,
        color=GREY,
        bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 0.6},
    )


_STOPPED = "last epoch of a seed that stopped"
_PARTS: tuple[tuple[str, str, dict[str, Any], dict[str, Any]], ...] = (
    ("train", "training", {"color": BLUE, "marker": "o"}, {"color": BLACK, "linestyle": (0, (4, 2))}),
    ("val", "validation", {"color": VERMILLION, "marker": "s"}, {"color": "#6b6b6b", "linestyle": (0, (1, 1))}),
)


def _last_epochs(values: Floats) -> set[int]:
    """The last epochs, counted from 1, of the seeds in float [S, E] that stopped before the others."""
    lasts = {int(np.flatnonzero(np.isfinite(seed))[-1]) + 1 for seed in values if np.isfinite(seed).any()}
    return {last for last in lasts if last < values.shape[1]}


def _draw_history(
    axes: Axes, ours: Mapping[str, ArrayLike], reported: Mapping[str, ArrayLike], quantity: str
) -> set[int]:
    """Draws training and validation, the reported behind ours, in one panel; gives how many seeds its bands span."""
    drawn: list[tuple[Floats, Floats]] = []
    num_seeds: set[int] = set()
    last_epochs: set[int] = set()
    for part, label, ours_style, reported_style in _PARTS:
        metric = f"{part}_{quantity}"
        if metric in reported:
            y = np.asarray(reported[metric], np.float64)
            x = np.arange(1.0, y.size + 1)
            axes.plot(x, y, linewidth=2.0, zorder=2, label=f"reported {label}", **reported_style)
            drawn.append((x, y))
        if metric in ours:
            values = np.atleast_2d(np.asarray(ours[metric], np.float64))
            mean, low, high = _spread(values)
            x = np.arange(1.0, mean.size + 1)
            size = 3.2 if mean.size <= 30 else 2.0
            axes.plot(x, mean, markersize=size, linewidth=1.0, zorder=3, label=label, **ours_style)
            drawn.append((x, mean))
            if len(values) > 1:
                num_seeds.add(len(values))
                axes.fill_between(x, low, high, color=ours_style["color"], alpha=0.22, linewidth=0, zorder=1)
                drawn += [(x, low), (x, high)]
                last_epochs |= _last_epochs(values)
    if last_epochs:
        at_the_axis: dict[str, Any] = {"transform": axes.get_xaxis_transform(), "clip_on": False, "label": _STOPPED}
        axes.plot(sorted(last_epochs), np.zeros(len(last_epochs)), "|", markersize=9, color=BLACK, **at_the_axis)
    if drawn:
        _limit_tail(axes, drawn, high=quantity == "loss")
    return num_seeds


def history(
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

    with style():
        figure = new_figure(WIDTH_INCHES, 0.55 + 2.15 * len(ours))
        grid = figure.subplots(len(ours), 2, squeeze=False)
        num_seeds: set[int] = set()
        for row, (variant, metrics) in zip(grid, ours.items(), strict=True):
            for axes, quantity in zip(row, ("loss", "accuracy"), strict=True):
                num_seeds |= _draw_history(axes, metrics, (reported or {}).get(variant, {}), quantity)
                axes.set(title=f"{variant}: {quantity}", xlabel="epoch", ylabel=quantity)
                axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
                axes.grid(True)
        seeds = " or ".join(str(n) for n in sorted(num_seeds))
        band = [Patch(color=GREY, alpha=0.3, linewidth=0, label=f"line mean, band lowest to highest of {seeds} seeds")]
        order = [label for _, part, *_ in _PARTS for label in (part, f"reported {part}")]
        legend(figure, 3 if num_seeds else 4, band if num_seeds else [], order)
        return laid_out(figure)


def _row_axes(
    labels: Sequence[str],
    row_inches: float,
    wrap: int,
    width_ratios: Sequence[float] = (1.0,),
    width_inches: float = WIDTH_INCHES,
) -> tuple[Figure, list[Axes]]:
    """Panels side by side with one labelled row an entry, the first on top."""
    wrapped = ["\n".join(textwrap.wrap(label, wrap)) for label in labels]
    heights = [max(row_inches, 0.15 * (label.count("\n") + 1) + 0.14) for label in wrapped]
    figure = new_figure(width_inches, 1.0 + sum(heights))
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
    if values.size == 1:  # it is its own mean
        return
    if all(map(math.isfinite, interval)):
        axes.plot(interval, [y + 0.25] * 2, color=BLACK, linewidth=1.6, marker="|", markersize=6, zorder=3)
    axes.plot(
        [values.mean()], [y + 0.25], linestyle="none", marker="D", markersize=4.5, color=BLACK, zorder=4, label=label
    )


def seeds(
    values: Mapping[str, ArrayLike],
    label: str,
    reported: Mapping[str, float] | None = None,
    intervals: Mapping[str, tuple[float, float]] | None = None,
) -> Figure:
    """Every seed a dot, the mean with its 95 % interval (Student's t), the reported number a bar; one row per variant.

    Args:
      values: variant -> float [n]; a diverged seed (not finite) is not drawn but counted in the row's label.
      label: the metric with its unit, for the axis.
      reported: variant -> number, for those that have one.
      intervals: the values are differences, with a line at zero, of claims -> (low, high); NaN where there is none.
    """
    with style():
        rows = _finite_rows(values)
        figure, (axes,) = _row_axes(list(rows), 0.42, 22, width_inches=PHONE_INCHES)
        if intervals is not None:
            axes.axvline(0.0, color=VERMILLION, linestyle="--", linewidth=1.0, zorder=1, label="no difference")
        said = "mean and its 95 % interval (t)" if intervals is None else "mean, and the claim's 95 % interval"
        for y, (variant, array) in enumerate(zip(values, rows.values(), strict=True)):
            if array.size:
                interval = mean_interval(array) if intervals is None else intervals.get(variant, UNKNOWN)
                _seed_row(axes, y, array, interval, said)
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
        axes.locator_params(axis="x", nbins=6)  # numbers of six digits stand apart
        legend(figure, 3)
        return laid_out(figure)


def durations(seconds: Mapping[str, Mapping[str, ArrayLike]], label: str) -> Figure:
    """Durations on a logarithmic axis, every round a dot, the median a bar; one panel per workload, one row per peer.

    The first peer, and those whose names begin with its name, stand out.

    Args:
      seconds: workload -> peer -> float [rounds].
      label: what was timed, with its unit.
    """
    with style():
        num_rows = sum(len(peers) for peers in seconds.values())
        figure = new_figure(7.0, 0.24 * num_rows + 0.35 * len(seconds) + 0.5)
        figure.set_layout_engine("constrained", w_pad=0.2)  # a browser's font may be wider than the one measured
        panels = figure.subplots(
            len(seconds), 1, sharex=True, squeeze=False, height_ratios=[len(peers) for peers in seconds.values()]
        )[:, 0]
        for axes, (workload, peers) in zip(panels, seconds.items(), strict=True):
            for y, (peer, values) in enumerate(peers.items()):
                array = np.asarray(values, float)
                color = BLUE if peer.startswith(next(iter(peers))) else GREY
                axes.plot(array, np.full(len(array), y), "o", color=color, markersize=3.5, alpha=0.6, linewidth=0)
                axes.plot([np.median(array)] * 2, [y - 0.35, y + 0.35], color=color, linewidth=2.4)
            axes.set(ylim=(len(peers) - 0.5, -0.5), xscale="log")
            axes.set_yticks(range(len(peers)), list(peers), fontsize=7.5)
            axes.set_title(workload, loc="left", fontsize=9)
            axes.grid(axis="y", visible=False)
            _log_ticks(axes.xaxis)
        panels[-1].set_xlabel(label)
        return laid_out(figure)


_RUN, _MEAN = "where one more run would fall (95 %)", "ours: mean and its 95 % interval"


@dataclass(frozen=True)
class ForestRow:
    """One row of `forest`: mean, its interval, where one more run would fall, and what the source reported."""

    label: str
    mean: float
    mean_interval: tuple[float, float] = UNKNOWN
    run_interval: tuple[float, float] = UNKNOWN
    reported: float | None = None


def forest(rows: Sequence[ForestRow], label: str) -> Figure:
    """Ours minus reported, one row per experiment and variant, with both numbers beside it.

    Thick bars are the intervals of the mean, thin ones those of one more run: a reported number whose line crosses the
    thin bar could have been one of our runs. Rows that no source reported have no bar.
    """
    with style():
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
            theirs = MISSING if row.reported is None else minus(f"{row.reported:.4f}")
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
        legend(figure, 3)
        return laid_out(figure)


def _ticks_at(axes: Axes, x: Floats, log_x: bool) -> None:
    """Ticks at the settings themselves while they are few, else at 1, 2, 5 (log) or at whole numbers (epochs)."""
    from matplotlib.ticker import MaxNLocator

    if log_x:
        axes.set_xscale("log")
    if x.size <= 8:
        axes.set_xticks(x, [f"{value:g}" for value in x])
        axes.set_xticks([], minor=True)
    elif log_x:
        _log_ticks(axes.xaxis)
    elif np.array_equal(x, np.round(x)):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))


def _log_ticks(axis: Axis) -> None:
    """Ticks at 1, 2 and 5 in plain figures: the powers of ten that matplotlib would write are formulas."""
    from matplotlib.ticker import FuncFormatter, LogLocator

    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_ticks([], minor=True)


def lines(
    x: ArrayLike,
    lines: Mapping[str, tuple[ArrayLike, ArrayLike, ArrayLike]],
    x_label: str,
    y_label: str,
    *,
    log: str = "",
    band: str | None = None,
) -> Figure:
    """Lines with bands.

    Args:
      x: float [m].
      lines: label -> (mean, low, high), each float [m]; NaN is left out.
      log: the logarithmic axes: "", "x", "y" or "xy".
      band: what the band is, for the legend ("lowest to highest of 10 rounds").
    """
    from matplotlib.patches import Patch

    positions = np.asarray(x, np.float64)
    with style():
        figure = new_figure(5.4, 3.5)
        axes = figure.subplots()
        for k, (label, triple) in enumerate(lines.items()):
            color, marker = _COLORS[k % len(_COLORS)], _MARKERS[k % len(_MARKERS)]
            dashes = _DASHES[(k + k // len(_COLORS)) % len(_DASHES)]  # of the eighth line not those of the first
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
        if "y" in log:
            axes.set_yscale("log")
            _log_ticks(axes.yaxis)
        _ticks_at(axes, positions, "x" in log)
        axes.set(xlabel=x_label, ylabel=y_label)
        axes.grid(True)
        legend(figure, 3, [Patch(color=GREY, alpha=0.3, linewidth=0, label=f"band: {band}")] if band else [])
        return laid_out(figure)


def sweep(x: ArrayLike, values: Mapping[str, ArrayLike], x_label: str, y_label: str, *, log_x: bool = True) -> Figure:
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
    return lines(x, spreads, x_label, y_label, log="x" if log_x else "", band=band)


def looks(claims: Mapping[str, tuple[Looks, float]]) -> Figure:
    """Evidence and interval by number of pairs, with the lines that decide; a row of two panels a claim.

    Args:
      claims: label -> what it said after each pair, and the smallest difference that would matter (0: any).
    """
    from matplotlib.ticker import MaxNLocator

    with style():
        figure = new_figure(WIDTH_INCHES, 0.55 + 2.0 * len(claims))
        grid = figure.subplots(len(claims), 2, squeeze=False)
        for (left, right), (label, (said, margin)) in zip(grid, claims.items(), strict=True):
            edges = np.arange(len(said.evidence) + 1) + 0.5  # what is said after n pairs stands about n
            evidence, low, high = (np.append(values, values[-1]) for values in said[:3])
            left.step(edges, evidence, color=BLUE, where="post", label="evidence that they differ")
            if np.isfinite(said.decides):
                left.axhline(said.decides, color=VERMILLION, linestyle="--", linewidth=1.0, label="settles the claim")
            left.set(yscale="log", ylabel="evidence", title=label)
            left.yaxis.set_major_formatter(lambda value, _: f"{value:,g}")  # the style writes no powers
            known = np.isfinite(low) & np.isfinite(high)
            bounds = {"step": "post", "color": BLUE, "alpha": 0.3, "linewidth": 2.0, "label": "95 % interval"}
            right.fill_between(edges[known], low[known], high[known], **bounds)
            right.axhline(0.0, color=GREY, linewidth=1.0)
            for bound in {-margin, margin} - {0.0}:
                right.axhline(bound, color=GREEN, linestyle=":", linewidth=1.2, label="as much as would matter")
            right.set(ylabel="difference")
            for axes in (left, right):
                axes.set(xlabel="pairs", xlim=(edges[0], edges[-1]))
                axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
        legend(figure, 4)
        return laid_out(figure)
