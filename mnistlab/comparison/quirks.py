"""What the sources' quirks cost: each by the claim that mends it alone, or by a variant under both protocols."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from mnistlab.analysis import claims, departures, stats
from mnistlab.comparison.verdicts import BoardRun, Key
from mnistlab.errors import UserError

METRIC = "test_accuracy"


class Quirk(NamedTuple):
    """Something that a source did and did not mean, or did not mention."""

    words: str
    experiment: str
    claim: str = ""  # of the controlled run: mended is better than as it was
    variant: str = ""  # or a variant: controlled is better than reported


class Cost(NamedTuple):
    """What mending a quirk is worth in test accuracy, paired by seed."""

    quirk: Quirk
    verdict: str  # on "mending it helps"; "not run" where nothing was measured, "changed run" where not this
    difference: float | None = None  # mended minus as it was
    interval: tuple[float, float] | None = None  # 95 %, holds however often one looks
    num_pairs: int = 0
    keys: tuple[Key, ...] = ()  # of the runs

    @property
    def word(self) -> str:
        """The verdict without its remarks."""
        return departures.verdict_word(self.verdict)


QUIRKS = (
    Quirk("applying the softmax twice (LeNet-5)", "lenet_vs_dense", claim="e"),
    Quirk("leaving dropout on in evaluation", "keras_vs_scratch", claim="f3"),
    Quirk("leaving out the biases", "keras_vs_scratch", claim="f2"),
    Quirk("summing the loss for its gradient", "keras_vs_scratch", claim="f4"),
    Quirk("training with batches of 64 instead of 32", "keras_vs_scratch", claim="f1"),
    *(Quirk(f"feeding raw pixels 0..255 to CNN {name}", "cnn_variants", variant=name) for name in "ABCDE"),
    Quirk("training at a rate of 1e-2 that validation did not choose", "fashion_mlp", claim="b"),
    Quirk("training the baseline at 1e-2 for 10 epochs", "fashion_lenet_regularizers", variant="baseline"),
    Quirk("training the dropout net at 1e-3", "fashion_lenet_regularizers", variant="dropout"),
    Quirk("training the batch-normalised net at 1e-2", "fashion_lenet_regularizers", variant="batchnorm"),
)


def costs(runs: Mapping[Key, BoardRun], asked: Sequence[Quirk] = QUIRKS) -> list[Cost]:
    """What each quirk costs, in their order; Holm's correction is over an experiment's own."""
    measured = {quirk: _of_variant(quirk, runs) for quirk in asked if quirk.variant}
    for name in dict.fromkeys(quirk.experiment for quirk in measured):
        own = {q: one for q, one in measured.items() if q.experiment == name and isinstance(one, stats.Comparison)}
        measured |= dict(zip(own, stats.judge(list(own.values())), strict=True))
    return [_cost(quirk, measured[quirk]) if quirk.variant else _of_claim(quirk, runs) for quirk in asked]


def _of_claim(quirk: Quirk, runs: Mapping[Key, BoardRun]) -> Cost:
    key = (quirk.experiment, "controlled")
    run = runs.get(key)
    entry = next((one for one in run.summary["claims"] if one["id"] == quirk.claim), None) if run else None
    if run is None or entry is None or not entry["comparison"]:
        return Cost(quirk, "not run")
    if run.departures:
        return Cost(quirk, "changed run", keys=(key,))
    low, high = entry["ci95"] or (None, None)
    interval = None if low is None or high is None else (low, high)
    verdict = stats.named(entry["verdict"], entry["left"], str(entry["right"]))
    return Cost(quirk, verdict, entry["delta"], interval, entry["n"], (key,))


def _of_variant(quirk: Quirk, runs: Mapping[Key, BoardRun]) -> stats.Comparison | str:
    """A variant controlled against the same reported, or why it was not measured."""
    controlled, reported = (runs.get((quirk.experiment, protocol)) for protocol in ("controlled", "reported"))
    if controlled is None or reported is None or controlled.training is None or reported.training is None:
        return "not run"
    if controlled.departures or reported.departures:
        return "changed run"
    sides = [run.training.variants.get(quirk.variant) for run in (controlled, reported) if run.training]
    if sides[0] is None or sides[1] is None:
        return "not run"
    try:
        mended, as_it_was = claims.paired(sides[0], sides[1], METRIC)
    except UserError:  # no seed in common
        return "not run"
    return stats.compare(mended, as_it_was, margin=claims.ACCURACY_THAT_MATTERS)


def _cost(quirk: Quirk, found: stats.Comparison | str) -> Cost:
    keys = tuple((quirk.experiment, protocol) for protocol in ("controlled", "reported"))
    if isinstance(found, str):
        return Cost(quirk, found, keys=keys if found == "changed run" else ())
    low, high = found.to_dict()["interval"]
    interval = None if low is None or high is None else (low, high)
    verdict = stats.named(found.verdict, "controlled", "reported")
    return Cost(quirk, verdict, found.to_dict()["difference"], interval, found.n, keys)
