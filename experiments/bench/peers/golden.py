"""Our results beside those of `golden_pytorch`: is there a difference that chance does not explain?

python -m experiments.bench.peers.golden                     prints the table of tests/golden/
python -m experiments.bench.peers.golden RUN [RUN ...]       first writes tests/golden/mnistlab.csv from these run folders
"""

import csv
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mnistlab.analysis import stats
from mnistlab.comparison import saved

from . import golden_task

FOLDER = Path(__file__).parents[3] / "tests" / "golden"
THEIRS, OURS = FOLDER / "pytorch.csv", FOLDER / "mnistlab.csv"
POWER = 0.8

Results = dict[str, np.ndarray]
"""METRICS -> float64 [seeds]."""


class Difference(NamedTuple):
    """One metric of one task, ours minus theirs: two independent samples of unequal spread, so Welch's t."""

    task: str
    metric: str
    num_ours: int
    num_theirs: int
    mean_ours: float
    mean_theirs: float
    interval: stats.Interval  # 95 %, of this difference alone
    p: float
    p_holm: float  # corrected for all the differences that were asked for together
    resolvable: (
        float  # the true difference that would be called one with probability POWER, at the strictest of Holm's levels
    )

    @property
    def difference(self) -> float:
        """Of the means."""
        return self.mean_ours - self.mean_theirs


def read(path: Path) -> dict[str, Results]:
    """EXPERIMENT/VARIANT -> its results, in the order of the seeds."""
    with path.open() as file:
        rows = sorted(csv.DictReader(file), key=lambda row: int(row["seed"]))
    found: dict[str, Results] = {}
    for name in sorted({f"{row['experiment']}/{row['variant']}" for row in rows}):
        mine = [row for row in rows if f"{row['experiment']}/{row['variant']}" == name]
        if len({row["seed"] for row in mine}) < len(mine):
            raise ValueError(f"{path.name} has a seed of {name} twice")
        found[name] = {metric: np.array([float(row[metric]) for row in mine]) for metric in golden_task.METRICS}
    return found


def compare(ours: Mapping[str, Results], theirs: Mapping[str, Results]) -> list[Difference]:
    """Every metric of every task of `ours`."""
    from scipy import stats as scipy_stats

    asked = [(task, metric) for task in ours for metric in golden_task.METRICS]
    alpha = stats.ALPHA / len(asked)
    found = []
    for task, metric in asked:
        a, b = ours[task][metric], theirs[task][metric]
        test = scipy_stats.ttest_ind(a, b, equal_var=False)
        error = float(np.sqrt(a.var(ddof=1) / len(a) + b.var(ddof=1) / len(b)))
        # Close to what the noncentral t gives, and on the safe side of the normal distribution's.
        quantiles = scipy_stats.t.ppf(1 - alpha / 2, test.df) + scipy_stats.t.ppf(POWER, test.df)
        interval = stats.Interval(*map(float, test.confidence_interval(0.95)))
        means = float(a.mean()), float(b.mean())
        p = float(test.pvalue)
        found.append(Difference(task, metric, len(a), len(b), *means, interval, p, p, float(quantiles) * error))
    corrected = stats.holm([one.p for one in found])
    return [one._replace(p_holm=float(p)) for one, p in zip(found, corrected, strict=True)]


def table(differences: Sequence[Difference]) -> str:
    """The differences in Markdown."""
    lines = [
        "| task | metric | n ours, PyTorch | ours | PyTorch | difference [95 %] | p, Holm | resolvable |",
        "| :-- | :-- | --: | --: | --: | --: | --: | --: |",
    ]
    for one in differences:
        low, high = one.interval
        lines.append(
            f"| {one.task} | {one.metric} | {one.num_ours}, {one.num_theirs} | {one.mean_ours:.4f} | {one.mean_theirs:.4f} "
            f"| {one.difference:+.4f} [{low:+.4f}, {high:+.4f}] | {one.p_holm:.2f} | {one.resolvable:.4f} |"
        )
    return "\n".join(lines)


def write_ours(folders: Sequence[Path], out: Path = OURS) -> None:
    """A row for every seed of the golden tasks in these run folders, as `golden_pytorch` writes them."""
    known = {golden_task.name(task) for task in golden_task.FULL}
    rows: list[list[object]] = [list(golden_task.COLUMNS)]
    for run in map(saved.read_run, folders):
        for variant, about in run.summary["variants"].items():
            if f"{run.summary['experiment']}/{variant}" not in known:
                continue
            columns = [about["metrics"][metric]["values"] for metric in ("num_epochs", *golden_task.METRICS)]
            for seed, (epochs, *values) in zip(run.seeds_of(variant), zip(*columns, strict=True), strict=True):
                rounded = [f"{value:.6g}" for value in values]
                rows.append([run.summary["experiment"], variant, seed, int(epochs), *rounded])
    with out.open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)


def main() -> None:
    """Writes what is given, prints the table."""
    if sys.argv[1:]:
        write_ours([Path(text) for text in sys.argv[1:]])
    differences = compare(read(OURS), read(THEIRS))
    print(table(differences))
    print(f"\nsmallest Holm-corrected p of {len(differences)}: {min(one.p_holm for one in differences):.2f}")


if __name__ == "__main__":
    main()
