"""Checks the verdicts by simulation: how often they are wrong however often one looks, and how many seeds they take.

python tests/simulate_verdicts.py [--num=10000] [--num_intervals=1000]

Needs no data and trains nothing. docs/statistics.md has the tables that this prints, and says what they mean.
"""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from absl import app, flags

from mnistlab.analysis import sequential
from mnistlab.analysis.sequential import Array

NUM_PAIRS, NUM_CLAIMS = 64, 6
NULLS = ("normal", "t, 3 degrees", "steps of 1/5000", "exponential - 1")
SIZES, MARGINS = (0.5, 1.0, 2.0), (2.0, 1.0, 0.5)  # in standard deviations of a difference
MOST_PAIRS = 400  # simulated where it is asked how many it takes


def draw(kind: str, shape: tuple[int, ...], rng: np.random.Generator) -> Array:
    """Differences without any difference: all but the last kind are symmetric about 0."""
    if kind == "normal":
        return rng.normal(0, 1, shape)
    if kind == "t, 3 degrees":
        return rng.standard_t(3, shape)
    if kind == "steps of 1/5000":  # accuracies of 5,000 images; sd 3 steps, so that one in eight is exactly 0
        return np.round(rng.normal(0, 3, shape)) / 5000
    return rng.exponential(1, shape) - 1


def log_e(differences: Array) -> Array:
    """The largest log e after each pair, [..., n], some rows at a time."""
    rows = differences.reshape(-1, differences.shape[-1])
    parts = [sequential._largest_log_e(part) for part in np.array_split(rows, math.ceil(len(rows) / 500))]
    return np.concatenate(parts).reshape(differences.shape)


def sketch_log_e(differences: Array) -> Array:
    """What the test had to beat: seven stakes tanh(lambda |d_i| / root mean square so far), mixed evenly."""
    magnitudes, sign = np.abs(differences), np.sign(differences)
    counts = np.arange(1, differences.shape[-1] + 1)
    scaled = magnitudes / np.sqrt(np.cumsum(magnitudes**2, axis=-1) / counts)
    stakes = [np.tanh(size * scaled) for size in (0.25, 0.5, 1, 2, 4, 8, 1e9)]
    wealth = np.mean([np.cumprod(1 + side * sign * stake, -1) for stake in stakes for side in (1, -1)], axis=0)
    return np.maximum.accumulate(np.log(np.maximum(wealth, 1e-300)), axis=-1)


def t_test_rejects(differences: Array) -> Array:
    """bool [..., n - 1]: the paired t test's p < 0.05, after the second pair and each later one."""
    from scipy import special

    n = np.arange(1, differences.shape[-1] + 1)
    mean, square = np.cumsum(differences, axis=-1) / n, np.cumsum(differences**2, axis=-1)
    variance = (square - n * mean**2)[..., 1:] / (n[1:] - 1)
    return np.abs(mean[..., 1:]) > special.stdtrit(n[1:] - 1, 0.975) * np.sqrt(variance / n[1:])


def sign_flip_power(size: float, n: int, num: int, rng: np.random.Generator) -> float:
    """How often the sign-flip test of n normal differences finds a true mean of `size` standard deviations."""
    patterns = np.array(
        list(itertools.product([-1.0, 1.0], repeat=n)) if n <= 12 else rng.choice([-1.0, 1.0], (4000, n))
    )
    differences = rng.normal(size, 1, (num, n))
    sums = np.abs(differences @ patterns.T)
    observed = np.abs(differences.sum(axis=1, keepdims=True)) * (1 - 1e-9)
    return float(np.mean(np.mean(sums >= observed, axis=1) < 0.05))


def took(found: Array) -> str:
    """Median and 80 % quantile of the pairs until `found`, bool [simulations, n]."""
    counts = np.where(found.any(axis=1), found.argmax(axis=1) + 1, MOST_PAIRS + 1)
    return " / ".join(f"{count:.0f}" for count in np.quantile(counts, [0.5, 0.8], method="higher"))


def percent(hits: Any) -> str:
    """Share in per cent with its standard error."""
    share = float(np.mean(hits))
    return f"{100 * share:.1f} ± {100 * math.sqrt(share * (1 - share) / len(hits)):.1f}"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Prints Markdown."""
    lines = [header, [":--"] + ["--:"] * (len(header) - 1), *rows]
    print("\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n", flush=True)


def false_verdicts(num: int, rng: np.random.Generator) -> None:
    """How often something false is said at any of the looks after pairs 2 to 64."""
    rows = []
    for kind in NULLS:
        one = draw(kind, (num, NUM_PAIRS), rng)
        six = draw(kind, (num, NUM_CLAIMS, NUM_PAIRS), rng)
        evidence = log_e(six)[..., -1]  # the largest of all looks: Holm rejects more, the smaller the p
        lifted = log_e(six[:, :3] + np.std(six))[..., -1]  # three of the six are true after all
        mixed = -np.sort(-np.concatenate([lifted, evidence[:, 3:]], axis=1), axis=1)
        steps = np.log(np.arange(NUM_CLAIMS, 0, -1) / sequential.ALPHA)
        num_rejected = np.cumprod(mixed >= steps, axis=1).sum(axis=1)
        bound = steps[np.maximum(num_rejected - 1, 0)]  # the least evidence that Holm's last step asked for
        any_false = (num_rejected > 0) & (evidence[:, 3:].max(axis=1) >= bound)
        wrong = [(looks := t_test_rejects(one))[:, -1], looks.any(axis=1), log_e(one)[:, -1] >= steps[-1]]
        wrong += [evidence.max(axis=1) >= steps[0], any_false]
        rows.append([kind, *(percent(hits) for hits in wrong)])
    header = ["no difference, 64 pairs", "t test, one look", "t test, 63 looks", "verdict, 63 looks"]
    table([*header, "six claims, none true", "three true"], rows)


def coverage(num: int, rng: np.random.Generator) -> None:
    """How often an interval leaves the true centre out, at any number of pairs."""
    rows = []
    for kind in NULLS:
        sequences = [sequential.confidence_sequence(one + 0.0012) for one in draw(kind, (num, NUM_PAIRS), rng)]
        rows.append([kind, percent([np.all((low <= 0.0012) & (high >= 0.0012)) for low, high in sequences])])
    table(["64 pairs", "all 64 intervals cover the centre"], rows)


def pairs_needed(num: int, rng: np.random.Generator) -> None:
    """How many pairs it takes where there is a difference, and where there is none that matters."""
    level, rows = math.log(1 / sequential.ALPHA), []
    for size in SIZES:
        differences = rng.normal(size, 1, (num, MOST_PAIRS))
        powers = [sign_flip_power(size, n, 2000, rng) for n in range(6, 50)]
        fixed = " / ".join(str(6 + int(np.argmax(np.array(powers) >= power))) for power in (0.5, 0.8))
        rows.append([f"{size:g} sd", *(took(of(differences) >= level) for of in (log_e, sketch_log_e)), fixed])
    table(["true difference", "pairs until `holds`", "the sketch", "sign-flip test that knew n"], rows)
    rows = []
    for margin in MARGINS:
        differences = rng.normal(0, 1, (num // 5, MOST_PAIRS))
        within = np.minimum(log_e(differences - margin), log_e(differences + margin))
        rows.append([f"0, margin {margin:g} sd", took(within >= level)])
    table(["true difference", "pairs until `no difference that matters`"], rows)


def main(_: list[str]) -> None:
    """Prints all tables."""
    rng = np.random.default_rng(0)
    false_verdicts(flags.FLAGS.num, rng)
    pairs_needed(flags.FLAGS.num, rng)
    coverage(flags.FLAGS.num_intervals, rng)


if __name__ == "__main__":
    flags.DEFINE_integer("num", 10_000, "Simulations of each kind.", lower_bound=10)
    flags.DEFINE_integer("num_intervals", 1000, "Simulated confidence sequences of each kind.", lower_bound=1)
    app.run(main)
