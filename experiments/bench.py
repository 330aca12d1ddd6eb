"""How fast an epoch is: mnistlab, PyTorch, Keras and plain Flax on the same work, side by side in one run.

python -m experiments.bench [--workloads=lenet5_256,dense_256] [--peers=mnistlab,pytorch] [--rounds=5] [--against=summary.json]

Every peer trains the same network from the same weights on the same batches, in a process of its own with as many threads.
A round is a part of an epoch, of as many operations for every network; the peers take turns round by round, so that a
slow minute of the machine hits all. Within a round the first pass is not counted: systems take memory from idle processes.
The first round compiles and is not counted in the median; its loss must agree between the peers (networks without dropout).
PyTorch and Keras come with the extra: pip install -e .[bench]; without it they are left out, and the page says so.
"""

import contextlib
import dataclasses
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from absl import flags

from experiments import common
from experiments.peers import job as jobs
from experiments.peers.worker import PEERS
from mnistlab import config, files
from mnistlab.analysis import history
from mnistlab.comparison import workdirs
from mnistlab.data import datasets
from mnistlab.errors import UserError
from mnistlab.report import report

NAME = "bench"
FLAGS = flags.FLAGS
OURS = "mnistlab"
DEFAULT_PEERS = (
    OURS, "mnistlab_8_seeds", "pytorch", "pytorch_compiled", "keras_tensorflow", "flax_step", "flax_scan"
)  # fmt: skip
NEEDS = {"pytorch": "torch", "pytorch_compiled": "torch", "keras_tensorflow": "tensorflow"}
LOSS_TOLERANCE = 0.02  # of the first round's mean loss, where nothing is dropped out
RMSPROP_TOLERANCE = 0.15  # its first steps are signs of the gradient, and where that is small rounding decides them
CALIBRATING_SIZE = 2048  # of the matrix product beside which the rounds are put
PAUSE_SECONDS = 0.5  # before a round: until the threads of the peer before have stopped spinning
NUM_EXAMPLES = 60_000


class Workload(NamedTuple):
    """A network of models.MODELS with its source's optimiser and batch."""

    model: str
    batch_size: int
    optimizer: str = "adam"

    @property
    def steps_per_epoch(self) -> int:
        """Full batches of an epoch."""
        return NUM_EXAMPLES // self.batch_size


WORKLOADS = {
    "lenet5_256": Workload("lenet5", 256),
    "lenet5_32": Workload("lenet5", 32),
    "lenet5_relu_128": Workload("lenet5_relu", 128),
    "lenet5_relu_dropout_128": Workload("lenet5_relu_dropout", 128),
    "lenet5_relu_batchnorm_128": Workload("lenet5_relu_batchnorm", 128),
    "lenet5_adadelta_128": Workload("lenet5_adadelta", 128, "adadelta"),
    "cnn_a_32": Workload("cnn_a", 32, "rmsprop"),
    "cnn_b_32": Workload("cnn_b", 32, "rmsprop"),
    "cnn_c_32": Workload("cnn_c", 32, "rmsprop"),
    "cnn_d_32": Workload("cnn_d", 32, "rmsprop"),
    "cnn_e_32": Workload("cnn_e", 32, "rmsprop"),
    "dense_256": Workload("dense", 256),
    "mlp512_32": Workload("mlp512", 32),
    "mlp_128_64_128": Workload("mlp_128_64", 128),
}


class Measured(NamedTuple):
    """One peer on one workload."""

    seconds: np.ndarray  # float64 [rounds], of an epoch, for each seed
    first_loss: float  # mean loss of the first round
    ready_seconds: float  # from the start of its process to the first round: imports, data, building
    compile_seconds: float  # of the first round, what it took longer than the others
    peak_bytes: int  # of its process

    @property
    def median(self) -> float:
        """Seconds an epoch, for each seed."""
        return float(np.median(self.seconds))

    def first_epoch_seconds(self, num_seeds: int) -> float:
        """From the start of the process to the end of a whole first epoch."""
        return self.ready_seconds + self.compile_seconds + num_seeds * self.median


class Peer:
    """A process that trains one round each time it is asked to."""

    def __init__(self, name: str, job_file: Path, errors: Path, environ: Mapping[str, str]):
        self.name, self.errors, self.start = name, errors, time.perf_counter()
        with errors.open("w") as stream:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "experiments.peers.worker", name, str(job_file)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stream,
                text=True,
                env={**environ},
            )
        self._answer()
        self.ready_seconds = time.perf_counter() - self.start

    def round(self) -> dict[str, Any]:
        """Trains a round and waits for it."""
        assert self.process.stdin is not None
        time.sleep(PAUSE_SECONDS)
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write("round\n")
            self.process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            last = self.errors.read_text().strip().split("\n")[-1]
            raise UserError(f"{self.name} failed: {last}; leave it out with --peers, or mend its installation")
        return json.loads(line)

    def end(self) -> None:
        """Ends the process."""
        self.process.kill()
        self.process.wait()


def main() -> None:
    """Measures, checks that the losses agree, writes the page; exit status 1 where --against finds us slower."""
    workloads = _chosen("workloads", FLAGS.workloads, WORKLOADS)
    peers = _chosen("peers", FLAGS.peers or DEFAULT_PEERS, PEERS)
    if not FLAGS.round_gflop > 0 or FLAGS.rounds < 1:
        raise UserError(
            f"round_gflop is {FLAGS.round_gflop}, rounds {FLAGS.rounds}; expected more than 0, and at least 1 round"
        )
    reference = _read_reference(Path(FLAGS.against)) if FLAGS.against else None
    missing = {name: NEEDS[name] for name in peers if name in NEEDS and importlib.util.find_spec(NEEDS[name]) is None}
    for name, package in missing.items():
        print(f"{name} is left out: {package} is not installed (pip install -e .[bench])")
    peers = [name for name in peers if name not in missing]
    folder = common.workdir(NAME)
    dataset = datasets.load("mnist", data_dir=common.data_dir())
    with workdirs.made_anew(folder, NAME):
        found: dict[str, dict[str, Measured]] = {}
        calibrating: dict[str, float] = {}
        peak = 0.0
        for name in workloads:
            with tempfile.TemporaryDirectory() as scratch:
                found[name], calibrating[name] = measure(
                    WORKLOADS[name], peers, dataset, Path(scratch), FLAGS.rounds, FLAGS.round_gflop, _say
                )
            peak = max(peak, 2 * CALIBRATING_SIZE**3 / calibrating[name] / 1e9)
            _print(name, found[name])
        start = start_up(FLAGS.data_dir) if FLAGS.start_up else {}
        _write(folder, found, calibrating, peak, start, missing)
    print(f"\nreport: {folder / 'report.html'}")
    if reference is not None:
        slower = regressions(ratios(found, calibrating), reference, FLAGS.tolerance)
        for line in slower:
            print(f"slower: {line}")
        if slower:
            sys.exit(1)
        print(f"no workload is over {FLAGS.tolerance:g} times as slow as in {FLAGS.against}")


def measure(
    workload: Workload,
    peers: Sequence[str],
    dataset: datasets.Dataset,
    scratch: Path,
    num_rounds: int,
    round_gflop: float,
    say: Callable[[str], None] = lambda text: None,
) -> tuple[dict[str, Measured], float]:
    """What each peer takes, and seconds of the calibrating product, measured between the rounds.

    Raises:
      UserError: a peer fails, or learns something else than mnistlab in the first round.
    """
    step_gflop = flops_per_example(workload.model) * workload.batch_size / 1e9
    num_steps = min(max(1, round(round_gflop / step_gflop)), workload.steps_per_epoch)
    job = _write_job(workload, dataset, num_steps, scratch)
    running: list[Peer] = []
    rounds: dict[str, list[dict[str, Any]]] = {name: [] for name in peers}
    product = _calibrating_product()
    calibrating = [product()]
    try:
        for name in peers:
            say(f"{workload.model} {workload.batch_size}: {name}")
            path = scratch / f"{len(running)}.json"
            jobs.write(job._replace(num_seeds=num_seeds(name)), path)
            running.append(Peer(name, path, scratch / f"{len(running)}.log", _environment(name)))
            rounds[name].append(running[-1].round())
        for _ in range(num_rounds):
            for peer in running:
                rounds[peer.name].append(peer.round())
            calibrating.append(product())
    finally:
        for peer in running:
            peer.end()
    measured = {peer.name: _measured(peer, rounds[peer.name], workload.steps_per_epoch / num_steps) for peer in running}
    if not any(kind == "Dropout" for kind, _, _ in job.layers):
        tolerance = RMSPROP_TOLERANCE if workload.optimizer == "rmsprop" else LOSS_TOLERANCE
        check_losses({name: one.first_loss for name, one in measured.items()}, tolerance)
    return measured, float(np.median(calibrating))


def _measured(peer: Peer, rounds: Sequence[Mapping[str, Any]], rounds_per_epoch: float) -> Measured:
    seconds = np.array([one["seconds"] for one in rounds[1:]])
    compile_seconds = max(0.0, rounds[0]["first_seconds"] - np.median(seconds))
    return Measured(
        seconds * rounds_per_epoch / num_seeds(peer.name),
        rounds[0]["loss"],
        peer.ready_seconds,
        float(compile_seconds),
        max(one["peak_bytes"] for one in rounds),
    )


def num_seeds(peer: str) -> int:
    """How many seeds a peer trains at once, as its name says.

    >>> num_seeds("mnistlab_8_seeds"), num_seeds("pytorch")
    (8, 1)
    """
    return int(peer.split("_")[-2]) if peer.endswith("_seeds") else 1


def check_losses(losses: Mapping[str, float], tolerance: float = LOSS_TOLERANCE) -> None:
    """Raises UserError where a peer's loss is not that of the first: then it does other work.

    Crowds are left out: their seeds start elsewhere.
    """
    single = {name: loss for name, loss in losses.items() if num_seeds(name) == 1}
    for name, loss in single.items():
        first = next(iter(single.values()))
        if not abs(loss - first) <= tolerance * first:
            raise UserError(
                f"the first round's loss of {name} is {loss:.4f}, of {next(iter(single))} {first:.4f}: they do not do the same work"
            )


def _write_job(workload: Workload, dataset: datasets.Dataset, num_steps: int, scratch: Path) -> jobs.Job:
    """The job, with its weights, images and order as files in `scratch`."""
    import jax
    from flax import traverse_util

    from mnistlab.data import batches
    from mnistlab.nets import models
    from mnistlab.training import optim, step, train
    from mnistlab.training.losses import cross_entropy

    optim_config = config.optim_default(workload.optimizer)
    model = models.make_model(workload.model)
    program = step.make_program(model, optim.make_optimizer(optim_config, 1, 1), cross_entropy)
    seed = np.zeros(1, np.uint32)
    # As mnistlab begins a crowd of one, compiled as quickly.
    init = jax.jit(jax.vmap(lambda seed: program.init(seed, (28, 28, 1), {}))).lower(seed)
    state = init.compile(compiler_options=train.compiler_options("init"))(seed)
    params = jax.tree.map(lambda leaf: np.asarray(leaf[0]), state.params)
    np.savez(scratch / f"{workload.model}.npz", **traverse_util.flatten_dict(params, sep="/"))
    np.save(scratch / "image.npy", np.asarray(dataset.train.image))
    np.save(scratch / "label.npy", np.asarray(dataset.train.label, np.int32))
    order = batches.epoch_order(np.arange(len(dataset.train.label), dtype=np.int32), workload.batch_size, 0, 0)
    np.save(scratch / f"order_{workload.batch_size}.npy", order.example[:num_steps])
    layers = models.MODELS[workload.model]
    rows: list[jobs.Row] = []
    shape: tuple[int, ...] = (28, 28, 1)
    for name, layer in zip(models.layer_names(layers), layers, strict=True):
        fields = {field.name: getattr(layer, field.name) for field in dataclasses.fields(layer)}
        fields = {key: value for key, value in fields.items() if key not in ("parent", "name")}
        rows.append((type(layer).__name__, name, {**fields, "input_shape": shape}))
        shape = layer.shape_after(shape)
    return jobs.Job(
        workload.model,
        rows,
        workload.optimizer,
        optim_config.learning_rate,
        workload.batch_size,
        1,
        len(os.sched_getaffinity(0)),
        scratch,
    )


def _environment(peer: str) -> dict[str, str]:
    """What the peer's process finds; mnistlab makes a device of each core, as its entry points do."""
    environ = dict(os.environ)
    if peer.startswith(OURS):
        environ["XLA_FLAGS"] = common.with_devices_of_cores(environ.get("XLA_FLAGS", ""))
    return environ


def _calibrating_product() -> Callable[[], float]:
    """A call that gives seconds of one matrix product, the best of five."""
    import jax

    from mnistlab.timing import time_calls

    matrix = jax.random.normal(jax.random.key(0), (CALIBRATING_SIZE, CALIBRATING_SIZE))
    product = jax.jit(lambda left: left @ left)
    return lambda: float(time_calls(product, matrix, num_repeats=5).finished_seconds.min())


def flops_per_example(model_name: str) -> float:
    """Operations of one example in one training step: 2 for each multiply-add of the products, nothing else counted.

    Forward, gradient of the kernel and gradient of the input, the last not for the first product. Convolutions count as
    sums over whole windows.

    >>> flops_per_example("dense") == 2 * (3 * (784 * 128 + 128 * 10) - 784 * 128)
    True
    """
    import flax.linen as nn
    import jax
    import jax.numpy as jnp

    from mnistlab.nets import layers, models

    counts: list[float] = []

    def count(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
        out = call(*args, **kwargs)
        module = context.module
        if context.method_name == "__call__" and isinstance(module, layers.Conv | layers.Dense):
            kernel: Any = module.get_variable("params", "kernel")
            counts.append(float(kernel.size) * float(np.prod(out.shape[1:-1])))
        return out

    model = models.make_model(model_name)
    with nn.intercept_methods(count):
        jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 28, 28, 1))))
    return 2 * (3 * sum(counts) - counts[0])


def ratios(
    found: Mapping[str, Mapping[str, Measured]], calibrating: Mapping[str, float]
) -> dict[str, dict[str, float]]:
    """Our seconds as multiples of each peer's, and of the calibrating product's: what another machine can be held to."""
    result: dict[str, dict[str, float]] = {}
    for workload, measured in found.items():
        for ours in measured:
            if ours.startswith(OURS):
                mine = measured[ours].median
                others = {name: mine / one.median for name, one in measured.items() if not name.startswith(OURS)}
                result[f"{workload}: {ours}"] = {**others, "matrix product": mine / calibrating[workload]}
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


def start_up(data_dir: str | None) -> dict[str, dict[str, float]]:
    """Experiment 1 from the start of its process, with a cold and a warm compile cache: seconds and peak memory."""
    found = {}
    with tempfile.TemporaryDirectory() as scratch:
        for temperature in ("cold", "warm"):
            command = [sys.executable, "-m", "experiments.lenet_vs_dense", "--variants=lenet5", "--epochs=1"]
            command += [
                "--progress=lines",
                "--noresume",
                f"--workdir={scratch}/run",
                f"--compile_cache={scratch}/cache",
            ]
            command += [f"--data_dir={data_dir}"] if data_dir else []
            start, first = time.perf_counter(), float("nan")
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
            assert process.stdout is not None
            for line in process.stdout:
                if "epoch 1/1" in line:
                    first = time.perf_counter() - start
            _, status, usage = os.wait4(process.pid, 0)
            if status:
                raise UserError("experiment 1 failed; run python -m experiments.lenet_vs_dense to see why")
            seconds = {"first_epoch_seconds": first, "total_seconds": time.perf_counter() - start}
            found[temperature] = {**seconds, "peak_bytes": usage.ru_maxrss * 1024.0}
    return found


def table(name: str, measured: Mapping[str, Measured], peak: float) -> report.Table:
    """One workload: a row a peer."""
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
                report.MISSING if np.isnan(best) else f"{one.median / best:.2f}",
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
    return report.Table(header, rows, caption)


def _print(name: str, measured: Mapping[str, Measured]) -> None:
    peak = float("nan")
    shown = table(name, measured, peak)
    keep = (0, 1, 2, 7, 8, 9)
    rows = [tuple(row[column] for column in keep) for row in shown.rows]
    print(f"\n{name}\n{report.text_table([shown.header[column] for column in keep], rows)}", flush=True)


def _write(
    folder: Path,
    found: Mapping[str, Mapping[str, Measured]],
    calibrating: Mapping[str, float],
    peak: float,
    start: Mapping[str, Mapping[str, float]],
    missing: Mapping[str, str],
) -> None:
    draw = report.draw_into(folder / "figures")
    seconds = {name: {peer: one.seconds for peer, one in measured.items()} for name, measured in found.items()}
    blocks: list[report.Block] = [
        report.Text(
            "Every peer trains the same network from the same weights on the same batches, in a process of its own. Rounds "
            f"of {FLAGS.round_gflop:g} GFLOP, at most an epoch, the peers by turns; medians, scaled to an epoch of 60,000. Measured peak of a "
            f"matrix product: {peak:.0f} GFLOP/s."
        ),
        *[
            report.Text(f"{name} was left out: {package} is not installed (`pip install -e .[bench]`).")
            for name, package in missing.items()
        ],
        report.Heading("At a glance"),
        draw(
            report.figure_durations(seconds, "seconds an epoch, for each seed"),
            "seconds",
            "Seconds an epoch for each seed: dots are rounds, bars medians.",
        ),
        report.Heading("By workload"),
        *[table(name, measured, peak) for name, measured in found.items()],
    ]
    if start:
        rows = [
            (f"{name} compile cache", f"{one['first_epoch_seconds']:.1f}", f"{one['peak_bytes'] / 1e6:,.0f}")
            for name, one in start.items()
        ]
        header = ("experiment 1, LeNet-5", "seconds to the end of the first epoch", "peak MB")
        blocks += [report.Heading("Start"), report.Table(header, rows, "From the start of the process, data cached")]
    blocks += [report.Heading("How to repeat it"), report.Command(common.command())]
    summary = {
        "experiment": NAME,
        "protocol": None,
        "data": {"name": "mnist"},
        "device": workdirs.provenance()["device"],
        "n_seeds": 1,
        "variants": {
            f"{name}: {peer}": {"metrics": {"epoch_seconds": history.summarize(one.seconds)}}
            | {key: getattr(one, key) for key in ("first_loss", "ready_seconds", "compile_seconds", "peak_bytes")}
            for name, measured in found.items()
            for peer, one in measured.items()
        },
        "ratios": ratios(found, calibrating),
        "peak_gflops": peak,
        "start": start,
        "claims": [],
        "seconds": {},
    }
    identity = {"experiment": NAME, "workloads": list(found), "rounds": FLAGS.rounds, "round_gflop": FLAGS.round_gflop}
    packages = {"torch": "torch", "keras": "keras", "tensorflow": "tensorflow"}
    identity |= {"peer_versions": {name: _version(package) for name, package in packages.items()}}
    title = "Seconds an epoch, side by side"
    workdirs.leave(folder, identity=identity, command=common.command(), title=title, blocks=blocks, summary=summary)


def _version(package: str) -> str | None:
    from importlib import metadata

    for name in (package, f"{package}-cpu"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            return metadata.version(name)
    return None


def _read_reference(path: Path) -> dict[str, dict[str, float]]:
    try:
        found = json.loads(files.read_text(path))["ratios"]
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


def _say(text: str) -> None:
    if FLAGS.progress != "none":
        print(text, file=sys.stderr, flush=True)


def define_flags() -> None:
    """Flags of this entry point beside the common ones."""
    common.define_run_flags()
    flags.DEFINE_list("workloads", [], f"Which; default all: {', '.join(WORKLOADS)}.")
    flags.DEFINE_list("peers", [], f"Which of {', '.join(PEERS)}; default {', '.join(DEFAULT_PEERS)}.")
    flags.DEFINE_integer("rounds", 5, "Timed rounds of each peer.")
    flags.DEFINE_float("round_gflop", 30.0, "Operations of a round, in GFLOP; a round is at most an epoch.")
    flags.DEFINE_bool("start_up", True, "Also time experiment 1 from the start of its process.")
    flags.DEFINE_string("against", None, "summary.json of an earlier run; exit status 1 where we have become slower.")
    flags.DEFINE_float("tolerance", 1.3, "How many times slower than --against, by every measure, is too slow.")


if __name__ == "__main__":
    define_flags()
    common.enter(main)
