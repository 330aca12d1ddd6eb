"""The benchmark's command: its flags, and what it measures in turn."""

import importlib.util
import math
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import flags

from mnistlab import sealed
from mnistlab.comparison import workdirs
from mnistlab.data import datasets
from mnistlab.data.datasets import Dataset
from mnistlab.errors import UserError

from .. import bench, common
from . import noise, profile, results, tuning
from .measure import by_turns, start_up
from .peers.job import Job
from .peers.worker import PEERS
from .processes import OURS
from .ratios import ratios, regressions, uncompared
from .results import NAME, Findings
from .tuning import FAMILIES
from .workloads import WHOLE_EPOCHS, WORKLOADS, steps_of_round, workload_of, write_job

__doc__ = bench.__doc__  # of --help
FLAGS = flags.FLAGS
DEFAULT_PEERS = (OURS, "mnistlab_8_seeds", *FAMILIES)
DEFAULT_WHOLE_EPOCHS = ("lenet5_256", "dense_256")
NEEDS = {"pytorch": "torch", "keras": "tensorflow"}  # what a peer's name begins with -> the package


def main() -> None:
    """Measures, checks that the losses agree, writes the page; exit status 1 where --against finds us slower."""
    began = time.perf_counter()
    names = _names()
    asked = _chosen("peers", FLAGS.peers or DEFAULT_PEERS, dict.fromkeys((*PEERS, *FAMILIES)))
    if not 0 < FLAGS.round_gflop < math.inf or FLAGS.rounds < 1:
        raise UserError(
            f"round_gflop is {FLAGS.round_gflop}, rounds {FLAGS.rounds}; expected more than 0, and at least 1 round"
        )
    if FLAGS.matmul_precision != "default":
        raise UserError("the benchmark measures the backend's own precision; leave --matmul_precision out")
    reference = _read_reference(Path(FLAGS.against)) if FLAGS.against else None
    missing = _missing(asked)
    for name, why in missing.items():
        print(f"{name} is left out: {why}")
    asked = [name for name in asked if name not in missing]
    if not asked:
        raise UserError(f"no peer is left: {'; '.join(missing.values())}")
    folder = common.workdir(NAME)
    dataset = datasets.load("mnist", data_dir=common.data_dir())
    found = Findings({}, {}, {}, {}, missing, FLAGS.rounds, FLAGS.round_gflop, FLAGS.most_noise)
    with workdirs.locked(folder):
        workdirs.holds(folder, NAME)
        for name in names:
            _measure(name, asked, dataset, found)
            results.write(folder, found)  # after each: an hour's results are not lost to what ends the last
        if FLAGS.start_up:
            found = found._replace(start=start_up(FLAGS.data_dir))
            results.write(folder, found)
    print(f"\n{(time.perf_counter() - began) / 60:.0f} minutes; report: {folder / 'report.html'}")
    if reference is not None:
        _compare(ratios(found.measured, found.limits, found.most_noise), reference)


def _names() -> list[str]:
    """The workloads, those of whole epochs last."""
    workloads = _chosen("workloads", FLAGS.workloads, WORKLOADS)
    if FLAGS.whole_epochs is None:
        whole = [name for name in DEFAULT_WHOLE_EPOCHS if name in workloads]
    else:
        whole = _chosen("whole_epochs", FLAGS.whole_epochs, WORKLOADS) if FLAGS.whole_epochs else []
    return [*workloads, *[f"{WHOLE_EPOCHS}{name}" for name in whole]]


def _measure(name: str, asked: Sequence[str], dataset: Dataset, found: Findings) -> None:
    """Adds one workload to what was found, and prints it."""
    workload = workload_of(name)
    known = found.measured.get(name.removeprefix(WHOLE_EPOCHS), {})  # on bare steps of the same network
    with tempfile.TemporaryDirectory() as scratch:
        job = write_job(workload, dataset, steps_of_round(workload, FLAGS.round_gflop), Path(scratch))
        settings = _settings(asked, job) | {peer: (one.setting,) for peer, one in known.items()}
        found.measured[name], found.limits[name] = by_turns(workload, job, settings, FLAGS.rounds, _say)
        if FLAGS.profile and not workload.whole_epochs:
            found.profiles[name] = profile.measure(job)
    results.show(name, found)


def _missing(asked: Sequence[str]) -> dict[str, str]:
    """Peers that cannot run here -> why: a package that is not installed, or the compiler that PyTorch calls on a CPU."""
    packages = {name: package for name in asked for start, package in NEEDS.items() if name.startswith(start)}
    missing = {
        name: f"{package} is not installed (pip install -e .[bench])"
        for name, package in packages.items()
        if importlib.util.find_spec(package) is None
    }
    if not _on_gpu() and shutil.which("g++") is None:
        without = "g++ is not installed, with which PyTorch compiles"
        missing = dict.fromkeys([name for name in asked if name.startswith("pytorch_compiled")], without) | missing
    return missing


def _on_gpu() -> bool:
    import jax

    return jax.default_backend() == "gpu"


def _settings(asked: Sequence[str], job: Job) -> dict[str, tuple[str, ...]]:
    """What is tried for each peer: the settings of its family, or with --notune the first of them."""
    has_convolutions = any(kind in ("Conv", "Inception") for kind, _, _ in job.layers)
    tried = {name: tuning.settings(name, has_convolutions, _on_gpu(), job.num_threads) for name in asked}
    return tried if FLAGS.tune else {name: settings[:1] for name, settings in tried.items()}


def _compare(now: Mapping[str, Mapping[str, float]], reference: Mapping[str, Mapping[str, float]]) -> None:
    """Says what has become slower; exit status 1 where anything has."""
    if not now.keys() & reference.keys():
        raise UserError(f"{FLAGS.against} has none of these workloads: nothing was compared")
    slower = regressions(now, reference, FLAGS.tolerance)
    for line in slower:
        print(f"slower: {line}")
    for name in uncompared(now, reference):
        print(f"not compared, too noisy: {name}")
    if slower:
        sys.exit(1)
    print(f"no workload that was compared is over {FLAGS.tolerance:g} times as slow as in {FLAGS.against}")


def _read_reference(path: Path) -> dict[str, dict[str, float]]:
    try:
        found = sealed.read(path, "give the summary.json of an earlier run")["ratios"]
        return {str(name): {str(peer): float(value) for peer, value in row.items()} for name, row in found.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path} is no result of this benchmark ({error}); expected a summary.json of an earlier run"
        ) from error


def _chosen(what: str, asked: Sequence[str], known: Mapping[str, Any]) -> list[str]:
    unknown = [name for name in asked if name not in known]
    if unknown:
        raise UserError(f"unknown {what} {unknown[0]!r}; choose from {'; '.join(known)}")
    return [name for name in known if name in asked] if asked else list(known)


def _say(line: str) -> None:
    if FLAGS.progress != "none":
        print(line, file=sys.stderr, flush=True)


def define_flags() -> None:
    """Flags of this entry point beside the common ones."""
    common.define_run_flags()
    flags.DEFINE_list("workloads", [], f"Which; default all: {', '.join(WORKLOADS)}.")
    flags.DEFINE_list(
        "whole_epochs",
        None,
        "Workloads that are timed as their users pay for them, too: a new order, 10,000 images validated, the best weights "
        f"kept; default those of {', '.join(DEFAULT_WHOLE_EPOCHS)} that --workloads has; --whole_epochs= for none.",
    )
    flags.DEFINE_list(
        "peers",
        [],
        f"Which; default {', '.join(DEFAULT_PEERS)}. One of {', '.join(FAMILIES)} is the best of its settings, unless --notune; one "
        "setting alone is named in full, such as pytorch_ordered_one_thread; populations end in _2_seeds to _1024_seeds.",
    )
    flags.DEFINE_bool("tune", True, "Finds each framework's best setting by a short round of every one.")
    flags.DEFINE_integer("rounds", 5, "Timed rounds of each peer; a ratio needs two.")
    flags.DEFINE_float("round_gflop", 10.0, "Operations of a round, in GFLOP; a round is at most an epoch.")
    flags.DEFINE_float(
        "most_noise", noise.MOST_NOISE, "Rounds that disagree by more give no ratio: quartiles over median."
    )
    flags.DEFINE_bool("profile", False, "Also names what one step of ours spends, by operation and by layer.")
    flags.DEFINE_bool("start_up", True, "Also time lenet_vs_dense from the start of its process.")
    flags.DEFINE_string("against", None, "summary.json of an earlier run; exit status 1 where we have become slower.")
    flags.DEFINE_float("tolerance", 1.3, "How many times slower than --against, by every measure, is too slow.")


if __name__ == "__main__":
    define_flags()
    common.enter(main)
