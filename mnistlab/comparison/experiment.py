"""What is common to all comparisons: train the variants, check the claims, leave the files."""

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from mnistlab import config
from mnistlab.analysis import claims, departures, history, reported
from mnistlab.analysis.claims import Checked, Claim
from mnistlab.comparison import workdirs
from mnistlab.config import AugmentConfig, TrainConfig
from mnistlab.data import batches, datasets
from mnistlab.data.datasets import Dataset
from mnistlab.devices import parallel
from mnistlab.devices.parallel import Layout
from mnistlab.errors import UserError
from mnistlab.files import write_atomic
from mnistlab.nets import models
from mnistlab.report import evidence, report
from mnistlab.report.report import Draw
from mnistlab.training import checkpoint, divergence, step, tensorboard, train
from mnistlab.training.crowds import Sharing
from mnistlab.training.step import Program
from mnistlab.training.train import Epoch, Result

PROTOCOLS = ("reported", "controlled")


@dataclasses.dataclass(frozen=True)
class Variant:
    """One row of a comparison."""

    config: TrainConfig
    description: str = ""
    curve: str | None = None  # the reported curve drawn behind ours, a file in source_numbers/
    program: Callable[[TrainConfig], Program] | None = None  # in place of what the config names
    learning_rates: tuple[float, ...] = ()  # the one with the best mean validation accuracy is taken
    beside: bool = False  # run only when named, or with variants=("all",)


class Outcome(NamedTuple):
    """What an experiment's own figures and tables are made of."""

    results: dict[str, Result]  # variant -> runs; a swept variant once for each point of the grid
    searched: dict[str, dict[float, Result]]  # variant -> learning rate -> runs, where one was chosen
    dataset: Dataset
    predictions: dict[str, np.ndarray]  # variant -> int [test examples], of the first seed
    seconds: dict[str, dict[str, float]]  # trained variant -> wall seconds of compiling, training, evaluating
    protocol: str
    departures: tuple[str, ...] = ()  # in what the run departs from it; empty: it is the protocol


Extra = Callable[[Outcome, Draw], tuple[list[report.Block], dict[str, Any]]]
"""An experiment's own blocks for the page and entries for summary.json."""


@dataclasses.dataclass(frozen=True)
class Experiment:
    """A comparison of trained networks: two protocols, the claims, and what it shows beyond what all show."""

    name: str
    title: str
    source: str
    question: str  # what is asked, in a sentence or two
    quirks: str  # what "reported" keeps of the source and "controlled" mends
    reported: Mapping[str, Variant]
    controlled: Mapping[str, Variant]
    claims: tuple[Claim, ...]
    extra: Extra | None = None  # more blocks for the page and more entries for summary.json


@dataclasses.dataclass(frozen=True)
class Options:
    """What a caller may ask of an experiment; None keeps the experiment's own value."""

    workdir: Path
    protocol: str = "reported"
    num_seeds: int = 1
    first_seed: int = 0
    variants: tuple[str, ...] = ()  # empty: all
    overrides: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # fields of TrainConfig and OptimConfig
    sweep: Mapping[str, tuple[float, ...]] = dataclasses.field(default_factory=dict)
    data_dir: Path | None = None
    resume: bool = True
    tensorboard: bool = False
    debug_nans: bool = False  # end at the first NaN or infinity and say what made it
    crowd_size: int | None = None
    num_devices: int | None = None  # of each process; None: all
    strategy: str = "auto"  # of parallel.STRATEGIES
    stream_megabytes: int | None = None  # of the dataset on the devices at a time; None: all of it where it fits
    command: str = ""  # how to repeat it
    after_epoch: Callable[[], None] = lambda: None  # called when an epoch is kept; may raise to end the run


class Display(NamedTuple):
    """Where progress goes."""

    line: Callable[[str], None]
    begin: Callable[[str, int], None]  # variant, number of epochs to come
    epoch: Callable[[str, Epoch], None]
    end: Callable[[], None]


SILENT = Display(lambda line: None, lambda variant, num_epochs: None, lambda variant, epoch: None, lambda: None)


def run(experiment: Experiment, options: Options, display: Display = SILENT) -> dict[str, Any]:
    """Runs an experiment, or what is missing of it, and returns what summary.json holds.

    Raises:
      UserError: an impossible option (before any data is loaded), a workdir that holds another run, damaged files.
    """
    variants = resolve(experiment, options)
    seeds = config.check_seeds(options.first_seed, options.num_seeds)
    layout = parallel.make_layout(options.num_devices, options.strategy)
    if not parallel.is_first():
        _follow(variants, seeds, options, layout)
        return {}
    departed = departures_of(experiment, options, variants)
    with workdirs.locked(options.workdir):
        identity = {
            "experiment": experiment.name,
            "protocol": options.protocol,
            "seeds": list(seeds),
            "sweep": {name: list(values) for name, values in options.sweep.items()},
            "variants": {name: _identity(variant) for name, variant in variants.items()},
        }
        if options.resume:  # refused before data is loaded
            workdirs.check(options.workdir, identity)
        dataset = parallel.first_then_others(lambda: _load(variants, options.data_dir))
        for variant in variants.values():  # bad limits end here, before anything is written or replaced
            batches.split_parts(variant.config, len(dataset.train.label), len(dataset.test.label), seeds[0])
        workdirs.prepare(options.workdir, identity, options.resume)
        workdirs.write_config(options.workdir, identity, options.command, dataset)
        if departed:
            display.line(departures.notice(departed))
        _say_layers(variants, dataset, display)
        outcome = _train(variants, seeds, options, layout, dataset, display)._replace(departures=departed)
        return _leave(experiment, variants, options, outcome, display)


def _identity(variant: Variant) -> dict[str, Any]:
    return {"config": dataclasses.asdict(variant.config), "learning_rates": variant.learning_rates}


def resolve(experiment: Experiment, options: Options) -> dict[str, Variant]:
    """The variants to run, with the options' overrides in them.

    Raises:
      UserError: an unknown protocol, variant or setting, or an impossible value.
    """
    if options.protocol not in PROTOCOLS:
        raise UserError(f"protocol is {options.protocol!r}; expected one of {', '.join(PROTOCOLS)}")
    known = experiment.reported if options.protocol == "reported" else experiment.controlled
    names = options.variants or tuple(name for name, variant in known.items() if not variant.beside)
    names = tuple(known) if names == ("all",) else names
    resolved = {}
    for name in names:
        if name not in known:
            raise UserError(
                f"unknown variant {name!r} (protocol {options.protocol}); expected some of {', '.join(known)}"
            )
        variant = known[name]
        train_config = override(variant.config, options.overrides)
        if variant.program is not None and train_config.augment != AugmentConfig():
            raise UserError(f"variant {name} has a program of its own, which cannot augment; leave it or --augment out")
        rates = (
            () if "learning_rate" in options.overrides or "learning_rate" in options.sweep else variant.learning_rates
        )
        config.check_sweep(options.sweep, config.check(train_config))
        resolved[name] = dataclasses.replace(variant, config=train_config, learning_rates=rates)
    return resolved


def departures_of(experiment: Experiment, options: Options, variants: Mapping[str, Variant]) -> tuple[str, ...]:
    """In what the resolved `variants` and the options depart from the protocol, in words."""
    protocol = experiment.reported if options.protocol == "reported" else experiment.controlled
    own, run = (
        {name: departures.Setup(table[name].config, table[name].learning_rates) for name in variants}
        for table in (protocol, variants)
    )
    return departures.between(own, run, options.sweep)


def override(train_config: TrainConfig, overrides: Mapping[str, Any]) -> TrainConfig:
    """`train_config` with fields of it or of its optimiser replaced; "convolution" is the form of the model's."""
    settings = dict(overrides)
    if "convolution" in settings:
        options = dict(train_config.model_options) | {"form": settings.pop("convolution")}
        train_config = dataclasses.replace(train_config, model_options=tuple(options.items()))
    if "optimizer" in settings:  # first: its defaults give way to the other overrides
        train_config = dataclasses.replace(train_config, optim=config.optim_default(settings.pop("optimizer")))
    for name, value in settings.items():
        train_config = config.with_setting(train_config, name, value)
    return train_config


def _load(variants: Mapping[str, Variant], data_dir: Path | None) -> Dataset:
    wanted = {(variant.config.dataset, variant.config.order) for variant in variants.values()}
    if len(wanted) != 1:
        raise UserError("the variants of a comparison must share a dataset and its order")
    name, order = wanted.pop()
    return datasets.load(name, data_dir=data_dir, order=order)


def _say_layers(variants: Mapping[str, Variant], dataset: Dataset, display: Display) -> None:
    for table in layer_tables(variants, dataset).values():
        display.line(f"\n{table.caption}")
        display.line(report.text_table(table.header, table.rows))


def layer_tables(variants: Mapping[str, Variant], dataset: Dataset) -> dict[str, report.Table]:
    """One table for each different network, captioned with the variants that use it."""
    tables: dict[str, report.Table] = {}
    users: dict[Any, list[str]] = {}
    for name, variant in variants.items():
        users.setdefault((variant.config.model, variant.config.model_options), []).append(name)
    for (model, options), names in users.items():
        network = models.make_model(model, **dict(options))
        rows = models.layer_table(network, dataset.train.image.shape[1:])
        total, trainable = sum(row.parameters for row in rows), sum(row.trainable for row in rows)
        rest = f", of which {trainable:,} are trained and the rest are moving averages" if trainable < total else ""
        lines = [(row.name, row.layer, "×".join(map(str, row.output_shape)), row.parameters) for row in rows]
        caption = f"{', '.join(names)}: the network {model}, {total:,} parameters{rest}"
        tables[names[0]] = report.Table(("name", "layer", "output shape", "parameters"), lines, caption)
    return tables


def _train(
    variants: Mapping[str, Variant],
    seeds: Sequence[int],
    options: Options,
    layout: Layout | None,
    dataset: Dataset,
    display: Display,
) -> Outcome:
    results: dict[str, Result] = {}
    searched: dict[str, dict[float, Result]] = {}
    predictions, seconds = {}, {}
    for name, variant in variants.items():
        result = _train_variant(name, variant, seeds, options, layout, dataset, display)
        seconds[name] = result.seconds
        if variant.learning_rates:
            by_rate = _by_learning_rate(result)
            searched[name] = by_rate
            rate = best_learning_rate(by_rate)
            result = by_rate[rate]
            display.line(
                f"{name}: learning rate {rate:g} chosen by mean validation accuracy from {variant.learning_rates}"
            )
        predict = jax.jit(_program(variant, dataset).predict)
        for label, part in history.by_settings(name, result).items():
            results[label] = part
            predictions[label] = _predictions(predict, part, dataset)
        write_atomic(options.workdir / "history.csv", history.to_csv(results))
    return Outcome(results, searched, dataset, predictions, seconds, options.protocol)


def _follow(variants: Mapping[str, Variant], seeds: Sequence[int], options: Options, layout: Layout | None) -> None:
    """What a process that is not the first does of `run`: its part of the computing."""
    dataset = parallel.first_then_others(lambda: _load(variants, options.data_dir))
    for name, variant in variants.items():
        folder = options.workdir / "checkpoints" / name
        _train_parts(variant, seeds, options, layout, dataset, folder, on_epoch=lambda _: options.after_epoch())


def _sweep(variant: Variant, options: Options) -> dict[str, tuple[float, ...]]:
    return {**options.sweep, **({"learning_rate": variant.learning_rates} if variant.learning_rates else {})}


def _train_variant(
    name: str,
    variant: Variant,
    seeds: Sequence[int],
    options: Options,
    layout: Layout | None,
    dataset: Dataset,
    display: Display,
) -> Result:
    folder = options.workdir / "checkpoints" / name
    keepers: list[checkpoint.Keeper] = []
    watches: list[divergence.Watch] = []
    events = tensorboard.EventWriter(options.workdir / "tb" / name) if options.tensorboard else None

    def keeper(crowd: str) -> train.Keeper:
        keepers.append(checkpoint.Keeper(folder / "training" / crowd))
        if not options.debug_nans:
            return keepers[-1]
        watches.append(divergence.Watch(keepers[-1], variant.config, dataset, _program(variant, dataset)))
        return watches[-1]

    def on_epoch(epoch: Epoch) -> None:
        if watches:
            watches[-1].on_epoch(epoch)
        display.epoch(name, epoch)
        if events is not None:
            events.epoch(epoch)
        options.after_epoch()

    def on_sharing(sharing: Sharing) -> None:
        if sharing.num_runs > 1:
            display.line(f"{name}: {sharing.text()}")

    display.begin(name, variant.config.num_epochs)
    try:
        result = _train_parts(variant, seeds, options, layout, dataset, folder, on_epoch, on_sharing, keeper)
    finally:
        for opened in keepers:
            opened.close()
        display.end()
    for kind, state in (("last", result.state), ("best", result.best)):
        checkpoint.save_once(folder / kind, _weights(state))
    # All that follows, predictions and pictures, is of the weights as they were saved and read again.
    result = result._replace(state=restore_weights(folder / "last", result.state))
    if events is not None:
        predicted = _predictions(jax.jit(_program(variant, dataset).predict), result, dataset)
        figure = _predictions_figure(result, predicted, dataset)
        events.image("predictions", report.pixels(figure), variant.config.num_epochs)
        events.close()
    return result


class Part(NamedTuple):
    """Seeds that began together; a run that was given more seeds later has several parts."""

    num_seeds: int
    crowd_size: int | None  # None: not chosen yet


def _train_parts(
    variant: Variant,
    seeds: Sequence[int],
    options: Options,
    layout: Layout | None,
    dataset: Dataset,
    folder: Path,
    on_epoch: Callable[[Epoch], None],
    on_sharing: Callable[[Sharing], None] = lambda sharing: None,
    keeper: Callable[[str], train.Keeper] | None = None,
) -> Result:
    """Trains the seeds in the parts in which they began: crowds of another size would not find what was kept."""
    path = folder / "training" / "parts.json"
    kept = parallel.from_first(_kept_parts(path, len(seeds)) if parallel.is_first() else None)
    parts = [Part(*map(int, numbers)) for numbers in kept]
    num_missing = len(seeds) - sum(part.num_seeds for part in parts)
    if num_missing:
        parts.append(Part(num_missing, options.crowd_size))

    def on_chosen(sharing: Sharing) -> None:
        if num_missing and number == len(parts) - 1 and parallel.is_first():
            write_atomic(path, json.dumps([*kept, Part(num_missing, sharing.crowd_size)]) + "\n")
        on_sharing(sharing)

    results = []
    for number, part in enumerate(parts):
        first = sum(before.num_seeds for before in parts[:number])
        results.append(
            train.run(
                variant.config,
                dataset,
                seeds[first : first + part.num_seeds],
                program=variant.program(variant.config) if variant.program else None,
                sweep=_sweep(variant, options),
                crowd_size=part.crowd_size,
                layout=layout,
                stream_megabytes=options.stream_megabytes,
                keeper=keeper,
                on_sharing=on_chosen,
                on_epoch=on_epoch,
            )
        )
    return train.concatenate(results)


def _kept_parts(path: Path, num_seeds: int) -> list[Part]:
    """The parts in which training began, of `num_seeds` at most.

    Raises:
      UserError: the file is damaged.
    """
    if not path.exists():
        return []
    try:
        numbers = [(int(seeds), int(crowd_size)) for seeds, crowd_size in json.loads(path.read_text())]
        if min(min(pair) for pair in numbers) < 1 or sum(seeds for seeds, _ in numbers) > num_seeds:
            raise ValueError(f"{numbers} cannot be, of {num_seeds} seeds")
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        raise UserError(f"{path} is damaged ({error!s:.200}); use --noresume to start again") from error
    return [Part(*pair) for pair in numbers]


def _program(variant: Variant, dataset: Dataset) -> Program:
    return variant.program(variant.config) if variant.program else train.program_of(variant.config, dataset)


def _weights(state: step.TrainState) -> dict[str, Any]:
    return {"params": state.params, "model_state": state.model_state, "rng": state.rng, "step": state.step}


def restore_weights(folder: Path, like: step.TrainState) -> step.TrainState:
    """The state that an experiment left in `checkpoints/<variant>/last` or `best`, every run on the first axis."""
    return like._replace(**checkpoint.restore_once(folder, _weights(like)))


def _by_learning_rate(result: Result) -> dict[float, Result]:
    rates = [run.settings["learning_rate"] for run in result.runs]
    return {
        rate: train.select(result, [n for n, other in enumerate(rates) if other == rate])
        for rate in dict.fromkeys(rates)
    }


def best_learning_rate(by_rate: Mapping[float, Result]) -> float:
    """The rate with the highest mean validation accuracy of the final weights; a diverged run counts as 0."""
    means = {rate: np.nan_to_num(result.metrics["val_accuracy"]).mean() for rate, result in by_rate.items()}
    return max(means, key=lambda rate: means[rate])


def _predictions(predict: step.Predict, result: Result, dataset: Dataset) -> np.ndarray:
    """What the first run says of its test examples, int [n]."""
    image, _ = test_examples(result, dataset)
    first = jax.tree.map(lambda leaf: leaf[0], result.state)
    size = train.EVAL_BATCH_SIZE
    batch_starts = range(0, len(image), size)
    logits = [predict(first, jax.numpy.asarray(image[start : start + size])) for start in batch_starts]
    return np.argmax(np.concatenate(logits), axis=-1)


def test_examples(result: Result, dataset: Dataset) -> tuple[np.ndarray, np.ndarray]:
    """(image, label) of the test examples of the first run."""
    num_train, num_test = len(dataset.train.label), len(dataset.test.label)
    part = batches.split_parts(result.config, num_train, num_test, result.runs[0].seed).test - num_train
    return dataset.test.image[part], dataset.test.label[part]


def _predictions_figure(result: Result, predicted: np.ndarray, dataset: Dataset) -> Any:
    image, label = test_examples(result, dataset)
    return report.figure_predictions(image, label, predicted, dataset.class_names, 3, 3)


def _leave(
    experiment: Experiment, variants: Mapping[str, Variant], options: Options, outcome: Outcome, display: Display
) -> dict[str, Any]:
    """Writes summary.json, figures and report.html; says the tables."""
    checked = departures.of_changed_run(claims.check(experiment.claims, outcome.results), outcome.departures)
    draw = report.draw_into(options.workdir / "figures")
    extra_blocks, extra_summary = experiment.extra(outcome, draw) if experiment.extra else ([], {})
    summary = summarize(experiment, options, outcome, checked) | extra_summary
    table = result_table(experiment, outcome)
    display.line("\n" + table.caption)
    display.line(report.text_table(table.header, table.rows))
    if diverged := evidence.diverged(outcome.results):
        display.line(f"\n{diverged}")
    display.line("\nClaims")
    for item in checked:
        display.line(f"({item.claim.id}) {item.claim.text}\n    {item.sentence}")
    for block in extra_blocks:
        if isinstance(block, report.Table):
            display.line("\n" + block.caption)
            display.line(report.text_table(block.header, block.rows))
    blocks = _page(experiment, variants, options, outcome, checked, table, extra_blocks, draw)
    workdirs.write_findings(options.workdir, departures.title(experiment.title, outcome.departures), blocks, summary)
    display.line(f"\nreport: {options.workdir / 'report.html'}")
    return summary


def summarize(experiment: Experiment, options: Options, outcome: Outcome, checked: Sequence[Checked]) -> dict[str, Any]:
    """What summary.json holds."""
    entries = {}
    for name, result in outcome.results.items():
        metrics = {metric: history.summarize(history.metric(result, metric)) for metric in history.METRICS}
        entries[name] = {**parameter_counts(result.state), "metrics": metrics}
        if name in outcome.searched:
            entries[name]["learning_rate"] = result.runs[0].settings["learning_rate"]
    device = jax.devices()[0]
    limit = {result.config.limit_examples for result in outcome.results.values()}.pop()
    return {
        "experiment": experiment.name,
        "protocol": options.protocol,
        "departures": list(outcome.departures),
        "data": {"name": outcome.dataset.name, "fingerprint": outcome.dataset.fingerprint, "limit_examples": limit},
        "device": f"{device.platform}: {device.device_kind}",
        "n_seeds": options.num_seeds,
        "variants": entries,
        "claims": [item.to_dict() for item in checked],
        "seconds": outcome.seconds,
    }


def parameter_counts(crowd: step.TrainState) -> dict[str, int]:
    """What summary.json says of the parameters of each run of a crowd; "params" is the older name of the trainable."""
    averages = crowd.model_state.get("batch_stats", {})
    one, one_averages = jax.tree.map(lambda leaf: leaf[0], (crowd.params, averages))
    trainable = models.count_parameters(one)
    total = trainable + models.count_parameters(one_averages)
    return {"params": trainable, "trainable_parameters": trainable, "total_parameters": total}


def reported_beside(name: str, outcome: Outcome) -> dict[str, dict[str, float]]:
    """The reported numbers of the experiment `name`, which stand beside a run of the reported protocol alone."""
    return reported.results(name) if outcome.protocol == "reported" and not outcome.departures else {}


def result_table(experiment: Experiment, outcome: Outcome) -> report.Table:
    """Reported beside ours, where something was reported: a row for each variant and metric."""
    theirs = reported_beside(experiment.name, outcome)
    rows = []
    for name, result in outcome.results.items():
        shown = dict.fromkeys(("test_accuracy", "test_loss", "val_accuracy", "train_accuracy", "final_train_accuracy"))
        shown |= dict.fromkeys(metric for metric in theirs.get(name, {}) if metric in history.METRICS)
        shown |= dict.fromkeys(("overfitting_gap", "train_seconds"))
        for metric in shown:
            cells = [report.format_value(metric, theirs.get(name, {}).get(metric))] if theirs else []
            rows.append((name, metric.replace("_", " "), *cells, _ours(result, metric)))
    header = ("variant", "metric", "reported", "ours") if theirs else ("variant", "metric", "ours")
    return report.Table(header, rows, _ours_caption(bool(theirs), outcome))


def overview_table(experiment: Experiment, variants: Mapping[str, Variant], outcome: Outcome) -> report.Table:
    """Ours, beside what was reported where something was: a row for each variant, test accuracy and loss."""
    theirs = reported_beside(experiment.name, outcome)
    rows = []
    for name, result in outcome.results.items():
        cells = [name, variants[name].description if name in variants else ""]
        for metric in ("test_accuracy", "test_loss"):
            cells += [report.format_value(metric, theirs.get(name, {}).get(metric))] if theirs else []
            cells.append(_ours(result, metric, with_n=False))
        rows.append((*cells, _ours(result, "overfitting_gap", with_n=False)))
    metrics = (
        ("test accuracy, reported", "ours", "test loss, reported", "ours") if theirs else ("test accuracy", "test loss")
    )
    caption = (
        f"{_ours_caption(bool(theirs), outcome)}; overfitting gap: training minus validation accuracy, final weights"
    )
    return report.Table(("variant", "what it is", *metrics, "overfitting gap"), rows, caption)


def _ours_caption(beside_reported: bool, outcome: Outcome) -> str:
    """What a table of numbers holds, and of what run."""
    changed = f", {departures.brief(outcome.departures)}" if outcome.departures else ""
    return f"{'Reported, and ours' if beside_reported else 'Ours'} ({_seeds(outcome)}{changed})"


def _seeds(outcome: Outcome) -> str:
    n = max(len(result.runs) for result in outcome.results.values())
    return f"mean ± standard deviation over {n} seeds" if n > 1 else "one seed"


def _ours(result: Result, metric: str, *, with_n: bool = True) -> str:
    summary = history.summarize(history.metric(result, metric))
    text = report.format_value(metric, summary["mean"])
    if summary["n"] > 1 and not metric.endswith("seconds"):
        text = report.format_mean_sd(summary["mean"], summary["sd"], summary["n"])
        text = text if with_n else text.removesuffix(f" (n={summary['n']})")
    return f"{text}, {summary['num_failed']} not finite" if summary["num_failed"] else text


def _page(
    experiment: Experiment,
    variants: Mapping[str, Variant],
    options: Options,
    outcome: Outcome,
    checked: Sequence[Checked],
    table: report.Table,
    extra: Sequence[report.Block],
    draw: Draw,
) -> list[report.Block]:
    departed = outcome.departures
    protocol = departures.protocol_words(options.protocol, departed)
    where = f"{outcome.dataset.name}, {protocol}, {_count(options.num_seeds, 'seed')}"
    notices = [departures.notice(departed)] if departed else []
    notices += [diverged] if (diverged := evidence.diverged(outcome.results)) else []
    blocks: list[report.Block] = [
        *(report.Text(line, notice=True) for line in notices),
        report.Text(experiment.question),
        report.Text(f"Protocol `{options.protocol}`. {experiment.quirks} Source: {experiment.source}."),
        report.Heading("Claims"),
        evidence.claims_table(checked, departed),
        *evidence.quotable(checked, where),
        report.Heading("Results"),
        overview_table(experiment, variants, outcome),
        report.Details("All metrics", [table]),
    ]
    with_curves = {} if departed else {name: variant.curve for name, variant in variants.items() if variant.curve}
    curves = {name: reported.curve(curve) for name, curve in with_curves.items()}
    blocks.append(report.Heading("Learning curves"))
    for name, result in outcome.results.items():
        caption = f"{name}: training (running mean of the epoch) and validation."
        if history.diverged(result).any():
            caption += " What is not finite is not drawn."
        if not np.isfinite(result.epoch_seconds).all():
            caption += " Runs stopped at different epochs: the mean at an epoch is of those that went on until then."
        if name in curves:
            deviation, epoch = history.largest_deviation(result, curves[name], "val_accuracy")
            off = f"; our validation accuracy is {deviation:.4f} off at most (epoch {epoch})" if epoch else ""
            caption += f" Broken lines: as reported{off}."
        figure = report.figure_history({name: result.history}, {name: curves[name]} if name in curves else None)
        blocks.append(draw(figure, f"history_{name}", caption, f"loss and accuracy of {name} by epoch"))
    if any(len(result.runs) > 1 for result in outcome.results.values()):
        blocks += _seed_blocks(experiment, outcome, checked, draw)
    for name, by_rate in outcome.searched.items():
        rates = sorted(by_rate)
        values = {"validation accuracy": np.stack([by_rate[rate].metrics["val_accuracy"] for rate in rates])}
        figure = report.figure_sweep(rates, values, "learning rate", "validation accuracy")
        caption = (
            f"{name}: validation accuracy by learning rate; the best mean was chosen, {best_learning_rate(by_rate):g}."
        )
        blocks.append(draw(figure, f"learning_rate_{name}", caption, caption))
    if len(options.sweep) == 1:
        (setting,) = options.sweep
        blocks += _sweep_blocks(setting, tuple(variants), outcome.results, draw)
    blocks.append(report.Heading("Predictions"))
    for name, result in outcome.results.items():
        figure = _predictions_figure(result, outcome.predictions[name], outcome.dataset)
        caption = (
            f"{name}: the first nine test images, predicted by the first seed's model as read from its checkpoint"
            f"{_if_diverged(result)}."
        )
        blocks.append(draw(figure, f"predictions_{name}", caption))
    blocks += extra
    blocks.append(report.Heading("Networks"))
    for name, layers in layer_tables(variants, outcome.dataset).items():
        figure = report.figure_layer_table(layers.rows, layers.caption)  # type: ignore[arg-type]
        draw(figure, f"layers_{name}", layers.caption)
        blocks.append(layers)
    seconds = [(name, *(f"{value:.1f}" for value in times.values())) for name, times in outcome.seconds.items()]
    blocks += [
        report.Heading("How to repeat it"),
        report.Command(options.command or f"python -m experiments.{experiment.name}"),
        report.Table(("variant", *next(iter(outcome.seconds.values()))), seconds, "Wall time on this machine"),
    ]
    return blocks


def _sweep_blocks(
    setting: str, variants: Sequence[str], results: Mapping[str, Result], draw: Draw
) -> list[report.Block]:
    """How sensitive validation is to a swept setting: what a setting may be chosen by, which test results are not."""
    words = setting.replace("_", " ")
    blocks: list[report.Block] = [
        report.Heading(f"Sensitivity to the {words}"),
        report.Text("On validation examples, by which a setting may be chosen: test results must not choose."),
    ]
    swept = {
        name: {
            result.runs[0].settings[setting]: result
            for label, result in results.items()
            if label.split(" ")[0] == name and setting in result.runs[0].settings
        }
        for name in variants
    }
    points = sorted({value for by_value in swept.values() for value in by_value})
    if len(points) < 2:
        return []
    for metric in ("val_accuracy", "val_loss"):
        values = {
            name: np.stack([by_value[point].metrics[metric] for point in points]) for name, by_value in swept.items()
        }
        label = metric.replace("val_", "validation ")
        log_x = points[0] > 0 and points[-1] >= 10 * points[0]
        figure = report.figure_sweep(points, values, words, label, log_x=log_x)
        caption = f"{label.capitalize()} of the final weights by {words}, mean over the seeds."
        blocks.append(draw(figure, f"sweep_{metric}", caption, f"{label} by {words}"))
    return blocks


def class_pictures(name: str, outcome: Outcome, draw: Draw) -> list[report.Block]:
    """The confusion matrix of a variant's first seed on its test examples, and 25 of them with truth and prediction."""
    image, label = test_examples(outcome.results[name], outcome.dataset)
    predicted, class_names = outcome.predictions[name], outcome.dataset.class_names
    diverged = _if_diverged(outcome.results[name])
    counts = np.zeros((len(class_names), len(class_names)), np.int64)
    np.add.at(counts, (label, predicted), 1)
    confusion = report.figure_confusion(counts, class_names)
    predictions = report.figure_predictions(image, label, predicted, class_names, 5, 5)
    return [
        draw(
            confusion,
            f"confusion_{name}",
            f"{name}: confusion matrix of the first seed over {len(label):,} test images{diverged}.",
        ),
        draw(predictions, f"test_images_{name}", f"{name}: 25 test images with truth and prediction{diverged}."),
    ]


def _if_diverged(result: Result) -> str:
    """What to say beside pictures of the first seed where its network is not finite."""
    return " (it diverged: what is shown is no prediction)" if history.diverged(result)[0] else ""


def _seed_blocks(
    experiment: Experiment, outcome: Outcome, checked: Sequence[Checked], draw: Draw
) -> list[report.Block]:
    theirs = reported_beside(experiment.name, outcome)
    blocks: list[report.Block] = [report.Heading("Seeds")]
    for metric in ("test_accuracy", "test_loss"):
        numbers = {name: theirs[name][metric] for name in outcome.results if metric in theirs.get(name, {})}
        blocks.append(evidence.seeds_picture(metric, outcome.results, draw, numbers))
    return blocks + evidence.difference_pictures(checked, outcome.results, draw)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
