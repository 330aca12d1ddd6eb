"""Numbers as texts, and tables for the terminal and for Markdown."""

import html
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

MISSING = "–"
ROUNDING = 1e-9  # of a number: a smaller spread is that of its sum alone


class Link(NamedTuple):
    """A cell of a table that leads somewhere: in Markdown and on a page; on a terminal it is its text."""

    text: str
    address: str

    def __str__(self) -> str:
        return self.text


def _decimals(uncertainty: float) -> int:
    """Decimals that show one digit of `uncertainty`, two where it starts with 1."""
    if not math.isfinite(uncertainty) or uncertainty <= 0:
        return 4
    digit, exponent = f"{uncertainty:.1e}".split("e")
    return max(0, (1 if digit.startswith("1") else 0) - int(exponent))


def minus(text: str) -> str:
    """`text` with the sign for minus in place of its hyphens."""
    return text.replace("-", "−")


def _fixed(value: float, decimals: int, sign: str = "") -> str:
    """`value` with thousands separators and so many decimals; what would fill a line with digits gets an exponent."""
    return f"{value:{sign},.{decimals}f}" if abs(value) < 1e12 else f"{value:{sign}.3g}"


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
        return minus(f"{int(value):,}")
    if metric.endswith("seconds"):
        return format_significant(value)
    return minus(f"{value:.4f}" if abs(value) < 1e12 else _fixed(value, 4))


class Unit(NamedTuple):
    """How the values of a metric and their differences are written."""

    quantity: str  # what is counted, so that a figure has one unit
    factor: float = 1
    of_difference: str = ""  # behind a number, with its space
    of_level: str = ""


def unit(metric: str) -> Unit:
    """The unit of a metric; a name that speaks of no unit is its own quantity, a number without one.

    >>> [unit(name).quantity for name in ("overfitting_gap", "lowest_epoch:val_loss", "test_loss", "test_perplexity")]
    ['accuracy', 'epochs', 'loss', 'test_perplexity']
    >>> unit("val_accuracy@1 - val_accuracy@2").of_level, unit("val_accuracy").of_level
    (' points', ' %')
    """
    if "seconds" in metric:
        return Unit("seconds", 1, " s", " s")
    if "epoch" in metric:
        return Unit("epochs", 1, " epochs")
    if "loss" in metric:
        return Unit("loss")
    if "accuracy" in metric or "overfitting_gap" in metric:
        is_share = not re.search(r" - |gap|range|change", metric)
        return Unit("accuracy", 100, " points", " %" if is_share else " points")
    return Unit(metric)


def format_significant(value: float, digits: int = 3) -> str:
    """`value` to `digits` significant digits, with thousands separators and no exponent down to 1e-4.

    >>> format_significant(28565.83), format_significant(0.1385), format_significant(2.3e-7)
    ('28,600', '0.139', '2.30e−07')
    """
    if not math.isfinite(value):
        return MISSING if math.isnan(value) else minus(f"{value}")
    exponent = int(f"{value:.{digits - 1}e}".split("e")[1]) if value else 0
    if exponent < -4:
        return minus(f"{value:.{digits - 1}e}")
    return minus(_fixed(round(value, digits - 1 - exponent), max(0, digits - 1 - exponent)))


def format_error(value: float) -> str:
    """A number of which the size is all that matters, to two digits.

    >>> format_error(0.000123), format_error(0.0)
    ('1.2e−04', '0.0e+00')
    """
    return minus(f"{value:.1e}")


def format_mean_sd(mean: float, sd: float, n: int) -> str:
    """Mean and standard deviation over n seeds; the standard deviation decides the digits.

    >>> format_mean_sd(0.98713, 0.00087, 8), format_mean_sd(0.98713, float("nan"), 1)
    ('0.9871 ± 0.0009 (n=8)', '0.9871 (n=1)')
    """
    sd = 0.0 if sd < ROUNDING * abs(mean) else sd
    if n < 2 or not math.isfinite(sd):
        return f"{format_value('', mean)} (n={n})"
    decimals = _decimals(sd)
    return minus(f"{_fixed(mean, decimals)} ± {_fixed(sd, decimals)} (n={n})")


def capital(words: str) -> str:
    """`words` as the beginning of a sentence.

    >>> capital("dropout helps")
    'Dropout helps'
    """
    return words[:1].upper() + words[1:]


def format_interval(mean: float, low: float, high: float, *, signed: bool = False) -> str:
    """Mean and interval; half the interval's width decides the digits; `signed` writes the + of a difference.

    A difference without an interval has two significant digits: more would say that it is known.

    >>> format_interval(0.00891, 0.0081, 0.0097, signed=True), format_interval(0.98712, 0.98652, 0.98772)
    ('+0.0089 [+0.0081, +0.0097]', '0.9871 [0.9865, 0.9877]')
    >>> format_interval(0.00891, math.nan, math.nan, signed=True), format_interval(0.98712, math.nan, math.nan)
    ('+0.0089', '0.9871')
    """
    if math.isnan(mean):
        return MISSING
    half = (high - low) / 2
    decimals = _decimals(0.0 if half < ROUNDING * abs(mean) else half)
    sign = "+" if signed else ""
    middle = _fixed(mean, decimals, sign)
    if math.isfinite(low) and math.isfinite(high):
        return minus(f"{middle} [{_fixed(low, decimals, sign)}, {_fixed(high, decimals, sign)}]")
    return (sign if mean > 0 else "") + format_significant(mean, 2) if signed else minus(middle)


def format_p(p: float) -> str:
    """A p-value: three decimals, or the bound it is under.

    >>> format_p(0.0078), format_p(0.00002), format_p(1.0)
    ('0.008', '< 0.001', '1.000')
    """
    if math.isnan(p):
        return MISSING
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def format_bytes(number: int) -> str:
    """A size as files have it, to two or three digits.

    >>> format_bytes(999), format_bytes(82_123_456), format_bytes(1_234)
    ('999 B', '82 MB', '1.2 kB')
    """
    units = ("B", "kB", "MB", "GB", "TB")
    power = min(max(0, len(str(number)) - 1) // 3, len(units) - 1)
    value = number / 1000**power
    return f"{value:.1f} {units[power]}" if power and value < 10 else f"{value:.0f} {units[power]}"


def format_summary(summary: Mapping[str, Any], *, signed: bool = False) -> str:
    """Mean and interval of the seeds, from what `history.summarize` says of them; `signed` as in `format_interval`."""
    mean, low, high = (math.nan if number is None else number for number in (summary["mean"], *summary["ci95"]))
    return format_interval(mean, low, high, signed=signed)


def counted(number: int, noun: str) -> str:
    """A number of things.

    >>> counted(1, "seed"), counted(8, "seed")
    ('1 seed', '8 seeds')
    """
    return f"{number} {noun}{'s' * (number != 1)}"


def seed_span(seeds: Sequence[int]) -> str:
    """The first and the last of rising seeds.

    >>> seed_span([3]), seed_span([0, 1, 2])
    ('seed 3', 'seeds 0 to 2')
    """
    return f"seeds {seeds[0]} to {seeds[-1]}" if len(seeds) > 1 else f"seed {seeds[0]}"


def _cell(value: object) -> str:
    if value is None:
        return MISSING
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    if isinstance(value, int | np.integer):
        return minus(f"{int(value):,}")
    if isinstance(value, float | np.floating):
        number = float(value)
        return MISSING if math.isnan(number) else minus(f"{number:,.0f}" if abs(number) >= 1e4 else f"{number:.4g}")
    return str(value)


_NUMBER = re.compile(r"(–|[<≤≥>~≈]?\s*[+−-]?[\[(]?\s*[+−-]?\d[\d,. ±eE+×n=()\[\]%−-]*(ms|s|x)?)(, \d+ not finite)?")


def table_cells(header: Sequence[str], rows: Sequence[Sequence[object]]) -> tuple[list[list[str]], list[bool]]:
    """A table's cells as texts, and for each column whether it holds numbers only."""
    cells = [[_cell(value) for value in row] for row in rows]
    for row in cells:
        if len(row) != len(header):
            raise ValueError(f"a table row has {len(row)} cells, its header has {len(header)}: {row}")
    columns = [[row[j] for row in cells if row[j] not in ("", MISSING)] for j in range(len(header))]
    return cells, [bool(column) and all(map(_NUMBER.fullmatch, column)) for column in columns]


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A table in Markdown; columns of numbers go right.

    >>> print(markdown_table(("variant", "n"), [("dense", 8)]))
    | variant | n |
    | :-- | --: |
    | dense | 8 |
    >>> print(markdown_table(("run",), [(Link("a", "a/report.html"),)]).splitlines()[-1])
    | [a](a/report.html) |
    """
    cells, numeric = table_cells(header, rows)
    rule = ["--:" if right else ":--" for right in numeric]
    linked = [
        [
            f"[{cell}]({value.address})" if isinstance(value, Link) else cell
            for cell, value in zip(line, row, strict=True)
        ]
        for line, row in zip(cells, rows, strict=True)
    ]
    lines = [[cell.replace("|", "\\|") for cell in line] for line in (list(header), rule, *linked)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def html_table(header: Sequence[str], rows: Sequence[Sequence[object]], caption: str = "") -> str:
    """A table in HTML without a style of its own, as a notebook shows it.

    >>> html_table(("variant", "n"), [("a<b", 8)])
    '<table><thead><tr><th>variant</th><th>n</th></tr></thead><tbody><tr><td>a&lt;b</td><td>8</td></tr></tbody></table>'
    """
    cells, _ = table_cells(header, rows)
    head = "".join(f"<th>{html.escape(name)}</th>" for name in header)
    body = "".join(f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in row)}</tr>" for row in cells)
    title = f"<caption>{html.escape(caption)}</caption>" if caption else ""
    return f"<table>{title}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def text_table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A table for the terminal: two spaces between columns, columns of numbers to the right.

    >>> print(text_table(["variant", "params"], [["lenet5", 61706], ["dense", 101770]]))
    variant   params
    -------  -------
    lenet5    61,706
    dense    101,770
    """
    cells, numeric = table_cells(header, rows)
    widths = [max(len(row[j]) for row in [list(header), *cells]) for j in range(len(header))]

    def line(row: Sequence[str]) -> str:
        aligned = zip(row, widths, numeric, strict=True)
        return "  ".join(cell.rjust(width) if right else cell.ljust(width) for cell, width, right in aligned).rstrip()

    return "\n".join([line(header), "  ".join("-" * width for width in widths), *map(line, cells)])


def class_words(class_names: Sequence[str], num_classes: int) -> list[str]:
    """A name for each of `num_classes`, since a network may have more logits than the data have classes.

    >>> class_words(["dark", "bright"], 4)
    ['dark', 'bright', '2', '3']
    """
    return [*class_names, *map(str, range(len(class_names), num_classes))]
