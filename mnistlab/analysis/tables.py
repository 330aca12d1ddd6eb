"""Anybody's numbers as a table of runs: a CSV file with one line per run, and claims about it in words.

A run that diverged has nan where its number would be: it is counted, and enters no mean, interval or test.
"""

import csv
import itertools
import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mnistlab import files
from mnistlab.analysis.claims import Claim
from mnistlab.analysis.stats import LARGEST
from mnistlab.errors import UserError, file_errors, is_line, one_line

LONG = ("metric", "value")  # the columns of a long table beside variant and seed
INDEX = re.compile(r"|Unnamed: \d+")  # how pandas calls the column of the row numbers
EXPECTED = "expected columns variant, seed and one for each metric, or variant, seed, metric, value"


class Runs(NamedTuple):
    """What was measured: variant -> metric -> seed -> value."""

    values: dict[str, dict[str, dict[int, float]]]

    @property
    def metrics(self) -> list[str]:
        """All metrics, in the order of the table."""
        return list(dict.fromkeys(metric for by_metric in self.values.values() for metric in by_metric))

    def pairs(self, left: str, right: str | float, metric: str) -> tuple[list[int], np.ndarray, np.ndarray]:
        """The seeds of both sides, in rising order, and their values, each float64 [n].

        Raises:
          UserError: a seed that one side alone has, or none with this metric.
        """
        of_left = self.values[left].get(metric, {})
        of_right = self.values[right].get(metric, {}) if isinstance(right, str) else dict.fromkeys(of_left, right)
        seeds, alone = sorted(of_left.keys() | of_right.keys()), sorted(of_left.keys() ^ of_right.keys())
        if not seeds:
            raise UserError(f"{left} has no {metric}; ask of a metric that it has")
        if alone:
            which = f"seed {alone[0]} is of one of them alone"
            raise UserError(f"{left} and {right} do not pair in {metric}: {which}; give both the same seeds, each once")
        return seeds, np.array([of_left[seed] for seed in seeds]), np.array([of_right[seed] for seed in seeds])


def read(path: Path) -> Runs:
    """The runs in a CSV file, wide or long.

    Raises:
      UserError: no such file, columns missing, a cell that is no number, a run given twice: which line, and why.
    """
    with file_errors(f"cannot read {path}", "expected a CSV file in UTF-8"):
        lines = files.read_text(path).lstrip("\ufeff").splitlines()
    table = csv.DictReader(lines, skipinitialspace=True)
    names = [name.strip() for name in table.fieldnames or []]
    table.fieldnames = names
    if len(set(names)) != len(names) or not {"variant", "seed"} < set(names):
        raise UserError(f"{path} has the columns {', '.join(names)[:200] or 'none'}; {EXPECTED}, each once")
    is_long = set(LONG) <= set(names)
    metrics = [name for name in names if name not in ("variant", "seed") and not INDEX.fullmatch(name)]
    values: dict[str, dict[str, dict[int, float]]] = {}
    for row in _rows(table, path):
        where = f"{path}, line {table.line_num}"
        if None in row or None in row.values():
            raise UserError(f"{where} has more or fewer cells than there are columns ({len(names)})")
        variant, seed = row["variant"].strip(), _seed(row["seed"], where)
        cells = {row["metric"].strip(): row["value"]} if is_long else {name: row[name] for name in metrics}
        for name in (variant, *cells):
            if name and not is_line(name, 200):
                raise UserError(f"{where}: the name {name!r:.80}; expected up to 200 printable characters")
        for metric, cell in cells.items():
            by_seed = values.setdefault(variant, {}).setdefault(metric, {})
            if seed in by_seed:
                raise UserError(f"{where}: {variant} has {metric} of seed {seed} twice; expected each run once")
            by_seed[seed] = _number(cell, metric, where)
    if not values or "" in values:
        raise UserError(f"{path} holds {'a run without a variant' if values else 'no runs'}; {EXPECTED}")
    return Runs(values)


def claim(words: str, runs: Runs, number: int, matters: float | None = None) -> Claim:
    """A claim from words such as "wide > narrow in accuracy"; the right side may be a number.

    Raises:
      UserError: other words, or a variant or metric that is not in the table.
    """
    # With spaces about the sign first, since a variant may be called lr=0.1.
    forms = (rf"\s*(.+?){space}([<>=]){space}(.+?)\s+in\s+(.+?)\s*" for space in (r"\s+", r"\s*"))
    found = next(filter(None, (re.fullmatch(form, words) for form in forms)), None)
    if not found:
        raise UserError(f'claim is {words!r:.200}; expected such as "wide > narrow in accuracy", with >, < or =')
    left, direction, right, metric = found.groups()
    number_right = _number_or_none(right) if right not in runs.values else None
    for name in (left, *([right] if number_right is None else [])):
        if name not in runs.values:
            raise UserError(f"claim {words!r:.200} names {name!r}; expected one of {', '.join(runs.values)}")
    if metric not in runs.metrics:
        raise UserError(f"claim {words!r:.200} names {metric!r}; expected one of {', '.join(runs.metrics)}")
    side = right if number_right is None else number_right
    kind = "same" if direction == "=" else direction
    return Claim(str(number), words.strip(), metric, left, kind, side, ours=True, matters=matters)


def every_claim(runs: Runs, matters: float | None = None) -> list[Claim]:
    """For every two variants and every metric, that the one with the larger mean has it larger.

    The tests are two-sided, so which side is named first is no bet on the data.

    Raises:
      UserError: a single variant.
    """
    if len(runs.values) < 2:
        raise UserError(
            f'there is but the variant {next(iter(runs.values))}; expected two, or --claim="A > 0.9 in ..."'
        )
    asked: list[Claim] = []
    for metric, names in itertools.product(runs.metrics, itertools.combinations(runs.values, 2)):
        if all(metric in runs.values[name] for name in names):
            _, a, b = runs.pairs(*names, metric)
            left, right = names if np.nansum(a - b) >= 0 else names[::-1]
            words = f"{left} > {right} in {metric}"
            asked.append(Claim(str(len(asked) + 1), words, metric, left, ">", right, ours=True, matters=matters))
    return asked


def _rows(table: "csv.DictReader[str]", path: Path) -> Iterator[dict[str, str]]:
    try:
        yield from table
    except csv.Error as error:
        raise UserError(f"{path}, line {table.line_num}: {one_line(error)}; {EXPECTED}") from error


def _seed(cell: str, where: str) -> int:
    try:
        return int(cell)
    except ValueError as error:
        raise UserError(f"{where}: seed is {cell!r:.80}; expected a whole number") from error


def _number_or_none(cell: str) -> float | None:
    try:
        return float(cell)
    except ValueError:
        return None


def _number(cell: str, metric: str, where: str) -> float:
    value = _number_or_none(cell)
    if value is None or LARGEST < abs(value) < math.inf:
        raise UserError(f"{where}: {metric} is {cell.strip()!r:.80}; expected a number, or nan where the run diverged")
    return value if math.isfinite(value) else math.nan


def sides(claims: Sequence[Claim], runs: Runs) -> list[tuple[np.ndarray, np.ndarray]]:
    """Both sides of every claim, each float64 [n] and paired by seed."""
    return [runs.pairs(one.left, one.right, one.metric)[1:] for one in claims]
