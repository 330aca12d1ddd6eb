"""The experiment: what is measured, the claims on its growth, and the page."""

import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from mnistlab import config
from mnistlab.analysis import claims, departures, history, reported, stats
from mnistlab.analysis.claims import Checked, Claim
from mnistlab.comparison import saved, show, workdirs
from mnistlab.comparison.run import Log, silent
from mnistlab.comparison.spec import Options
from mnistlab.errors import UserError
from mnistlab.report import answer, figures, page, sections, text

from . import products
from .products import Precision, Row, does_not_fit, gflops

NAME = "matmul_devices"
TITLE = "Matrix products: when the call returns, and when it is done"
SIZES = (500, 1000, 5000, 10000)
NUM_ROUNDS = 10
QUICK_SIZE = 1000  # the largest size of a quick look
GROWTH_SIZE = 1000  # growth is fitted over sizes from here on: below, fixed costs show
PEAK_SIZES = {"cpu": (1024, 2048), "accelerator": (2048, 4096, 8192, 16384)}
QUICK_PEAK_SIZES = (512, 1024)


def growth_exponents(sizes: Sequence[int], milliseconds: np.ndarray) -> np.ndarray:
    """Least-squares slope of log time by log size in every round: [sizes, rounds] -> [rounds].

    >>> growth_exponents([1000, 2000], np.array([[1.0], [8.0]])).round(6).tolist()
    [3.0]
    """
    return np.polyfit(np.log(np.asarray(sizes, np.float64)), np.log(milliseconds), 1)[0]


def run(
    options: Options,
    sizes: Sequence[int] = SIZES,
    num_rounds: int = NUM_ROUNDS,
    log: Log = silent,
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
        if options.resume and (options.workdir / "summary.json").exists():
            log("\n".join(show.lines(options.workdir)))
            return saved.read_summary(options.workdir)
        return _leave(options, identity, _measure(options.first_seed, identity, log), log)


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


class Measured(NamedTuple):
    """What a run timed."""

    devices: Mapping[str, jax.Device]
    rows: Sequence[Row]
    precision: Mapping[str, Precision]  # by device
    peak: Mapping[str, float]  # by device, GFLOP/s
    seconds: float


def _measure(seed: int, identity: Mapping[str, Any], log: Log) -> Measured:
    """Times every size on every device that it fits."""
    start = time.perf_counter()
    devices, multiply = products.find_devices(), jax.jit(products.product)
    rows: list[Row] = []
    for size in identity["sizes"]:
        skip = {name: reason for name, device in devices.items() if (reason := does_not_fit(size, device))}
        rows += products.measure(multiply, devices, size, identity["num_rounds"], seed, skip)
        for row in rows[-len(devices) :]:
            log(f"{row.device} {size}: {row.note or _spread(row.finished_ms) + ' ms finished'}")
    precision = {name: products.measured_precision(multiply, device) for name, device in devices.items()}
    peak = {}
    for name, device in devices.items():
        kind = "cpu" if device.platform == "cpu" else "accelerator"
        sizes = QUICK_PEAK_SIZES if identity["quick_look"] else PEAK_SIZES[kind]
        rates = [gflops(row.size, row.finished_ms.min()) for row in rows if row.device == name and row.finished_ms.size]
        peak[name] = max([products.peak_gflops(multiply, device, sizes, seed), *rates])
    return Measured(devices, rows, precision, peak, time.perf_counter() - start)


def _leave(options: Options, identity: Mapping[str, Any], measured: Measured, log: Log) -> dict[str, Any]:
    """Writes summary.json and report.html; says the tables."""
    devices, rows = measured.devices, measured.rows
    sizes = ", ".join(map(str, identity["sizes"]))
    departed = () if set(identity["sizes"]) == set(SIZES) else (f"sizes {', '.join(map(str, SIZES))} -> {sizes}",)
    checked = departures.of_changed_run(_claims(rows, options.protocol), departed)
    said = answer.of_measured(checked)
    summary = {
        "answer": said,
        "experiment": NAME,
        "protocol": options.protocol,
        "departures": list(departed),
        "data": None,
        "device": ", ".join(f"{name}: {device.device_kind}" for name, device in devices.items()),
        "n_seeds": 1,
        "variants": {f"{row.device}_{row.size}": _entry(row, options.protocol, measured.peak) for row in rows},
        "claims": [item.to_dict() for item in checked],
        "seconds": {"total": measured.seconds},
    }
    tables = [
        _time_table(rows, identity["sizes"], devices, options.protocol),
        _rate_table(rows, measured.peak),
        _precision_table(rows, devices, measured.precision),
        sections.measured_table(checked, "Claims, by the growth of the time with n"),
    ]
    for table in tables:
        log(f"\n{table.as_text()}")
    beside = "The reported time of a size stands beside ours of that size; what was said of growth is not judged."
    summary = workdirs.leave(
        options.workdir,
        identity=identity,
        command=options.command,
        title=departures.title(TITLE, departed),
        blocks=[
            page.Answer(said),
            *sections.notices(departed, {}, beside),
            *_page(options, identity, rows, devices, tables),
        ],
        summary=summary,
    )
    log(f"\nreport: {options.workdir / 'report.html'}")
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
            Claim(
                "c", "on the CPU, dispatch time too grows less than n", "growth exponent", "cpu", "<", 1.0, ours=True
            ),
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
        low, high = found.interval
        exponent = text.format_interval(found.mean_a, low + found.mean_b, high + found.mean_b)
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
    return claims.compare(claim, exponents, np.full(len(exponents), float(claim.right)))


def _spread(values: np.ndarray) -> str:
    """Median and range."""
    if not values.size:
        return text.MISSING
    middle, low, high = (text.format_significant(float(f(values))) for f in (np.median, np.min, np.max))
    return f"{middle} ({low} to {high})"


def _time_table(
    rows: Sequence[Row], sizes: Sequence[int], devices: Mapping[str, jax.Device], protocol: str
) -> page.Table:
    theirs = _reported_ms()
    cells: list[tuple[Any, ...]] = []
    for row in rows:
        number = theirs.get(row.device, {}).get(row.size, np.nan)
        ours = np.median(_compared_ms(row, protocol)) if row.finished_ms.size else np.nan
        numbers = (text.format_significant(value) for value in (number, ours / number))
        cells.append((row.size, row.device, _spread(row.dispatch_ms), row.note or _spread(row.finished_ms), *numbers))
    if set(devices) <= {"cpu"}:
        for size in sizes:
            told = text.format_significant(theirs["gpu"].get(size, np.nan))
            cells.append((size, "gpu", text.MISSING, "there is none", told, text.MISSING))
    header = ("size", "device", "dispatch, ms", "finished, ms", "reported, ms", "ours / reported")
    clock = "dispatch on an accelerator, finished on the CPU" if protocol == "reported" else "finished"
    caption = f"Milliseconds a product: median (smallest to largest of the rounds); the ratio is of the {clock}"
    return page.Table(header, sorted(cells), caption)


def _rate_table(rows: Sequence[Row], peak: Mapping[str, float]) -> page.Table:
    cells = []
    for row in rows:
        if row.finished_ms.size:
            rate, fastest = (gflops(row.size, float(f(row.finished_ms))) for f in (np.median, np.min))
            share = f"{100 * rate / peak[row.device]:.0f} %"
            dispatch = text.format_significant(gflops(row.size, float(np.median(row.dispatch_ms))))
            numbers = (text.format_significant(rate), text.format_significant(fastest), share, dispatch)
            cells.append((row.size, row.device, *numbers))
    header = ("size", "device", "GFLOP/s, median", "fastest", "of peak", "were dispatch all")
    peaks = ", ".join(f"{name} {text.format_significant(rate)}" for name, rate in peak.items())
    return page.Table(header, cells, f"2 n³ operations over the finished time; measured peak in GFLOP/s: {peaks}")


def _precision_table(
    rows: Sequence[Row], devices: Mapping[str, jax.Device], precision: Mapping[str, Precision]
) -> page.Table:
    cells = []
    for row in rows:
        if row.error is not None:
            bound = products.error_bound(row.size, precision[row.device].fraction_bits)
            within = "inside" if row.error <= bound else "outside"
            kind = devices[row.device].device_kind
            name = row.device if kind == row.device else f"{row.device} ({kind})"
            numbers = map(text.format_error, (row.error, bound))
            cells.append((row.size, name, precision[row.device].name, *numbers, within))
    header = ("size", "device", "operands, as measured", "largest relative error", "bound", "")
    return page.Table(header, cells, f"Products against float64 in NumPy, sizes up to {products.CHECKED_SIZE:,}")


def _reported_table() -> page.Table:
    theirs = _reported_ms()
    rows = []
    for size in theirs["cpu"]:
        times = [theirs[device][size] for device in ("cpu", "gpu")]
        rows.append((size, *(text.format_significant(f) for ms in times for f in (ms, gflops(size, ms)))))
    header = ("size", "CPU, ms", "CPU, GFLOP/s", "GPU, ms", "GPU, GFLOP/s")
    return page.Table(header, rows, "What the reported times would mean")


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
    return figures.lines(sizes, lines, "size n", "milliseconds a product", log="xy", band="smallest to largest round")


def _page(
    options: Options,
    identity: Mapping[str, Any],
    rows: Sequence[Row],
    devices: Mapping[str, jax.Device],
    tables: Sequence[page.Table],
) -> list[page.Block]:
    time_table, rate_table, precision_table, claim_table = tables
    picture = page.draw_into(options.workdir / "figures")(
        _figure(rows),
        "times",
        "Time by size, both axes logarithmic: a finished product follows n³, a dispatch stays nearly flat.",
        "finished and dispatch times by matrix size, ours and the reported ones",
    )
    return [
        *_question(options, identity, devices),
        page.Heading("Claims"),
        claim_table,
        page.Text(
            "The exponent is the slope of log time by log n over the sizes from "
            f'{GROWTH_SIZE:,} on, one slope a round, with its 95 % interval over the rounds. "Like n³" is taken as 3 ± 0.3, '
            '"slightly" as less than in proportion to n, though the operations grow a thousandfold when n grows tenfold.'
        ),
        page.Heading("Times"),
        time_table,
        picture,
        *_rates(rate_table),
        *_precision(precision_table),
        *page.how_to_repeat(options.command or f"python -m experiments.{NAME}"),
    ]


def _question(options: Options, identity: Mapping[str, Any], devices: Mapping[str, jax.Device]) -> list[page.Block]:
    notes = []
    if set(devices) <= {"cpu"}:
        notes.append(
            "This machine has no accelerator that JAX can use: the rows of the GPU hold the reported times only."
        )
    if identity["quick_look"]:
        notes.append(f"Quick look: sizes over {QUICK_SIZE:,} were left out, and with them what shows growth.")
    return [
        page.Text(
            "How does the time of a product of two square float32 matrices grow on a CPU and on an accelerator? A call "
            "only hands the work over (dispatch); the product is there later (finished). Matrices are uniform on [0, 1), a "
            f"fresh pair each of {identity['num_rounds']} rounds, the same for every device; drawing and moving them and "
            "a first product, which compiles, stay outside the timing. Source: document 001, part 2."
        ),
        page.Text(
            f"Protocol `{options.protocol}`. `reported` compares what the source's clock saw: on its accelerator the dispatch, "
            "on its CPU the finished product, since TensorFlow's call computes there before it returns. JAX's returns at "
            "once on both. `controlled` compares finished products."
        ),
        *(page.Text(note) for note in notes),
    ]


def _rates(rate_table: page.Table) -> list[page.Block]:
    theirs = _reported_ms()["gpu"]
    largest = max(theirs)
    impossible = gflops(largest, theirs[largest]) / 1e6
    return [
        page.Heading("Rates"),
        rate_table,
        page.Text(
            "The peak is the best rate of any single product on that device, of these sizes and of a few powers of two."
        ),
        _reported_table(),
        page.Text(
            f"The reported {theirs[largest]:.3f} ms for n = {largest:,} would be {impossible:.1f} PFLOP/s, ten times "
            "what an H100 does in TensorFloat-32: the clock was stopped before the product was done."
        ),
    ]


def _precision(precision_table: page.Table) -> list[page.Block]:
    setting = jax.config.values["jax_default_matmul_precision"] or "the backend's default"
    return [
        page.Heading("Precision"),
        precision_table,
        page.Text(
            f"Precision asked for: {setting} (--matmul_precision). By default JAX multiplies in float32 on a CPU, in "
            "TensorFloat-32 on a recent NVIDIA GPU and in bfloat16 on a TPU; the table says what was found by multiplying 1 + "
            "2^-k by 1. The bound is 2 d + n u, with d the cut of an operand and u = 2^-24 for the float32 sum."
        ),
    ]
