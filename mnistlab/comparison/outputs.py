"""What a comparison leaves: summary.json, figures and report.html, and the tables on the terminal."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np

from mnistlab.analysis import claims, departures, history, reported
from mnistlab.analysis.claims import Checked
from mnistlab.comparison import nets, workdirs
from mnistlab.comparison.spec import Experiment, Findings, Outcome, Variant
from mnistlab.data.datasets import Dataset
from mnistlab.files import sha256, write_atomic
from mnistlab.nets import models
from mnistlab.report import figures, images, page, playground, sections, text
from mnistlab.report.answer import GO_ON, Answer, answer, going_on, keeping
from mnistlab.report.page import Draw
from mnistlab.training import loop
from mnistlab.training.result import Result
from mnistlab.training.step import TrainState

if TYPE_CHECKING:
    from mnistlab.comparison.run import Session


SAME_CALL = "It was made from Python: the same call makes it again."


class Shown(NamedTuple):
    """What a table of results is made of, of a run that was read back."""

    results: Mapping[str, Result]
    protocol: str
    departures: Sequence[str]


def layer_tables(variants: Mapping[str, Variant], dataset: Dataset) -> dict[str, page.Table]:
    """One table for each different network, captioned with the variants that use it."""
    tables: dict[str, page.Table] = {}
    users: dict[Any, list[str]] = {}
    for name, variant in variants.items():
        users.setdefault(repr((variant.model, variant.model_options)), []).append(name)  # a module may have no hash
    for names in users.values():
        model = variants[names[0]].model
        network = loop.make_model(model, variants[names[0]].model_options)
        rows = models.layer_table(network, dataset.train.image.shape[1:])
        total, trainable = sum(row.parameters for row in rows), sum(row.trainable for row in rows)
        rest = f", of which {trainable:,} are trained and the rest are moving averages" if trainable < total else ""
        lines = [(row.name, row.layer, "×".join(map(str, row.output_shape)), row.parameters) for row in rows]
        kind = model if isinstance(model, str) else type(model).__name__
        caption = f"{', '.join(names)}: the network {kind}, {total:,} parameters{rest}"
        tables[names[0]] = page.Table(("name", "layer", "output shape", "parameters"), lines, caption)
    return tables


def predictions_figure(result: Result, predicted: np.ndarray, dataset: Dataset) -> Any:
    """The first nine test images of the first run, with what it says of them."""
    image, label = nets.test_examples(result, dataset)
    return images.predictions(image, label, predicted, dataset.class_names, 3, 3)


def leave(session: Session, outcome: Outcome) -> dict[str, Any]:
    """Writes summary.json, figures and report.html; says the tables."""
    experiment, log = session.experiment, session.hooks.log
    draw = page.draw_into(session.options.workdir / "figures")
    findings = experiment.extra(outcome, draw) if experiment.extra else Findings()
    checked = departures.of_changed_run(claims.check(experiment.claims, outcome.results), outcome.departures)
    checked = [*checked, *findings.claims]
    theirs = reported_beside(experiment.name, outcome)
    said = answer(checked, outcome.results, experiment.answered_by, departures=outcome.departures, reported=theirs)
    summary = {"answer": said.sentence, **summarize(session, outcome, checked, findings), **findings.summary}
    table = result_table(experiment.name, outcome)
    log(f"\n{table.as_text()}")
    if line := sections.diverged(outcome.results):
        log(line)
    log(f"\n{said.sentence}\n\nClaims")
    for item in checked:
        log(f"({item.claim.id}) {item.claim.text}\n    {item.sentence}")
    if outcome.ended:
        log(f"\n{outcome.ended}")
    for block in findings.blocks:
        if isinstance(block, page.Table):
            log(f"\n{block.as_text()}")
    blocks = [
        *_opening(session, outcome, checked, said, draw),
        page.Heading("Reported and ours" if theirs else "Results"),
        overview_table(experiment, session.variants, outcome),
        page.Details("All metrics", [table]),
        *_claim_blocks(session, outcome, checked, draw),
        *_body(session, outcome, findings.blocks, draw),
        *_ending(session, outcome),
    ]
    title = departures.title(experiment.title, outcome.departures)
    write_atomic(session.options.workdir / "history.csv", history.to_csv(outcome.results))
    summary = workdirs.write_findings(session.options.workdir, title, blocks, summary)
    log(f"\nreport: {session.options.workdir / 'report.html'}")
    return summary


def summarize(session: Session, outcome: Outcome, checked: Sequence[Checked], findings: Findings) -> dict[str, Any]:
    """What summary.json holds."""
    experiment, options = session.experiment, session.options
    entries = {}
    for name, result in outcome.results.items():
        names = dict.fromkeys((*history.METRICS, *result.metrics))
        metrics = {metric: history.summarize(history.metric(result, metric)) for metric in names}
        metrics |= {metric: history.summarize(values) for metric, values in findings.metrics.get(name, {}).items()}
        entries[name] = {**parameter_counts(outcome.trained[name].state), "metrics": metrics}
        rate = outcome.rates.get(history.variant_of(name, session.variants))
        if rate is not None:
            entries[name]["learning_rate"] = rate
    limits = {result.config.limit_examples for result in outcome.results.values()}
    limit = limits.pop() if len(limits) == 1 else None
    return {
        "experiment": experiment.name,
        "protocol": options.protocol,
        "departures": list(outcome.departures),
        "data": {"name": outcome.dataset.name, "fingerprint": outcome.dataset.fingerprint, "limit_examples": limit},
        "device": workdirs.device_words(),
        "n_seeds": max(map(len, session.seeds.values())),
        "variants": entries,
        "claims": [item.to_dict() for item in checked],
        "seconds": outcome.seconds,
        **({"until": outcome.ended} if outcome.ended else {}),
    }


def parameter_counts(state: TrainState) -> dict[str, int]:
    """What summary.json says of the parameters of each run; "params" is the older name of the trainable."""
    averages = state.model_state.get("batch_stats", {})
    one, one_averages = jax.tree.map(lambda leaf: leaf[0], (state.params, averages))
    trainable = models.count_parameters(one)
    total = trainable + models.count_parameters(one_averages)
    return {"params": trainable, "trainable_parameters": trainable, "total_parameters": total}


def reported_beside(name: str, outcome: Outcome | Shown) -> dict[str, dict[str, float]]:
    """The reported numbers of the experiment `name`, which stand beside a run of the reported protocol alone."""
    return reported.results(name) if outcome.protocol == "reported" and not outcome.departures else {}


def result_table(name: str, outcome: Outcome | Shown) -> page.Table:
    """Reported beside ours, where the experiment `name` has reported numbers: a row for each variant and metric."""
    theirs = reported_beside(name, outcome)
    rows = []
    for label, result in outcome.results.items():
        shown = dict.fromkeys(("test_accuracy", "test_loss", "val_accuracy", "train_accuracy", "final_train_accuracy"))
        shown |= dict.fromkeys(metric for metric in theirs.get(label, {}) if metric in history.METRICS)
        shown |= dict.fromkeys(("overfitting_gap", "train_seconds"))
        for metric in shown:
            cells = [text.format_value(metric, theirs.get(label, {}).get(metric))] if theirs else []
            rows.append((label, metric.replace("_", " "), *cells, _ours(result, metric)))
    header = ("variant", "metric", "reported", "ours") if theirs else ("variant", "metric", "ours")
    return page.Table(header, rows, _ours_caption(bool(theirs), outcome))


def overview_table(experiment: Experiment, variants: Mapping[str, Variant], outcome: Outcome) -> page.Table:
    """Ours, beside what was reported where something was: a row for each variant, test accuracy and loss."""
    theirs = reported_beside(experiment.name, outcome)
    rows = []
    for name, result in outcome.results.items():
        cells = [name, variants[name].description if name in variants else ""]
        for metric in ("test_accuracy", "test_loss"):
            cells += [text.format_value(metric, theirs.get(name, {}).get(metric))] if theirs else []
            cells.append(_ours(result, metric, with_n=False))
        rows.append((*cells, _ours(result, "overfitting_gap", with_n=False)))
    metrics = (
        ("test accuracy, reported", "ours", "test loss, reported", "ours") if theirs else ("test accuracy", "test loss")
    )
    caption = (
        f"{_ours_caption(bool(theirs), outcome)}; overfitting gap: training minus validation accuracy, final weights"
    )
    return page.Table(("variant", "what it is", *metrics, "overfitting gap"), rows, caption)


def _ours_caption(beside_reported: bool, outcome: Outcome | Shown) -> str:
    """What a table of numbers holds, and of what run."""
    changed = f", {departures.brief(outcome.departures)}" if outcome.departures else ""
    return f"{'Reported, and ours' if beside_reported else 'Ours'} ({_seeds(outcome)}{changed})"


def _seeds(outcome: Outcome | Shown) -> str:
    words = seed_words(len(result.runs) for result in outcome.results.values())
    return "one seed" if words == "1 seed" else f"mean ± standard deviation over {words}"


def _ours(result: Result, metric: str, *, with_n: bool = True) -> str:
    summary = history.summarize(history.metric(result, metric))
    words = text.format_value(metric, summary["mean"])
    if summary["n"] > 1 and not metric.endswith("seconds"):
        words = text.format_mean_sd(summary["mean"], summary["sd"], summary["n"])
        words = words if with_n else words.removesuffix(f" (n={summary['n']})")
    return f"{words}, {summary['num_failed']} not finite" if summary["num_failed"] else words


def _opening(
    session: Session, outcome: Outcome, checked: Sequence[Checked], said: Answer, draw: Draw
) -> list[page.Block]:
    """The answer, what must be known with it, and the figure that shows it."""
    experiment = session.experiment
    metric_of_claim = {claim.id: claim.metric for claim in experiment.claims}
    asked = [metric_of_claim.get(name, name) for name in experiment.answered_by[:1]]
    metric = (*asked, *(item.claim.metric for item in checked[:1] if item.comparison), "test_accuracy")[0]
    theirs = reported_beside(experiment.name, outcome)
    numbers = {name: theirs[name][metric] for name in outcome.results if metric in theirs.get(name, {})}
    return [
        page.Answer(said.sentence, experiment.question),
        *_more(session, said),
        *sections.notices(outcome.departures, outcome.results),
        sections.seeds_picture(metric, outcome.results, draw, numbers),
    ]


def _more(session: Session, said: Answer) -> list[page.Block]:
    """What would tell more, where more seeds would."""
    number, command = said.wanted_seeds, session.options.command
    if number is None:
        return []
    until = said.by_claims and not session.options.sweep
    if re.search(r"-m (mnistlab\.)?experiments\.|^mnistlab |^bash launch/", command):
        return [page.Command(going_on(command, number, until=until), GO_ON)]
    how = '`until="resolved"`' if until else f"`seeds={number}`"
    return [page.Text(f"{GO_ON}: the same with {how}.")]


def _claim_blocks(session: Session, outcome: Outcome, checked: Sequence[Checked], draw: Draw) -> list[page.Block]:
    """The claims as cards, and the evidence for them."""
    if not checked:
        return []
    protocol = departures.protocol_words(session.options.protocol, outcome.departures)
    where = f"{outcome.dataset.name}, {protocol}, {seed_words(map(len, session.seeds.values()))}"
    several = any(len(result.runs) > 1 for result in outcome.results.values())
    sides = [claims.sides(item.claim, outcome.results) if item.comparison else None for item in checked]
    pictures = sections.difference_pictures(checked, outcome.results, draw) if several else []
    pictures += sections.looks_picture(checked, sides, draw)
    ended = [page.Text(outcome.ended)] if outcome.ended else []
    return [
        page.Heading("Claims"),
        *sections.claim_cards(checked),
        *ended,
        *pictures,
        *sections.quotable(checked, where),
    ]


def _body(session: Session, outcome: Outcome, extra: Sequence[page.Block], draw: Draw) -> list[page.Block]:
    """What the networks did, and what they are."""
    options = session.options
    return [
        page.Heading("Learning curves"),
        *_curve_blocks(session.variants, outcome, draw),
        *_rate_blocks(outcome, draw),
        *_sweep_blocks(tuple(options.sweep), tuple(session.variants), outcome.results, draw),
        page.Heading("Mistakes"),
        *_mistake_blocks(outcome, draw),
        *extra,
        *(_playground_blocks(session.variants, outcome) if options.playground else []),
        page.Heading("Networks"),
        *layer_tables(session.variants, outcome.dataset).values(),
    ]


def _playground_blocks(variants: Mapping[str, Variant], outcome: Outcome) -> list[page.Block]:
    """The playground, as large as the rest of the page lets it be."""

    def make(num_bytes: int) -> list[page.Block]:
        made = nets.playground_of(variants, outcome, playground.MOST_PAGE_BYTES - num_bytes)
        return [page.Html(made.html), *(page.Text(note) for note in made.notes)]

    title = "Draw a digit" if playground.is_drawn(outcome.dataset) else "Try the networks"
    return [page.Heading(title), page.Filling(make)]


def _ending(session: Session, outcome: Outcome) -> list[page.Block]:
    """How to repeat it, and what is odd about it."""
    experiment, options = session.experiment, session.options
    seconds = [(name, *(f"{value:.1f}" for value in times.values())) for name, times in outcome.seconds.items()]
    header = ("variant", *(name.replace("_", " ") for name in next(iter(outcome.seconds.values()))))
    return [
        page.Heading("How to repeat it"),
        page.Command(keeping(options.command), "The command of this run") if options.command else page.Text(SAME_CALL),
        page.Table(header, seconds, "Wall time on this machine"),
        page.Heading("About the protocol"),
        page.Text(f"Protocol `{options.protocol}`. {experiment.quirks} Source: {experiment.source}."),
    ]


def _curve_blocks(variants: Mapping[str, Variant], outcome: Outcome, draw: Draw) -> list[page.Block]:
    names = {} if outcome.departures else {name: variant.curve for name, variant in variants.items() if variant.curve}
    curves = {name: reported.curve(curve) for name, curve in names.items()}
    blocks: list[page.Block] = []
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
        figure = figures.history({name: result.history}, {name: curves[name]} if name in curves else None)
        blocks.append(draw(figure, f"history_{name}", caption, curve_finding(name, result)))
    return blocks


def curve_finding(name: str, result: Result) -> str:
    """What the curves of a variant say, for who does not see them."""
    words = []
    for metric in ("train_accuracy", "val_accuracy"):
        mean = np.asarray(result.history[metric], np.float64)
        finite = [column[np.isfinite(column)].mean() for column in mean.T if np.isfinite(column).any()]
        if finite:
            part = "training" if metric.startswith("train") else "validation"
            words.append(f"{part} accuracy goes from {finite[0]:.4f} to {finite[-1]:.4f}")
    epochs = text.counted(int(history.num_epochs(result).max()), "epoch")
    seeds = text.counted(len(result.runs), "seed")
    return f"{name}, {epochs}: {', '.join(words) or 'no number is finite'}; mean of {seeds}."


def _rate_blocks(outcome: Outcome, draw: Draw) -> list[page.Block]:
    """Where a learning rate was chosen: by what."""
    blocks: list[page.Block] = []
    for name, by_rate in outcome.searched.items():
        rates = sorted(by_rate)
        values = {"validation accuracy": np.stack([by_rate[rate].metrics["val_accuracy"] for rate in rates])}
        figure = figures.sweep(rates, values, "learning rate", "validation accuracy")
        chosen = outcome.rates[name]
        lost = ", a diverged seed counted as 0" if not np.isfinite(values["validation accuracy"]).all() else ""
        caption = f"{name}: validation accuracy by learning rate; the best mean was chosen, {chosen:g}{lost}."
        blocks.append(draw(figure, f"learning_rate_{name}", caption, caption))
    return blocks


def _mistake_blocks(outcome: Outcome, draw: Draw) -> list[page.Block]:
    """Test images that the first seed's networks get wrong, for those that are tested on the same ones."""
    finite = [name for name, result in outcome.results.items() if not history.diverged(result)[0]]
    groups: dict[str, list[str]] = {}
    for name in finite:
        _, label = nets.test_examples(outcome.results[name], outcome.dataset)
        groups.setdefault(sha256(label.tobytes()), []).append(name)
    blocks: list[page.Block] = []
    for number, names in enumerate(groups.values()):
        image, label = nets.test_examples(outcome.results[names[0]], outcome.dataset)
        predicted = {name: outcome.predictions[name] for name in names}
        wrong = {name: int((classes != label).sum()) for name, classes in predicted.items()}
        counts = ", ".join(f"{name} {count:,}" for name, count in wrong.items())
        said = f"Test images that the first seed gets wrong, of {len(label):,}: {counts}."
        chosen = images.choose_mistakes(label, predicted)
        if not len(chosen):
            blocks.append(page.Text(said))
            continue
        shown = {name: classes[chosen] for name, classes in predicted.items()}
        figure = images.mistakes(image[chosen], label[chosen], shown, outcome.dataset.class_names)
        which = "Those on which the networks disagree come first. " if len(names) > 1 else ""
        blocks.append(draw(figure, f"mistakes{number or ''}", f"{said} {which}✗ marks a wrong answer.", said))
    if lost := [name for name in outcome.results if name not in finite]:
        blocks.append(page.Text(f"Left out, because the first seed diverged: {', '.join(lost)}."))
    return blocks


def _sweep_blocks(
    swept_settings: Sequence[str], variants: Sequence[str], results: Mapping[str, Result], draw: Draw
) -> list[page.Block]:
    """How sensitive validation is to one swept setting: what it may be chosen by, which test results are not."""
    if len(swept_settings) != 1:
        return []
    (setting,) = swept_settings
    words = setting.replace("_", " ")
    blocks: list[page.Block] = [
        page.Heading(f"Sensitivity to the {words}"),
        page.Text("On validation examples, by which a setting may be chosen: test results must not choose."),
    ]
    swept = {
        name: {
            result.runs[0].settings[setting]: result
            for label, result in results.items()
            if history.variant_of(label, variants) == name and setting in result.runs[0].settings
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
        figure = figures.sweep(points, values, words, label, log_x=log_x)
        caption = f"{label.capitalize()} of the final weights by {words}, mean over the seeds."
        blocks.append(draw(figure, f"sweep_{metric}", caption, f"{label} by {words}"))
    return blocks


def class_pictures(name: str, outcome: Outcome, draw: Draw) -> list[page.Block]:
    """The confusion matrix of a variant's first seed on its test examples, and 25 of them with truth and prediction."""
    image, label = nets.test_examples(outcome.results[name], outcome.dataset)
    predicted, known = outcome.predictions[name], outcome.dataset.class_names
    class_names = text.class_words(known, max(len(known), 1 + int(predicted.max(initial=0))))
    is_lost = history.diverged(outcome.results[name])[0]
    diverged = " (it diverged: what is shown is no prediction)" if is_lost else ""
    counts = np.zeros((len(class_names), len(class_names)), np.int64)
    np.add.at(counts, (label, predicted), 1)
    confusion = images.confusion(counts, class_names)
    predictions = images.predictions(image, label, predicted, class_names, 5, 5)
    return [
        draw(
            confusion,
            f"confusion_{name}",
            f"{name}: confusion matrix of the first seed over {len(label):,} test images{diverged}.",
        ),
        draw(predictions, f"test_images_{name}", f"{name}: 25 test images with truth and prediction{diverged}."),
    ]


def seed_words(counts: Iterable[int]) -> str:
    """How many seeds the variants have.

    >>> seed_words([1]), seed_words([8, 8]), seed_words([12, 6])
    ('1 seed', '8 seeds', '6 to 12 seeds')
    """
    numbers = sorted(counts)
    if numbers[0] < numbers[-1]:
        return f"{numbers[0]} to {numbers[-1]} seeds"
    return text.counted(numbers[0], "seed")
