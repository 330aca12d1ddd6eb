"""What the benchmark leaves: its tables, page and summary."""

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mnistlab.analysis.history import plain, summarize
from mnistlab.comparison import workdirs
from mnistlab.report import figures, page, text

from .. import common
from . import limits as machine
from . import noise
from .limits import ALL, ONE, Limits
from .measure import Measured
from .processes import OURS, num_seeds
from .profile import Profile
from .ratios import ratios
from .workloads import operations, workload_of

NAME = "bench"
MOST_OPERATIONS = 12  # of a profile, in its table
CORES = {ONE: "one pinned core", ALL: "all cores"}


class Findings(NamedTuple):
    """All that was measured; workloads are added one by one."""

    measured: dict[str, Mapping[str, Measured]]  # workload -> peer
    limits: dict[str, Mapping[str, Limits]]  # workload -> cores
    profiles: dict[str, Profile]  # workload -> what a step spends, or nothing
    start: Mapping[str, Mapping[str, float]]  # as `start_up` gives it, or nothing
    missing: Mapping[str, str]  # peer that was left out -> why
    num_rounds: int
    round_gflop: float
    most_noise: float

    @property
    def peak(self) -> float:
        """GFLOP/s of the matrix product on all cores at its best."""
        return machine.best(self.limits)[ALL]["gflops"] if self.limits else float("nan")


def share_of_bound(name: str, one: Measured, peak: float) -> float:
    """Of the seconds that a row takes, the part that its network's products would take at the peak, in GFLOP/s."""
    return operations(workload_of(name)) / 1e9 / peak / one.median


def table(
    name: str, measured: Mapping[str, Measured], limits: Mapping[str, Limits], peak: float, most_noise: float
) -> page.Table:
    """One workload: one row per peer."""
    workload, product = workload_of(name), limits[ALL].product_seconds
    others = [one for peer, one in measured.items() if not peer.startswith(OURS)]
    best = min(others, key=lambda one: one.median) if others else None
    rows = []
    for peer, one in measured.items():
        ratio = None if best is None else noise.ratio(one.seconds, best.seconds, product, most_noise)
        rows.append(
            (
                one.setting,
                f"{one.median:.3g} [{one.seconds.min():.3g}, {one.seconds.max():.3g}]",
                _percent(noise.spread(one.seconds)),
                text.MISSING if best is None else noise.NOISY if ratio is None else f"{ratio:.2f}",
                _percent(share_of_bound(name, one, peak)),
                f"{workload.steps_per_epoch / one.median:,.0f}",
                f"{workload.steps_per_epoch * workload.batch_size / one.median:,.0f}",
                f"{one.compile_seconds:.1f}",
                f"{one.first_epoch_seconds(num_seeds(peer)):.1f}",
                f"{one.peak_bytes / 1e6:,.0f}",
            )
        )
    header = (
        "", "s/epoch", "rounds disagree", "of best peer", "of bound", "steps/s", "examples/s", "compile s",
        "first epoch s", "peak MB",
    )  # fmt: skip
    gflop = operations(workload) / 1e9
    caption = (
        f"{name}: seconds an epoch for each seed, median [least, most] of {text.counted(len(product), 'round')}. Bound: {gflop:.3g} GFLOP "
        f"at {peak:.0f} GFLOP/s, {gflop / peak:.3g} s. Rounds of the matrix product disagree by {_percent(noise.spread(product))}"
    )
    return page.Table(header, rows, caption)


def limits_table(found: Findings) -> page.Table:
    """The machine: one row for one core, one for all."""
    best = machine.best(found.limits)
    rows = []
    for which, words in CORES.items():
        if which in best:
            products = np.concatenate([one[which].gflops for one in found.limits.values()])
            rates = (best[which]["gflops"], float(np.median(products)), best[which]["gigabytes_per_second"])
            rows.append((words, *[f"{rate:,.3g}" for rate in rates], _percent(noise.spread(products))))
        else:
            rows.append(
                (f"{words}: not pinned here (one core alone, a GPU, or a system without it)", *[text.MISSING] * 4)
            )
    header = ("", "GFLOP/s, best", "GFLOP/s, median", "GB/s, best", "products disagree")
    return page.Table(
        header, rows, "The machine's own limits, measured beside the rounds: a matrix product, two long arrays added"
    )


def show(name: str, found: Findings) -> None:
    """Prints one workload, beside the limits that were measured with it."""
    limits = found.limits[name]
    shown = table(name, found.measured[name], limits, float(limits[ALL].gflops.max()), found.most_noise)
    keep = (0, 1, 2, 3, 4, 7, 8, 9)
    rows = [tuple(row[column] for column in keep) for row in shown.rows]
    tables = [page.Table([shown.header[column] for column in keep], rows, shown.caption)]
    if name in found.profiles:
        tables += profile_tables(name, found.profiles[name])
    for one in tables:
        print(f"\n{one.as_text()}", flush=True)


def tried_table(found: Findings) -> page.Table:
    """The settings that were tried for each workload, the quickest first."""
    rows = []
    for workload, peers in found.measured.items():
        for peer, one in peers.items():
            if len(one.tried) > 1:
                order = sorted(one.tried.items(), key=lambda item: (np.isnan(item[1]), item[1]))
                texts = [f"{name} {'failed' if np.isnan(value) else f'{value:.3g}'}" for name, value in order]
                rows.append((workload, peer, "; ".join(texts)))
    caption = "Seconds an epoch of each setting in its one short round; the first of a row stayed for the timed rounds"
    return page.Table(("workload", "peer", "settings"), rows, caption)


def profile_tables(name: str, profile: Profile) -> tuple[page.Table, page.Table]:
    """What a step of one seed spends: by layer, and its largest operations."""

    def numbers(milliseconds: float) -> tuple[str, str]:
        return text.format_significant(milliseconds), _percent(milliseconds / profile.total)

    layers = [
        (layer or text.MISSING, direction, *numbers(milliseconds))
        for (layer, direction), milliseconds in profile.by_layer().items()
    ]
    operations = [
        (one.operation, one.layer or text.MISSING, one.direction, *numbers(one.milliseconds))
        for one in profile.spent[:MOST_OPERATIONS]
    ]
    caption = (
        f"{name}: milliseconds of a step of one seed, summed over the cores: {text.format_significant(profile.total)} in "
        f"operations, while {text.format_significant(profile.step_milliseconds)} pass on the clock"
    )
    return (
        page.Table(("layer", "direction", "ms", "share"), layers, caption),
        page.Table(("operation", "layer", "direction", "ms", "share"), operations, f"{name}: its largest operations"),
    )


def _percent(share: float) -> str:
    return text.MISSING if np.isnan(share) else f"{100 * share:.1f} %"


def write(folder: Path, found: Findings) -> None:
    """Writes the page and its files."""
    identity = {
        "experiment": NAME,
        "workloads": list(found.measured),
        "rounds": found.num_rounds,
        "round_gflop": found.round_gflop,
        "most_noise": found.most_noise,
        "peer_versions": {name: _version(name) for name in ("torch", "keras", "tensorflow")},
    }
    workdirs.leave(
        folder,
        identity=identity,
        command=common.command(),
        title="Seconds an epoch, side by side",
        blocks=_blocks(found, page.draw_into(folder / "figures")),
        summary=_summary(found),
    )


def _blocks(found: Findings, draw: page.Draw) -> list[page.Block]:
    seconds = {name: {peer: one.seconds for peer, one in peers.items()} for name, peers in found.measured.items()}
    blocks: list[page.Block] = [
        page.Text(
            "Every peer trains the same network from the same weights on the same batches, in a process of its own. Rounds "
            f"of {found.round_gflop:g} GFLOP, at most an epoch, the peers by turns; medians, scaled to an epoch of 60,000. "
            "Rounds disagree by the distance of their quartiles over their median; where those of either side, or of the "
            f"matrix product beside them, do by more than {_percent(found.most_noise)}, no ratio is given: {noise.NOISY}. The "
            "bound of a row is what its network's products alone would take at the measured peak on all cores."
        ),
        page.Text(
            "Where a workload's name says whole epochs, these are not bare steps: a new order, validation on 10,000 images "
            "and the keeping of the best weights are timed with them, as each framework's users write it. PyTorch and plain "
            "Flax leave out the last batch, which is not full."
        ),
        *[page.Text(f"{name} was left out: {why}.") for name, why in found.missing.items()],
        page.Heading("At a glance"),
        draw(
            figures.durations(seconds, "seconds an epoch, for each seed"),
            "seconds",
            "Seconds an epoch for each seed: dots are rounds, bars medians.",
        ),
        page.Heading("The machine"),
        limits_table(found),
        page.Heading("By workload"),
        *[
            table(name, peers, found.limits[name], found.peak, found.most_noise)
            for name, peers in found.measured.items()
        ],
    ]
    tried = tried_table(found)
    if tried.rows:
        blocks += [page.Heading("The settings that were tried"), tried]
    if found.profiles:
        blocks.append(page.Heading("What a step spends"))
        blocks += [table for name, one in found.profiles.items() for table in profile_tables(name, one)]
    if found.start:
        rows = [
            (f"{name} compile cache", f"{one['first_epoch_seconds']:.1f}", f"{one['peak_bytes'] / 1e6:,.0f}")
            for name, one in found.start.items()
        ]
        header = ("lenet_vs_dense, LeNet-5", "seconds to the end of the first epoch", "peak MB")
        blocks += [page.Heading("Start"), page.Table(header, rows, "From the start of the process, data cached")]
    return [*blocks, *page.how_to_repeat(common.command())]


def _summary(found: Findings) -> dict[str, Any]:
    return {
        "experiment": NAME,
        "protocol": "benchmark",
        "data": {"name": "mnist"},
        "device": workdirs.device_words(),
        "n_seeds": 1,
        "variants": {
            f"{name}: {peer}": {"metrics": {"epoch_seconds": summarize(one.seconds)}}
            | {key: getattr(one, key) for key in ("first_loss", "ready_seconds", "compile_seconds", "peak_bytes")}
            | {"setting": one.setting, "tried_seconds": {name: plain(value) for name, value in one.tried.items()}}
            | {"spread": plain(noise.spread(one.seconds)), "share_of_bound": share_of_bound(name, one, found.peak)}
            for name, peers in found.measured.items()
            for peer, one in peers.items()
        },
        "ratios": ratios(found.measured, found.limits, found.most_noise),
        "peak_gflops": found.peak,
        "limits": machine.best(found.limits),
        "product_spread": {name: plain(noise.spread(one[ALL].product_seconds)) for name, one in found.limits.items()},
        "start": found.start,
        "profiles": {
            name: {
                "step_milliseconds": one.step_milliseconds,
                "spent": [spent._asdict() for spent in one.spent],
            }
            for name, one in found.profiles.items()
        },
        "claims": [],
        "seconds": {},
    }


def _version(package: str) -> str | None:
    from importlib import metadata

    for name in (package, f"{package}-cpu"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            return metadata.version(name)
    return None
