"""Matrix products on every device: the time until the call returns against the time until the product is done.

python -m experiments.matmul_devices [--protocol=controlled] [--sizes=500,1000,5000,10000] [--rounds=10]

The source's accelerator times stop when its call returns, before the product is done. Both times are always measured;
`reported` compares the source's numbers with what its clock saw (an accelerator's dispatch; TensorFlow's product on the CPU
is done when its call returns), `controlled` with finished products. --limit_examples gives a quick look: sizes up to 1,000.
Flags of training are accepted and mean nothing here, but --seed, from which the matrices are drawn.
"""

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import flags

from experiments import common
from mnistlab import config
from mnistlab.analysis import departures, history, reported, stats
from mnistlab.analysis.claims import Checked, Claim
from mnistlab.comparison import experiment as engine
from mnistlab.comparison import workdirs
from mnistlab.comparison.experiment import Options
from mnistlab.errors import UserError
from mnistlab.report import report
from mnistlab.timing import time_calls

FLAGS = flags.FLAGS
NAME = "matmul_devices"
TITLE = "Matrix products: when the call returns, and when it is done"
SIZES = (500, 1000, 5000, 10000)
NUM_ROUNDS = 10
QUICK_SIZE = 1000  # the largest size of a quick look
CHECKED_SIZE = 1000  # results up to this size are checked against float64
GROWTH_SIZE = 1000  # growth is fitted over sizes from here on: below, fixed costs show
PEAK_SIZES = {"cpu": (1024, 2048), "accelerator": (2048, 4096, 8192, 16384)}
QUICK_PEAK_SIZES = (512, 1024)
MEMORY_SAFETY = 1.5  # what the matrices take, and half as much again, must be free

Product = Callable[[jax.Array, jax.Array], jax.Array]


class Row(NamedTuple):
    """One size on one device; arrays are empty where the product was not taken, and `note` says why."""

    device: str
    size: int
    dispatch_ms: np.ndarray  # float64 [rounds]
    finished_ms: np.ndarray  # float64 [rounds]
    error: float | None = None  # largest relative error against float64, over the elements of the last round's product
    note: str = ""


class Precision(NamedTuple):
    """What a device keeps of a product's operands."""

    fraction_bits: int  # of 23 in a float32
    name: str


def product(left: jax.Array, right: jax.Array) -> jax.Array:
    """left @ right, float32 [n, n]."""
    return left @ right


def measure(
    product: Product,
    devices: Mapping[str, jax.Device],
    size: int,
    num_rounds: int,
    seed: int,
    skip: Mapping[str, str] | None = None,
) -> list[Row]:
    """A fresh pair of uniform [0, 1) matrices each round, the same for every device; a row for each device.

    Making and moving the matrices is outside the timing, and so is one product before it, which compiles.

    Args:
      skip: device -> why it is left out at this size.
    """
    skipped = dict(skip or {})
    times: dict[str, list[Any]] = {name: [] for name in devices}
    errors: dict[str, float] = {}
    for number in range(num_rounds):
        if set(skipped) >= set(devices):
            break
        pair = random_pair(size, seed, number)
        for name, device in devices.items():
            if name in skipped:
                continue
            try:
                left, right = jax.block_until_ready(jax.device_put(pair, device))
                times[name].append(time_calls(product, left, right, num_warmup=int(number == 0), num_repeats=1))
                if size <= CHECKED_SIZE and number == num_rounds - 1:
                    errors[name] = largest_relative_error(np.asarray(product(left, right)), *pair)
            except jax.errors.JaxRuntimeError as error:
                skipped[name] = f"failed: {str(error).splitlines()[0][:80]}"
    rows = []
    for name in devices:
        timings = [] if name in skipped else times[name]
        dispatch = np.array([1e3 * timing.dispatch_seconds[0] for timing in timings])
        finished = np.array([1e3 * timing.finished_seconds[0] for timing in timings])
        rows.append(Row(name, size, dispatch, finished, errors.get(name), skipped.get(name, "")))
    return rows


def random_pair(size: int, seed: int, number: int) -> tuple[np.ndarray, np.ndarray]:
    """Two matrices float32 [size, size], uniform on [0, 1)."""
    stream = np.random.default_rng([seed, size, number])
    return stream.random((size, size), np.float32), stream.random((size, size), np.float32)


def largest_relative_error(result: np.ndarray, left: np.ndarray, right: np.ndarray) -> float:
    """max |C - AB| / AB over the elements, with AB in float64; the elements of A and B are not negative.

    >>> largest_relative_error(np.array([[2.002]]), np.array([[1.0]]), np.array([[2.0]]))  # doctest: +ELLIPSIS
    0.000999...
    """
    exact = left.astype(np.float64) @ right.astype(np.float64)
    return float(np.max(np.abs(result - exact) / exact))


def error_bound(size: int, fraction_bits: int) -> float:
    """What no element's relative error may exceed: 2 d + n u, with d = 2^-bits if operands are cut, else 0; u = 2^-24.

    Each operand is off by a factor in 1 ± d, and n u bounds a float32 sum of n terms that are not negative (Higham 2002,
    Accuracy and Stability of Numerical Algorithms, section 3.1). Terms in d u and u^2 are covered by 1 % on top.
    """
    cut = 2.0**-fraction_bits if fraction_bits < 23 else 0.0
    return 1.01 * (2 * cut + size * 2.0**-24)


def measured_precision(product: Product, device: jax.Device, size: int = 512) -> Precision:
    """Multiplies 1 + 2^-k by one and sees for which k it survives: 23 in float32, 10 in TensorFloat-32, 7 in bfloat16."""
    probe = np.ones((size, size), np.float32)
    bits = np.arange(1, 24)
    probe[:, :23] += np.float32(2.0) ** -bits.astype(np.float32)
    one = np.eye(size, dtype=np.float32)
    result = np.asarray(product(*jax.device_put((probe, one), device)))
    survived = int(bits[(result[:, :23] == probe[:, :23]).all(axis=0)].max(initial=0))
    names = {23: "float32", 10: "TensorFloat-32", 7: "bfloat16"}
    return Precision(survived, names.get(survived, f"{survived} bits of 23"))


def peak_gflops(product: Product, device: jax.Device, sizes: Sequence[int], seed: int) -> float:
    """The best rate of three finished products at any of `sizes` that fits, 2 n^3 / seconds."""
    best = 0.0
    for size in sizes:
        if does_not_fit(size, device):
            continue
        left, right = jax.block_until_ready(jax.device_put(random_pair(size, seed, 0), device))
        seconds = time_calls(product, left, right, num_repeats=3).finished_seconds.min()
        best = max(best, gflops(size, 1e3 * seconds))
    return best


def gflops(size: int, milliseconds: float) -> float:
    """2 n^3 operations over the time.

    >>> gflops(10_000, 2_000.0)
    1000.0
    """
    return 2.0 * size**3 / milliseconds / 1e6


def growth_exponents(sizes: Sequence[int], milliseconds: np.ndarray) -> np.ndarray:
    """Least-squares slope of log time by log size in every round: [sizes, rounds] -> [rounds].

    >>> growth_exponents([1000, 2000], np.array([[1.0], [8.0]])).round(6).tolist()
    [3.0]
    """
    return np.polyfit(np.log(np.asarray(sizes, np.float64)), np.log(milliseconds), 1)[0]


def free_bytes(device: jax.Device) -> int | None:
    """Free memory of an accelerator, None where it is not told."""
    counters = device.memory_stats() or {}
    return counters["bytes_limit"] - counters.get("bytes_in_use", 0) if "bytes_limit" in counters else None


def _host_free_bytes() -> int | None:
    with contextlib.suppress(OSError, ValueError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return 1024 * int(line.split()[1])
    return None


def does_not_fit(size: int, device: jax.Device) -> str:
    """Why matrices of this size are not taken on `device`; empty when they fit, or when nobody can tell.

    Both operands are drawn on the host; a device takes copies of them and the product.
    """
    on_host = 5 if device.platform == "cpu" else 2
    wanted = [("host", on_host, _host_free_bytes())]
    if device.platform != "cpu":
        wanted.append((device.platform, 3, free_bytes(device)))
    for place, num_matrices, free in wanted:
        needed = MEMORY_SAFETY * num_matrices * size * size * 4
        if free is not None and needed > free:
            return f"not taken: needs {needed / 2**30:.3g} GiB on the {place}, {free / 2**30:.3g} are free"
    return ""


def find_devices() -> dict[str, jax.Device]:
    """The first CPU and every accelerator of this process; the first of a platform is called by the platform's name."""
    found: dict[str, jax.Device] = {}
    with contextlib.suppress(RuntimeError):
        found["cpu"] = jax.local_devices(backend="cpu")[0]
    for device in jax.local_devices():
        if device.platform != "cpu":
            found[device.platform if device.platform not in found else f"{device.platform}{device.id}"] = device
    return found


# ---------------------------------------------------------------------------------------------------------------------
# The experiment.


def run(
    options: Options,
    sizes: Sequence[int] = SIZES,
    num_rounds: int = NUM_ROUNDS,
    display: engine.Display = engine.SILENT,
) -> dict[str, Any]:
    """Runs the experiment in options.workdir and returns what summary.json holds.

    Raises:
      UserError: an impossible option, a workdir that holds another run.
    """
    sizes, quick = _check(options, sizes, num_rounds)
    identity = {
        "experiment": NAME,
        "protocol": options.protocol,
        "seeds": [options.first_seed],
        "sizes": sizes,
        "num_rounds": num_rounds,
        "quick_look": quick,
    }
    with workdirs.locked(options.workdir):
        workdirs.prepare(options.workdir, identity, options.resume)
        return _measure(options, identity, display)


def _check(options: Options, sizes: Sequence[int], num_rounds: int) -> tuple[list[int], bool]:
    """The sizes to measure, ascending, and whether it is a quick look."""
    config.check_seeds(options.first_seed, 1)
    if not sizes or min(sizes) < 2:
        raise UserError(f"sizes are {','.join(map(str, sizes))!r}; expected whole numbers of at least 2")
    if num_rounds < 1:
        raise UserError(f"rounds is {num_rounds}; expected a whole number of at least 1")
    quick = options.overrides.get("limit_examples") is not None
    kept = sorted(size for size in set(sizes) if not quick or size <= QUICK_SIZE)
    if not kept:
        raise UserError(f"a quick look (limit_examples) keeps sizes up to {QUICK_SIZE}; none is left of {sizes}")
    return kept, quick


def _measure(options: Options, identity: Mapping[str, Any], display: engine.Display) -> dict[str, Any]:
    start = time.perf_counter()
    devices, multiply = find_devices(), jax.jit(product)
    seed, num_rounds, quick = options.first_seed, identity["num_rounds"], identity["quick_look"]
    rows: list[Row] = []
    for size in identity["sizes"]:
        skip = {name: reason for name, device in devices.items() if (reason := does_not_fit(size, device))}
        rows += measure(multiply, devices, size, num_rounds, seed, skip)
        for row in rows[-len(devices) :]:
            display.line(f"{row.device} {size}: {row.note or _spread(row.finished_ms) + ' ms finished'}")
    precision = {name: measured_precision(multiply, device) for name, device in devices.items()}
    peak = {}
    for name, device in devices.items():
        probe_sizes = QUICK_PEAK_SIZES if quick else PEAK_SIZES["cpu" if device.platform == "cpu" else "accelerator"]
        rates = [gflops(row.size, row.finished_ms.min()) for row in rows if row.device == name and row.finished_ms.size]
        peak[name] = max([peak_gflops(multiply, device, probe_sizes, seed), *rates])
    sizes = ", ".join(map(str, identity["sizes"]))
    departed = () if set(identity["sizes"]) == set(SIZES) else (f"sizes {', '.join(map(str, SIZES))} -> {sizes}",)
    checked = departures.of_changed_run(_claims(rows, options.protocol), departed)
    summary = {
        "experiment": NAME,
        "protocol": options.protocol,
        "departures": list(departed),
        "data": None,
        "device": ", ".join(f"{name}: {device.device_kind}" for name, device in devices.items()),
        "n_seeds": 1,
        "variants": {f"{row.device}_{row.size}": _entry(row, options.protocol, peak) for row in rows},
        "claims": [item.to_dict() for item in checked],
        "seconds": {"total": time.perf_counter() - start},
    }
    tables = [
        _time_table(rows, identity["sizes"], devices, options.protocol),
        _rate_table(rows, peak),
        _precision_table(rows, devices, precision),
        _claim_table(checked),
    ]
    for table in tables:
        display.line(f"\n{table.caption}\n{report.text_table(table.header, table.rows)}")
    blocks = _page(options, identity, rows, checked, devices, tables)
    if departed:
        consequence = (
            "The reported time of a size stands beside ours of that size; what was said of growth is not judged."
        )
        blocks.insert(0, report.Text(departures.notice(departed, consequence), notice=True))
    title = departures.title(TITLE, departed)
    workdirs.leave(
        options.workdir, identity=identity, command=options.command, title=title, blocks=blocks, summary=summary
    )
    display.line(f"\nreport: {options.workdir / 'report.html'}")
    return summary


def _compared_ms(row: Row, protocol: str) -> np.ndarray:
    """The time that a protocol sets beside the source's."""
    return row.dispatch_ms if protocol == "reported" and row.device != "cpu" else row.finished_ms


def _entry(row: Row, protocol: str, peak: Mapping[str, float]) -> dict[str, Any]:
    rates = np.array([gflops(row.size, milliseconds) for milliseconds in row.finished_ms])
    metrics = {
        "milliseconds": _compared_ms(row, protocol),
        "dispatch_milliseconds": row.dispatch_ms,
        "finished_milliseconds": row.finished_ms,
        "gflops": rates,
        "share_of_peak": rates / peak[row.device],
    }
    if row.error is not None:
        metrics["largest_relative_error"] = np.array([row.error])
    entry = {"params": 0, "metrics": {name: history.summarize(values) for name, values in metrics.items()}}
    return entry | ({"note": row.note} if row.note else {})


def _claims(rows: Sequence[Row], protocol: str) -> list[Checked]:
    """The source's two claims by the protocol's clock, and what dispatch alone would make of this machine's CPU."""
    accelerators = [row.device for row in rows if row.device != "cpu"]
    accelerator = accelerators[0] if accelerators else "gpu"
    clock = "dispatch" if protocol == "reported" else "finished"
    asked = [
        (Claim("a", "on the CPU time grows like n³", "growth exponent", "cpu", "about", 3.0, 0.3), "finished"),
        (Claim("b", "on the GPU time rises slightly", "growth exponent", accelerator, "<", 1.0), clock),
        (
            Claim("c", "on the CPU, dispatch rises slightly too", "growth exponent", "cpu", "<", 1.0, ours=True),
            "dispatch",
        ),
    ]
    compared = {claim.id: _growth(rows, claim, clock) for claim, clock in asked}
    judged = iter(stats.judge([found for found in compared.values() if isinstance(found, stats.Comparison)]))
    checked = []
    for claim, clock in asked:
        found = compared[claim.id]
        if isinstance(found, str):
            checked.append(Checked(claim, None, "not measured", found))
            continue
        found = next(judged)
        low, high = stats.mean_interval(np.array([found.mean_a])) if found.n < 2 else found.t_interval
        exponent = report.format_interval(found.mean_a, low + found.mean_b, high + found.mean_b)
        sentence = (
            f"{found.verdict}: {clock} time on {claim.left} grows like n to the power {exponent}, {found.n} rounds."
        )
        checked.append(Checked(claim, found, found.verdict, sentence))
    return checked


def _growth(rows: Sequence[Row], claim: Claim, clock: str) -> stats.Comparison | str:
    """The rounds' exponents against the claim's number, or why there are none."""
    of_device = [row for row in rows if row.device == claim.left]
    if not of_device:
        return f"Not measured: JAX finds no {claim.left} on this machine."
    taken = [row for row in of_device if row.size >= GROWTH_SIZE and row.finished_ms.size]
    if len(taken) < 2:
        return f"Not measured: growth needs two sizes of at least {GROWTH_SIZE}."
    times = np.stack([row.dispatch_ms if clock == "dispatch" else row.finished_ms for row in taken])
    exponents = growth_exponents([row.size for row in taken], times)
    bound, direction = float(claim.right), claim.direction
    if direction == "about":  # the nearer bound decides
        below = exponents.mean() <= bound
        bound, direction = (bound - claim.tolerance, ">") if below else (bound + claim.tolerance, "<")
    return stats.compare_with(exponents, bound, direction=direction)


def _spread(values: np.ndarray) -> str:
    """Median and range."""
    if not values.size:
        return report.MISSING
    middle, low, high = (report.format_significant(float(f(values))) for f in (np.median, np.min, np.max))
    return f"{middle} ({low} to {high})"


def _time_table(
    rows: Sequence[Row], sizes: Sequence[int], devices: Mapping[str, jax.Device], protocol: str
) -> report.Table:
    theirs = _reported_ms()
    cells: list[tuple[Any, ...]] = []
    for row in rows:
        number = theirs.get(row.device, {}).get(row.size, np.nan)
        ours = np.median(_compared_ms(row, protocol)) if row.finished_ms.size else np.nan
        numbers = (report.format_significant(value) for value in (number, ours / number))
        cells.append((row.size, row.device, _spread(row.dispatch_ms), row.note or _spread(row.finished_ms), *numbers))
    if set(devices) <= {"cpu"}:
        for size in sizes:
            told = report.format_significant(theirs["gpu"].get(size, np.nan))
            cells.append((size, "gpu", report.MISSING, "there is none", told, report.MISSING))
    header = ("size", "device", "dispatch, ms", "finished, ms", "reported, ms", "ours / reported")
    clock = "dispatch on an accelerator, finished on the CPU" if protocol == "reported" else "finished"
    caption = f"Milliseconds a product: median (smallest to largest of the rounds); the ratio is of the {clock}"
    return report.Table(header, sorted(cells), caption)


def _rate_table(rows: Sequence[Row], peak: Mapping[str, float]) -> report.Table:
    cells = []
    for row in rows:
        if row.finished_ms.size:
            rate, fastest = (gflops(row.size, float(f(row.finished_ms))) for f in (np.median, np.min))
            share = f"{100 * rate / peak[row.device]:.0f} %"
            dispatch = report.format_significant(gflops(row.size, float(np.median(row.dispatch_ms))))
            numbers = (report.format_significant(rate), report.format_significant(fastest), share, dispatch)
            cells.append((row.size, row.device, *numbers))
    header = ("size", "device", "GFLOP/s, median", "fastest", "of peak", "were dispatch all")
    peaks = ", ".join(f"{name} {report.format_significant(rate)}" for name, rate in peak.items())
    return report.Table(header, cells, f"2 n³ operations over the finished time; measured peak in GFLOP/s: {peaks}")


def _precision_table(
    rows: Sequence[Row], devices: Mapping[str, jax.Device], precision: Mapping[str, Precision]
) -> report.Table:
    cells = []
    for row in rows:
        if row.error is not None:
            bound = error_bound(row.size, precision[row.device].fraction_bits)
            within = "inside" if row.error <= bound else "outside"
            kind = devices[row.device].device_kind
            name = row.device if kind == row.device else f"{row.device} ({kind})"
            numbers = (f"{row.error:.1e}".replace("-", "−"), f"{bound:.1e}".replace("-", "−"))
            cells.append((row.size, name, precision[row.device].name, *numbers, within))
    header = ("size", "device", "operands, as measured", "largest relative error", "bound", "")
    return report.Table(header, cells, f"Products against float64 in NumPy, sizes up to {CHECKED_SIZE:,}")


def _claim_table(checked: Sequence[Checked]) -> report.Table:
    rows = [
        (c.claim.id, c.claim.text, "ours" if c.claim.ours else "source", c.verdict, c.sentence.rpartition(": ")[2])
        for c in checked
    ]
    return report.Table(("", "claim", "whose", "verdict", "measured"), rows, "Claims, by the growth of the time with n")


def _reported_table() -> report.Table:
    theirs = _reported_ms()
    rows = []
    for size in theirs["cpu"]:
        times = [theirs[device][size] for device in ("cpu", "gpu")]
        rows.append((size, *(report.format_significant(f) for ms in times for f in (ms, gflops(size, ms)))))
    header = ("size", "CPU, ms", "CPU, GFLOP/s", "GPU, ms", "GPU, GFLOP/s")
    return report.Table(header, rows, "What the reported times would mean")


def _reported_ms() -> dict[str, dict[int, float]]:
    """device -> size -> milliseconds."""
    times: dict[str, dict[int, float]] = {}
    for variant, metrics in reported.results(NAME).items():
        device, _, size = variant.partition("_")
        times.setdefault(device, {})[int(size)] = metrics["milliseconds"]
    return times


def _figure(rows: Sequence[Row]) -> Any:
    """Finished and dispatch times against size, the reported ones, and n^3 through the largest finished product."""
    theirs = _reported_ms()
    sizes = sorted({row.size for row in rows} | {size for times in theirs.values() for size in times})
    lines: dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]] = {}
    for device in dict.fromkeys(row.device for row in rows):
        taken = {row.size: row for row in rows if row.device == device and row.finished_ms.size}
        for clock in ("finished", "dispatch"):
            values = {size: getattr(row, f"{clock}_ms") for size, row in taken.items()}
            spread = [
                [f(values[size]) if size in values else np.nan for size in sizes] for f in (np.median, np.min, np.max)
            ]
            lines[f"{device} {clock}"] = tuple(map(np.array, spread))  # type: ignore[assignment]
        if device == "cpu" and taken:
            largest = max(taken)
            guide = np.median(taken[largest].finished_ms) * (np.array(sizes) / largest) ** 3
            lines["n³, through the largest"] = (guide,) * 3
    for device, times in theirs.items():
        lines[f"reported {device}"] = (np.array([times.get(size, np.nan) for size in sizes]),) * 3
    return report.figure_lines(
        sizes, lines, "size n", "milliseconds a product", log_x=True, log_y=True, band="smallest to largest round"
    )


def _page(
    options: Options,
    identity: Mapping[str, Any],
    rows: Sequence[Row],
    checked: Sequence[Checked],
    devices: Mapping[str, jax.Device],
    tables: Sequence[report.Table],
) -> list[report.Block]:
    time_table, rate_table, precision_table, claim_table = tables
    svg, _ = report.save_figure(_figure(rows), options.workdir / "figures", "times")
    setting = jax.config.values["jax_default_matmul_precision"] or "the backend's default"
    notes = []
    if set(devices) <= {"cpu"}:
        notes.append(
            "This machine has no accelerator that JAX can use: the rows of the GPU hold the reported times only."
        )
    if identity["quick_look"]:
        notes.append(f"Quick look: sizes over {QUICK_SIZE:,} were left out, and with them what shows growth.")
    largest = max(_reported_ms()["gpu"])
    impossible = gflops(largest, _reported_ms()["gpu"][largest]) / 1e6
    return [
        report.Text(
            "How does the time of a product of two square float32 matrices grow on a CPU and on an accelerator? A call "
            "only hands the work over (dispatch); the product is there later (finished). Matrices are uniform on [0, 1), a "
            f"fresh pair each of {identity['num_rounds']} rounds, the same for every device; drawing and moving them and "
            "a first product, which compiles, stay outside the timing. Source: document 001, part 2."
        ),
        report.Text(
            f"Protocol `{options.protocol}`. `reported` compares what the source's clock saw: on its accelerator the dispatch, "
            "on its CPU the finished product, since TensorFlow's call computes there before it returns. JAX's returns at "
            "once on both. `controlled` compares finished products."
        ),
        *(report.Text(note) for note in notes),
        report.Heading("Claims"),
        claim_table,
        report.Text(
            "The exponent is the slope of log time by log n over the sizes from "
            f'{GROWTH_SIZE:,} on, one slope a round, with its 95 % interval over the rounds. "Like n³" is taken as 3 ± 0.3, '
            '"slightly" as less than in proportion to n, though the operations grow a thousandfold when n grows tenfold.'
        ),
        report.Heading("Times"),
        time_table,
        report.Picture(
            svg,
            "Time by size, both axes logarithmic: a finished product follows n³, a dispatch stays nearly flat.",
            "finished and dispatch times by matrix size, ours and the reported ones",
        ),
        report.Heading("Rates"),
        rate_table,
        report.Text(
            "The peak is the best rate of any single product on that device, of these sizes and of a few powers of two."
        ),
        _reported_table(),
        report.Text(
            f"The reported {_reported_ms()['gpu'][largest]:.3f} ms for n = {largest:,} would be {impossible:.1f} PFLOP/s, ten times "
            "what an H100 does in TensorFloat-32: the clock was stopped before the product was done."
        ),
        report.Heading("Precision"),
        precision_table,
        report.Text(
            f"Precision asked for: {setting} (--matmul_precision). By default JAX multiplies in float32 on a CPU, in "
            "TensorFloat-32 on a recent NVIDIA GPU and in bfloat16 on a TPU; the table says what was found by multiplying 1 + "
            "2^-k by 1. The bound is 2 d + n u, with d the cut of an operand and u = 2^-24 for the float32 sum."
        ),
        report.Heading("How to repeat it"),
        report.Command(options.command or f"python -m experiments.{NAME}"),
    ]


def _define_flags() -> None:
    common.define_run_flags()
    common.define_training_flags()
    flags.DEFINE_list("sizes", [str(size) for size in SIZES], "Sizes of the square matrices.")
    flags.DEFINE_integer("rounds", NUM_ROUNDS, "Products of each size on each device.")


def _main() -> None:
    try:
        sizes = [int(text) for text in FLAGS.sizes]
    except ValueError as error:
        raise UserError(f"sizes are {','.join(FLAGS.sizes)!r}; expected whole numbers, such as 500,1000") from error
    options = common.options(NAME)
    run(options, sizes, FLAGS.rounds, common.display(FLAGS.progress))


if __name__ == "__main__":
    _define_flags()
    common.enter(_main)
