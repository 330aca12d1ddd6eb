"""Our seconds as multiples of the others', and what has become slower since an earlier run."""

from collections.abc import Mapping

from . import noise
from .limits import ALL, Limits
from .measure import Measured
from .processes import OURS

PRODUCT = "matrix product"


def ratios(
    found: Mapping[str, Mapping[str, Measured]], limits: Mapping[str, Mapping[str, Limits]], most_noise: float
) -> dict[str, dict[str, float]]:
    """Our seconds as multiples of each peer's, and of the calibrating product's: what can be compared between machines.

    A ratio is missing where the rounds of either side, or the product's, disagree by more than `most_noise`.
    """
    result: dict[str, dict[str, float]] = {}
    for workload, measured in found.items():
        product = limits[workload][ALL].product_seconds
        others = {name: one.seconds for name, one in measured.items() if not name.startswith(OURS)}
        for ours in measured:
            if ours.startswith(OURS):
                mine = measured[ours].seconds
                row = {
                    name: noise.ratio(mine, seconds, product, most_noise)
                    for name, seconds in {**others, PRODUCT: product}.items()
                }
                result[f"{workload}: {ours}"] = {name: value for name, value in row.items() if value is not None}
    return result


def regressions(
    now: Mapping[str, Mapping[str, float]], reference: Mapping[str, Mapping[str, float]], tolerance: float
) -> list[str]:
    """A line for each workload that is over `tolerance` times as slow as in the reference by every measure it has.

    Measured by several peers, one of them may have become quicker or slower; all of them seldom did.

    >>> regressions({"a": {"PyTorch": 0.5}}, {"a": {"PyTorch": 0.3}}, 1.3)
    ['a: 0.5 of PyTorch, was 0.3']
    >>> regressions({"a": {"PyTorch": 0.5, "Flax": 0.1}}, {"a": {"PyTorch": 0.3, "Flax": 0.1}}, 1.3)
    []
    """
    lines = []
    for workload in sorted(now.keys() & reference.keys()):
        shared = sorted(now[workload].keys() & reference[workload].keys())
        slower = [name for name in shared if now[workload][name] > tolerance * reference[workload][name]]
        if shared and slower == shared:
            texts = [f"{now[workload][name]:.3g} of {name}, was {reference[workload][name]:.3g}" for name in shared]
            lines.append(f"{workload}: {'; '.join(texts)}")
    return lines


def uncompared(now: Mapping[str, Mapping[str, float]], reference: Mapping[str, Mapping[str, float]]) -> list[str]:
    """What was measured in both, yet was too noisy now for any ratio that the reference has.

    >>> uncompared({"a": {}, "b": {"PyTorch": 0.5}}, {"a": {"PyTorch": 0.3}, "b": {"PyTorch": 0.3}})
    ['a']
    """
    return [name for name in sorted(now.keys() & reference.keys()) if not now[name].keys() & reference[name].keys()]
