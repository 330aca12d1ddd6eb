"""What PyTorch would have taken for the seeds of a run, by the ratios that the benchmark measured."""

import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from mnistlab import sealed
from mnistlab.comparison import verdicts
from mnistlab.comparison.verdicts import BoardRun
from mnistlab.errors import UserError

PEER = "pytorch"  # how the names of its forms begin
OURS = re.compile(r"mnistlab(?:_(\d+)_seeds)?")


class Bench(NamedTuple):
    """The ratios of a benchmark on one device."""

    platform: str
    device: str  # in words
    ratios: Mapping[tuple[str, int], Mapping[int, tuple[str, float]]]
    """(model, batch size) -> seeds of ours at once -> the fastest form of PyTorch, ours as a multiple of it."""


class Estimate(NamedTuple):
    """A variant's ratio, and where it is from; without one why there is none."""

    ratio: float | None
    source: str


def read(path: Path) -> Bench:
    """The bench of a summary.json that `python -m experiments.bench` left.

    Raises:
      UserError: it is none.
    """
    try:
        content = sealed.read(path, "give the summary.json of a benchmark")
        found: dict[tuple[str, int], dict[int, tuple[str, float]]] = {}
        for row, peers in content["ratios"].items():
            workload, _, name = row.partition(": ")
            ours, of_peer = OURS.fullmatch(name), [(float(r), p) for p, r in peers.items() if p.startswith(PEER)]
            if ours and of_peer:
                model, _, batch_size = workload.rpartition("_")
                ratio, peer = max(of_peer)  # the fastest is the one to beat
                found.setdefault((model, int(batch_size)), {})[int(ours[1] or 1)] = peer, ratio
        device = content["device"]
        # As it is written, or as it once was.
        words = device if isinstance(device, str) else f"{device['platform']}: {device['kind']}"
        return Bench(words.partition(":")[0], words, found)
    except (OSError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"{path} is no result of the benchmark ({error!r:.100}); expected a summary.json of experiments.bench"
        ) from error


def estimate(bench: Bench, model: object, batch_size: int, num_seeds: int) -> Estimate:
    """The ratio for a network at a batch size, else at the nearest one that was measured.

    >>> bench = Bench("cpu", "cpu: cpu", {("dense", 256): {1: ("pytorch", 0.8), 8: ("pytorch", 0.5)}})
    >>> estimate(bench, "dense", 256, 16)
    Estimate(ratio=0.5, source='dense_256, 8 seeds at once: 0.5 of pytorch')
    >>> estimate(bench, "dense", 32, 2).source, estimate(bench, "lenet5", 256, 1).ratio
    ('the nearest, dense_256, 1 seed at once: 0.8 of pytorch', None)
    """
    sizes = [size for name, size in bench.ratios if name == model]
    if not sizes:
        return Estimate(None, "no workload of this network")
    nearest = min(sizes, key=lambda size: abs(math.log(size / batch_size)))
    measured = bench.ratios[str(model), nearest]
    at_once = max((number for number in measured if number <= num_seeds), default=min(measured))
    peer, ratio = measured[at_once]
    which = "" if nearest == batch_size else "the nearest, "
    seeds = f"{at_once} seed{'s' * (at_once != 1)} at once"
    return Estimate(ratio, f"{which}{model}_{nearest}, {seeds}: {ratio:.2g} of {peer}")


def of_variant(bench: Bench, run: BoardRun, name: str) -> Estimate:
    """The ratio for a variant of a run."""
    platform = str(run.summary["device"]).partition(":")[0]
    if platform != bench.platform:
        return Estimate(None, f"the run was on {platform}, the benchmark on {bench.platform}")
    if run.training is None or name not in run.training.variants:
        return Estimate(None, "no training that can be read back")
    settings = run.training.settings_of(name)
    if "program" in run.training.known_of(name):
        return Estimate(None, "a program of its own, which no workload is")
    if any((settings.get("augment") or {}).values()):
        return Estimate(None, "images augmented, as in no workload")
    return estimate(bench, settings["model"], settings["batch_size"], len(run.training.seeds_of(name)))


def seconds_of(bench: Bench, run: BoardRun, names: Iterable[str]) -> float | None:
    """Seconds that PyTorch would have trained for the same seeds of some variants; None where one has no ratio."""
    total = 0.0
    for name in dict.fromkeys(names):
        ratio = of_variant(bench, run, name).ratio
        ours = verdicts.seconds_of(run.summary, [name], "train_seconds")
        if not ratio or ours is None:
            return None
        total += ours / ratio
    return total


def sources(bench: Bench, runs: Iterable[BoardRun]) -> list[tuple[Any, ...]]:
    """(network, batch size, whence its ratio) of all variants of the runs, each once."""
    rows: dict[tuple[Any, ...], None] = {}
    for run in runs:
        for name in run.training.variants if run.training else ():
            assert run.training is not None
            settings = run.training.settings_of(name)
            row = (settings["model"], f"{settings['batch_size']:,}", of_variant(bench, run, name).source)
            rows[row] = None
    return sorted(rows, key=lambda row: (str(row[0]), str(row[1]).rjust(9), row[2]))
