"""What the benchmark leaves: its tables, page and summary."""

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mnistlab.analysis import history
from mnistlab.comparison import workdirs
from mnistlab.report import figures, page, text

from .. import common
from .measure import CALIBRATING_SIZE, OURS, Measured, num_seeds, ratios
from .workloads import WORKLOADS, flops_per_example

NAME = "bench"


class Findings(NamedTuple):
    """All that was measured."""

    measured: Mapping[str, Mapping[str, Measured]]  # workload -> peer
    calibrating: Mapping[str, float]  # workload -> seconds of the calibrating product beside it
    start: Mapping[str, Mapping[str, float]]  # as `start_up` gives it, or nothing
    missing: Mapping[str, str]  # peer that was left out -> its package
    num_rounds: int
    round_gflop: float

    @property
    def peak(self) -> float:
        """GFLOP/s of the calibrating product at its best."""
        return max((2 * CALIBRATING_SIZE**3 / seconds / 1e9 for seconds in self.calibrating.values()), default=0.0)


def table(name: str, measured: Mapping[str, Measured], peak: float) -> page.Table:
    """One workload: one row per peer."""
    workload = WORKLOADS[name]
    flops = flops_per_example(workload.model) * workload.batch_size * workload.steps_per_epoch
    best = min((one.median for peer, one in measured.items() if not peer.startswith(OURS)), default=float("nan"))
    rows = []
    for peer, one in measured.items():
        rate = flops / one.median / 1e9
        spread = f"{one.median:.3g} [{one.seconds.min():.3g}, {one.seconds.max():.3g}]"
        rows.append(
            (
                peer,
                spread,
                text.MISSING if np.isnan(best) else f"{one.median / best:.2f}",
                f"{workload.steps_per_epoch / one.median:,.0f}",
                f"{workload.steps_per_epoch * workload.batch_size / one.median:,.0f}",
                f"{rate:.3g}",
                f"{100 * rate / peak:.1f} %",
                f"{one.compile_seconds:.1f}",
                f"{one.first_epoch_seconds(num_seeds(peer)):.1f}",
                f"{one.peak_bytes / 1e6:,.0f}",
            )
        )
    header = (
        "", "s/epoch", "of best peer", "steps/s", "examples/s", "GFLOP/s", "of peak", "compile s", "first epoch s",
        "peak MB",
    )  # fmt: skip
    caption = f"{name}: seconds an epoch for each seed, median [least, most] of {len(next(iter(measured.values())).seconds)} rounds"
    return page.Table(header, rows, caption)


def show(name: str, measured: Mapping[str, Measured]) -> None:
    """Prints one workload."""
    peak = float("nan")
    shown = table(name, measured, peak)
    keep = (0, 1, 2, 7, 8, 9)
    rows = [tuple(row[column] for column in keep) for row in shown.rows]
    print(f"\n{name}\n{text.text_table([shown.header[column] for column in keep], rows)}", flush=True)


def write(folder: Path, found: Findings) -> None:
    """Writes the page and its files."""
    packages = {"torch": "torch", "keras": "keras", "tensorflow": "tensorflow"}
    identity = {
        "experiment": NAME,
        "workloads": list(found.measured),
        "rounds": found.num_rounds,
        "round_gflop": found.round_gflop,
        "peer_versions": {name: _version(package) for name, package in packages.items()},
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
            f"of {found.round_gflop:g} GFLOP, at most an epoch, the peers by turns; medians, scaled to an epoch of 60,000. Measured peak of a "
            f"matrix product: {found.peak:.0f} GFLOP/s."
        ),
        *[
            page.Text(f"{name} was left out: {package} is not installed (`pip install -e .[bench]`).")
            for name, package in found.missing.items()
        ],
        page.Heading("At a glance"),
        draw(
            figures.durations(seconds, "seconds an epoch, for each seed"),
            "seconds",
            "Seconds an epoch for each seed: dots are rounds, bars medians.",
        ),
        page.Heading("By workload"),
        *[table(name, peers, found.peak) for name, peers in found.measured.items()],
    ]
    if found.start:
        rows = [
            (f"{name} compile cache", f"{one['first_epoch_seconds']:.1f}", f"{one['peak_bytes'] / 1e6:,.0f}")
            for name, one in found.start.items()
        ]
        header = ("experiment 1, LeNet-5", "seconds to the end of the first epoch", "peak MB")
        blocks += [page.Heading("Start"), page.Table(header, rows, "From the start of the process, data cached")]
    return [*blocks, page.Heading("How to repeat it"), page.Command(common.command())]


def _summary(found: Findings) -> dict[str, Any]:
    return {
        "experiment": NAME,
        "protocol": None,
        "data": {"name": "mnist"},
        "device": workdirs.provenance()["device"],
        "n_seeds": 1,
        "variants": {
            f"{name}: {peer}": {"metrics": {"epoch_seconds": history.summarize(one.seconds)}}
            | {key: getattr(one, key) for key in ("first_loss", "ready_seconds", "compile_seconds", "peak_bytes")}
            for name, peers in found.measured.items()
            for peer, one in peers.items()
        },
        "ratios": ratios(found.measured, found.calibrating),
        "peak_gflops": found.peak,
        "start": found.start,
        "claims": [],
        "seconds": {},
    }


def _version(package: str) -> str | None:
    from importlib import metadata

    for name in (package, f"{package}-cpu"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            return metadata.version(name)
    return None
