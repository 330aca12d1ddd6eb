"""Figures of images and of classes: predictions, the confusion matrix, signed weights of pixels."""

from __future__ import annotations

import textwrap
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mnistlab.report.canvas import VERMILLION, WIDTH_INCHES, laid_out, new_figure, style
from mnistlab.report.text import class_words

if TYPE_CHECKING:
    from mnistlab.report.canvas import Figure

MOST_MISTAKES = 12


def _tiles(
    image: NDArray[Any],
    titles: Sequence[str],
    columns: int,
    room_inches: tuple[float, float],
    text_inches: float,
    wrong: Collection[int] = (),
) -> Figure:
    """Framed images uint8 or float32 [n, H, W, C] in rows, each with its title above; a wrong one is red.

    All are drawn on one pair of axes, in inches: a pair for each takes longer. Ink on paper, C = 1, gets a name
    by which a dark page inverts it.

    Args:
      room_inches: width and height of the room for an image, its margins among it; `text_inches` is that of its title.
    """
    from matplotlib.patches import Rectangle

    width, height = room_inches[0], room_inches[1] + text_inches
    figure_width, figure_height = width * max(columns, 2), height * -(-len(titles) // columns)
    image = _drawable(image)
    is_ink = image.shape[-1] == 1
    inches = min(width - 0.14, room_inches[1]) / max(image.shape[1:3])
    down, across = (inches * pixels for pixels in image.shape[1:3])
    figure = new_figure(figure_width, figure_height, is_laid_out=False)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    for k, title in enumerate(titles):
        middle, foot = (k % columns + 0.5) * width, (k // columns + 1) * height - 0.04
        extent = (middle - across / 2, middle + across / 2, foot, foot - down)
        pixels = image[k, ..., 0] if is_ink else image[k]
        picture = axes.imshow(
            pixels, cmap="gray_r", vmin=0, vmax=255, interpolation="none", extent=extent, aspect="auto"
        )
        if is_ink:
            picture.set_gid(f"ink{k}")
        frame, line, words = (VERMILLION, 2.0, VERMILLION) if k in wrong else ("#c8c8c8", 0.5, "black")
        corner = (extent[0], extent[3])
        axes.add_patch(Rectangle(corner, across, down, fill=False, edgecolor=frame, linewidth=line))
        axes.text(middle, foot - down - 0.04, title, ha="center", va="bottom", fontsize=8, color=words)
    axes.set(xlim=(0, figure_width), ylim=(figure_height, 0))
    return figure


def _drawable(image: NDArray[Any]) -> NDArray[np.uint8]:
    """uint8 [n, H, W, 1, 3 or 4]: fractions from their lowest to their highest, other channels as their mean."""
    if image.dtype != np.uint8:
        low, high = image.min(initial=np.inf), image.max(initial=-np.inf)
        image = 255 * (image - low) / (high - low if high > low else 1)
    if image.shape[-1] not in (1, 3, 4):
        image = image.mean(axis=-1, keepdims=True)
    return image.round().astype(np.uint8)


def predictions(
    image: NDArray[Any],
    truth: ArrayLike,
    predicted: ArrayLike | None,
    class_names: Sequence[str],
    rows: int,
    columns: int,
) -> Figure:
    """The first rows x columns images, titled with truth and prediction; a wrong one is red, framed and marked ✗.

    Args:
      image: uint8 or float32 [n, H, W, C].
      truth: int [n].
      predicted: int [n], or None for images that only show their label.
    """
    true_labels = np.asarray(truth)
    labels = None if predicted is None else np.asarray(predicted)
    most = int(max(true_labels.max(initial=0), 0 if labels is None else labels.max(initial=0)))
    class_names = class_words(class_names, most + 1)
    titles = names = [class_names[int(true)] for true in true_labels[: min(rows * columns, len(image))]]
    one_line = max(map(len, class_names)) <= 2 and columns <= 5
    wrong: list[int] = []
    if labels is not None:
        gap = " " if one_line else "\n"
        wrong = [k for k in range(len(names)) if labels[k] != true_labels[k]]
        said = [f"{class_names[int(labels[k])]}{' ✗' if k in wrong else ''}" for k in range(len(names))]
        titles = [f"truth {name},{gap}predicted {word}" for name, word in zip(names, said, strict=True)]
    cell = min(1.42, WIDTH_INCHES / columns)
    text_inches = 0.22 if labels is None or one_line else 0.36
    with style():
        return _tiles(image, titles, columns, (cell, cell * 0.86), text_inches, wrong)


def choose_mistakes(truth: ArrayLike, predicted: Mapping[str, ArrayLike]) -> NDArray[np.int64]:
    """Which images, MOST_MISTAKES at most, tell networks apart: where they disagree, then where all are wrong.

    >>> choose_mistakes([0, 1, 2, 3], {"a": [0, 1, 1, 1], "b": [0, 2, 1, 3]}).tolist()
    [1, 3, 2]
    """
    said = np.stack([np.asarray(classes) for classes in predicted.values()])
    wrong = (said != np.asarray(truth)).any(0)
    differ = (said != said[0]).any(0)
    disagreed, agreed = np.flatnonzero(wrong & differ), np.flatnonzero(wrong & ~differ)
    kept = disagreed[: max(MOST_MISTAKES - len(agreed), 2 * MOST_MISTAKES // 3)]
    return np.concatenate([kept, agreed[: MOST_MISTAKES - len(kept)]])


def mistakes(
    image: NDArray[Any], truth: ArrayLike, predicted: Mapping[str, ArrayLike], class_names: Sequence[str]
) -> Figure:
    """Images in rows of four, titled with the truth and with which network says what; one wrong answer is marked ✗.

    Args:
      image: uint8 [n, H, W, C] with C 1 or 3, n at least 1.
      truth: int [n].
      predicted: network -> int [n].
    """
    class_names = class_words(class_names, 1 + max(int(np.max(classes)) for classes in (truth, *predicted.values())))
    titles = []
    for k, true in enumerate(np.asarray(truth)):
        by_class: dict[int, list[str]] = {}
        for name, classes in predicted.items():
            by_class.setdefault(int(np.asarray(classes)[k]), []).append(name)
        lines = [f"truth {class_names[int(true)]}"]
        for said, names in by_class.items():
            line = f"{class_names[said]}: {', '.join(names)}{'' if said == true else ' ✗'}"
            lines += textwrap.wrap(line, 24)
        titles.append("\n".join(lines))
    columns = min(4, len(titles))
    text_inches = 0.16 * max(title.count("\n") + 1 for title in titles) + 0.1
    with style():
        return _tiles(image, titles, columns, (1.62, 1.24), text_inches)


def confusion(counts: ArrayLike, class_names: Sequence[str]) -> Figure:
    """Confusion matrix: int [k, k], row the truth, column the prediction; colour is the share of the true class."""
    from matplotlib.colors import PowerNorm

    table = np.asarray(counts)
    share = table / np.maximum(table.sum(1, keepdims=True), 1)
    with style():
        size = max(3.6, 0.47 * len(class_names))
        figure = new_figure(size + 1.6, size + 0.7)
        axes = figure.subplots()
        # The square root lets the few mistakes be seen beside the many right answers.
        picture = axes.imshow(share, cmap="Blues", norm=PowerNorm(0.5, 0.0, 1.0), interpolation="none")
        for (i, j), count in np.ndenumerate(table):
            dark = share[i, j] > 0.35
            color = "#fefefe" if dark else ("#767676" if count == 0 else "#010101")  # on colours that no theme changes
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
        return laid_out(figure)


def signed(images: ArrayLike, titles: Sequence[str]) -> Figure:
    """Signed images float [n, H, W] in a row, on one diverging colour scale symmetric about zero."""
    arrays = np.asarray(images, np.float64)
    bound = float(np.abs(arrays).max()) or 1.0
    with style():
        figure = new_figure(WIDTH_INCHES * max(len(arrays), 2) / 5 + 0.9, 1.7)
        panels = figure.subplots(1, len(arrays), squeeze=False)[0]
        for axes, array, title in zip(panels, arrays, titles, strict=True):
            axes.set(xticks=[], yticks=[])
            axes.set_title(title, fontsize=8, pad=3)
            axes.spines[:].set(visible=True, color="#c8c8c8", linewidth=0.5)
            picture = axes.imshow(array, cmap="RdBu_r", vmin=-bound, vmax=bound, interpolation="none")
        figure.colorbar(picture, ax=figure.axes, shrink=0.9, aspect=20, label="weight of the pixel")
        return laid_out(figure)
