"""Runs a comparison: trains what is missing of it, round by round and variant by variant, and leaves its files."""

import dataclasses
import functools
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr

from mnistlab import config as configs
from mnistlab.analysis import departures, history
from mnistlab.comparison import identity, nets, outputs, ranges, saved, show, spec, until, workdirs
from mnistlab.comparison.spec import Experiment, Options, Outcome, Variant
from mnistlab.data import arrays, batches, datasets
from mnistlab.data.batches import Batch
from mnistlab.data.datasets import Dataset
from mnistlab.devices import cluster, mesh
from mnistlab.errors import UserError, one_line
from mnistlab.files import sha256, write_atomic
from mnistlab.report import canvas, text
from mnistlab.training import checkpoint, checks, loop, result, trained, wandb
from mnistlab.training.callbacks import Callback, Checkpoint, OnEpoch
from mnistlab.training.loop import Resources
from mnistlab.training.nans import NanCheck
from mnistlab.training.result import Result
from mnistlab.training.step import StepFunctions
from mnistlab.training.tensorboard import TensorBoard
from mnistlab.training.trained import Trained
from mnistlab.training.wandb import WeightsAndBiases

Log = Callable[[str], None]
"""Where lines for the user go."""


def silent(line: str) -> None:
    """Says nothing."""


class Hooks(NamedTuple):
    """Where progress goes, and what else goes on beside training."""

    log: Log = silent
    callbacks: Callable[[str, Variant], Sequence[Callback]] = lambda name, variant: ()


NO_HOOKS = Hooks()


@dataclasses.dataclass(frozen=True)
class Session:
    """All that does not change while a comparison runs, or in a round of it."""

    experiment: Experiment
    options: Options
    variants: Mapping[str, Variant]  # resolved
    resources: Resources
    dataset: Dataset
    hooks: Hooks
    seeds: Mapping[str, tuple[int, ...]]  # by variant; with `until` a round has more of some than the round before
    identity: Mapping[str, Any]  # of these seeds; empty in a process that is not the first
    lock: tuple[int, int] = (0, 0)  # the file that this process has locked

    def checkpoints(self, name: str) -> Path:
        """The folder of a variant's weights."""
        return self.options.workdir / "checkpoints" / name

    def check_there(self) -> None:
        """As `workdirs.check_there`, of its own folder."""
        workdirs.check_there(self.options.workdir, self.lock)


def run(experiment: Experiment, options: Options, hooks: Hooks = NO_HOOKS) -> dict[str, Any]:
    """Runs an experiment, or what is missing of it, and returns what summary.json holds.

    Raises:
      UserError: an impossible option (before any data is loaded), a workdir that holds another run, damaged files.
    """
    started = time.monotonic()
    options = spec.settled(experiment, options)
    variants = spec.resolve(experiment, options)
    if options.wandb:
        wandb.load()  # else ended here, before any data is loaded
    number = until.first_number(experiment.claims, variants, options)
    seeds = dict.fromkeys(variants, configs.check_seeds(options.first_seed, number))
    layout = mesh.make_layout(options.num_devices, options.strategy)
    resources = Resources(layout, options.population_size, options.stream_megabytes)

    def begin() -> Session:
        data = cluster.first_then_others(lambda: load(experiment, variants, options.data_dir))
        return Session(experiment, options, variants, resources, data, hooks, seeds, {})

    if not cluster.is_first():
        _follow(begin())
        return {}
    with workdirs.locked(options.workdir):
        seeds = first_seeds(options, variants, number)
        about = identity_of(experiment, options, variants, seeds)
        if options.resume and all(checks.is_shipped(variant) for variant in variants.values()):
            workdirs.check(options.workdir, about)  # refused before data is loaded
        session = begin()
        about |= _of_data(session, about["variants"])
        if options.resume and workdirs.is_pruned(options.workdir):
            cluster.from_first([])  # the others have nothing to train
            return _read_pruned(options.workdir, about, [one.text for one in experiment.claims], hooks.log)
        session = dataclasses.replace(session, identity=about, lock=workdirs.lock_of(options.workdir))
        session = _prepared(session, seeds, options.resume)
        departed = spec.departures_of(experiment, options, variants)
        if departed:
            hooks.log(departures.notice(departed))
        for table in outputs.layer_tables(variants, session.dataset).values():
            hooks.log(f"\n{table.as_text()}")
        session, outcome = _train(session, started)
        session.check_there()
        return outputs.leave(session, outcome._replace(departures=departed))


def _of_data(session: Session, variants: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """What the data add to a run's identity; what cannot be done with them ends here, before anything is written."""
    dataset, found = session.dataset, {name: dict(known) for name, known in variants.items()}
    check_data(session.options, session.variants, dataset)
    for name, variant in session.variants.items():
        if not checks.is_shipped(variant):
            found[name]["program"] = _program_digest(variant, dataset)
    return {"data": dataset.fingerprint, "variants": found}


def check_data(options: Options, variants: Mapping[str, Variant], dataset: Dataset) -> None:
    """Makes sure that the variants can be trained on these data, without training them.

    Raises:
      UserError: arrays that are no images with labels, a named network that does not take them, or too few of them.
    """
    arrays.check(dataset)
    is_named = dataset.name in datasets.NAMES and dataset.train.image.shape[1:] == datasets.IMAGE_SHAPE
    is_other = "dataset" in options.overrides or not is_named
    for name, variant in variants.items():
        if is_other and checks.is_shipped(variant):
            _check_fits(name, variant, dataset)
        parts = batches.split_parts(variant, dataset, options.first_seed)  # which ends bad limits
        if variant.learning_rates and not len(parts.val):
            raise UserError(
                f"{name} has learning_rates, but no validation examples to choose one by; give some, or one rate"
            )


def _prepared(session: Session, seeds: Mapping[str, tuple[int, ...]], resume: bool = True) -> Session:
    """The session of a round with these seeds, of which config.json says so before any of them is trained."""
    options, about = session.options, identity.with_seeds(session.identity, seeds)
    about = workdirs.prepare(options.workdir, about, resume)
    workdirs.write_config(options.workdir, about, options.command, session.dataset)
    return dataclasses.replace(session, seeds=seeds, identity=about)


def first_seeds(options: Options, variants: Iterable[str], number: int) -> dict[str, tuple[int, ...]]:
    """The seeds of the first round, `number` of them; with `until` as many as the workdir has if those are more."""
    kept = workdirs.num_seeds(options.workdir) if options.until and options.resume else {}
    return {name: _seeds(options, max(number, kept.get(name, 0))) for name in variants}


def _seeds(options: Options, number: int) -> tuple[int, ...]:
    return configs.check_seeds(options.first_seed, number)


def _read_pruned(workdir: Path, about: Mapping[str, Any], asked: Iterable[str], log: Log) -> dict[str, Any]:
    """What a run that `prune` has been at left, as the run would have ended; `asked` are the claims in words.

    Raises:
      UserError: more is asked for than it holds, which it cannot go on to.
    """
    if workdirs.check(workdir, about):
        raise UserError(
            f"{workdir} was pruned, so it cannot go on; use another --workdir to train all of it anew (as it is, it is "
            "still shown, compared and predicted from)"
        )
    summary = saved.read_summary(workdir)
    if [entry["text"] for entry in summary["claims"]] != list(asked):
        log("what follows was claimed before the run was pruned; other claims cannot be asked of it")
    for line in show.lines(workdir):
        log(line)
    return summary


def identity_of(
    experiment: Experiment, options: Options, variants: Mapping[str, Variant], seeds: Mapping[str, Sequence[int]]
) -> dict[str, Any]:
    """What decides the numbers of a run, as JSON can hold it: config.json's "run" but for what only the data tell."""
    about = {
        "experiment": experiment.name,
        "protocol": options.protocol,
        "seeds": [],
        "sweep": {name: list(values) for name, values in options.sweep.items()},
        "matmul_precision": workdirs.matmul_precision(),
        "variants": {
            name: {"config": configs.to_dict(variant.config), "learning_rates": variant.learning_rates}
            for name, variant in variants.items()
        },
    }
    return identity.with_seeds(about, seeds)


def _check_fits(name: str, variant: Variant, dataset: Dataset) -> None:
    """Checks that a variant can be trained on data that it was not made for, without training it.

    Raises:
      UserError: its network cannot take the images, or has no logit for some label.
    """
    image_shape = dataset.train.image.shape[1:]
    checks.check(variant.config, image_shape)
    steps = loop.step_functions_of(variant.config, dataset)
    seed = jax.ShapeDtypeStruct((), np.uint32)
    try:
        state = jax.eval_shape(lambda seed: steps.init(seed, image_shape, {}), seed)
        checks.check_network(steps, state, dataset, {})
    except UserError as error:
        raise UserError(f"{name} cannot be trained on {dataset.name}: {error}") from error
    except Exception as error:  # of Flax, JAX or the network, by the way the shapes do not fit
        raise UserError(
            f"{name} cannot take the images {list(image_shape)} of {dataset.name} ({one_line(error):.80}): they may be "
            "too small for it; leave it out of --variants, or choose another --dataset"
        ) from error


def _program_digest(variant: Variant, dataset: Dataset) -> str:
    """What is computed by a network, loss and optimiser that no names say: a digest of the operations and constants.

    The same in every process with the same JAX; a change in any of them, or of the images' shape, makes another.

    Raises:
      UserError: they do not fit together.
    """
    steps = loop.step_functions_of(variant.config, dataset)
    image_shape = dataset.train.image.shape[1:]
    image = jax.ShapeDtypeStruct((2, *image_shape), dataset.train.image.dtype)
    shapes: Any = (image, jax.ShapeDtypeStruct((2,), np.int32), jax.ShapeDtypeStruct((2,), np.float32))

    def all_of_it(seed: jax.Array, batch: Batch) -> Any:
        state = steps.init(seed, image_shape, {})
        return steps.train_step(state, batch), steps.eval_step(state, batch, jax.numpy.int32(0))

    seed = jax.ShapeDtypeStruct((), np.uint32)
    state = jax.eval_shape(lambda seed: steps.init(seed, image_shape, {}), seed)
    checks.check_network(steps, state, dataset, {"loss": variant.loss, **variant.metrics})
    traced = jax.make_jaxpr(all_of_it)(seed, Batch(*shapes))
    operations = re.sub(r"0x[0-9a-f]+", "", str(traced))  # where a function lies in memory
    constants = "".join(sha256(np.asarray(checkpoint.plain(constant)).tobytes()) for constant in _constants(traced))
    return sha256((operations + constants).encode())


def _constants(closed: ClosedJaxpr) -> Iterator[Any]:
    """The arrays in a program, and in the programs within it: a function under jit keeps its own."""
    yield from closed.consts
    for equation in closed.jaxpr.eqns:
        for value in jax.tree.leaves(equation.params, is_leaf=lambda leaf: isinstance(leaf, ClosedJaxpr | Jaxpr)):
            if isinstance(value, ClosedJaxpr | Jaxpr):
                yield from _constants(value if isinstance(value, ClosedJaxpr) else ClosedJaxpr(value, ()))


def load(experiment: Experiment, variants: Mapping[str, Variant], data_dir: Path | None) -> Dataset:
    """The data that all `variants` are trained on.

    Raises:
      UserError: they name several.
    """
    if experiment.data is not None:
        return experiment.data() if callable(experiment.data) else experiment.data
    wanted = {(variant.dataset, variant.order) for variant in variants.values()}
    if len(wanted) != 1:
        raise UserError("the variants of a comparison must share a dataset and its order")
    name, order = wanted.pop()
    return datasets.load(name, data_dir=data_dir, order=order)


def _train(session: Session, started: float) -> tuple[Session, Outcome]:
    """Trains in one round, or with `until` in as many as it takes; the session returned is of the last one."""
    options, wholes, ended = session.options, dict[str, Trained](), ""
    while True:
        cluster.from_first([len(own) for own in session.seeds.values()])
        wholes = _train_round(session, wholes)
        if options.until is None:
            break
        counts = {name: len(own) for name, own in session.seeds.items()}
        questions = until.questions(session.experiment.claims, _results(session, wholes))
        for line in until.progress(questions, counts):
            session.hooks.log(line)
        counts, ended = until.next_round(questions, counts, options, time.monotonic() - started)
        if ended:
            break
        session = _prepared(session, {name: _seeds(options, count) for name, count in counts.items()})
    cluster.from_first([])
    return session, _outcome(session, wholes)._replace(ended=ended)


def _train_round(session: Session, wholes: Mapping[str, Trained]) -> dict[str, Trained]:
    """The runs of every variant with the seeds of this round; those that have them already stay as they are."""
    now = dict(wholes)
    for name, seeds in session.seeds.items():
        before = now.get(name)
        if before is not None and _num_seeds(before) == len(seeds):
            continue
        now[name] = _train_variant(session, name, before)
        if not (session.options.workdir / "summary.json").exists():  # else it is of all variants already
            write_atomic(session.options.workdir / "history.csv", history.to_csv(_results(session, now)))
    return now


def _num_seeds(whole: Trained) -> int:
    return len({run.seed for run in whole.result.runs})


def _results(session: Session, wholes: Mapping[str, Trained]) -> dict[str, Result]:
    return {
        label: result.select(whole.result, numbers)
        for name, whole in wholes.items()
        for label, numbers in _labelled(session, name, whole.result)[0].items()
    }


def _labelled(session: Session, name: str, whole: Result) -> tuple[dict[str, list[int]], dict[float, Result]]:
    """Label -> which of a variant's runs, those at the learning rate that validation chose; and what it chose by."""
    if not session.variants[name].learning_rates:
        return history.by_settings(name, whole.runs), {}
    by_rate, rate = ranges.tuning(whole), ranges.chosen_rate(whole)
    chosen = [number for number, run in enumerate(whole.runs) if run.settings["learning_rate"] == rate]
    own = history.by_settings(name, [whole.runs[number] for number in chosen])
    return {label: [chosen[number] for number in some] for label, some in own.items()}, by_rate


def _outcome(session: Session, wholes: Mapping[str, Trained]) -> Outcome:
    outcome = Outcome({}, {}, {}, {}, session.dataset, {}, {}, session.options.protocol)
    for name, whole in wholes.items():
        variant = session.variants[name]
        outcome.seconds[name] = whole.result.seconds
        labelled, by_rate = _labelled(session, name, whole.result)
        if by_rate:
            rate, tried = ranges.chosen_rate(whole.result), variant.learning_rates
            outcome.searched[name], outcome.rates[name] = by_rate, rate
            by = text.seed_span(sorted({run.seed for run in by_rate[rate].runs}))
            session.hooks.log(f"{name}: learning rate {rate:g} chosen from {tried} by mean validation accuracy, {by}")
        predict = jax.jit(_steps(session, variant).predict)
        for label, numbers in labelled.items():
            part = trained.select(whole, numbers)
            outcome.results[label] = part.result
            outcome.trained[label] = part
            outcome.predictions[label] = nets.predicted_classes(predict, part, session.dataset)
    return outcome


def _follow(session: Session) -> None:
    """What a process that is not the first does: its part of the computing."""
    wholes: dict[str, Trained] = {}
    while counts := cluster.from_first(None):
        seeds = {name: _seeds(session.options, int(n)) for name, n in zip(session.variants, counts, strict=True)}
        session = dataclasses.replace(session, seeds=seeds)
        for name, variant in session.variants.items():
            before = wholes.get(name)
            if before is None or _num_seeds(before) < len(seeds[name]):
                wholes[name] = ranges.train(session, name, session.hooks.callbacks(name, variant), before)


def _train_variant(session: Session, name: str, before: Trained | None) -> Trained:
    """Trains a variant and leaves its weights; all that follows is of the weights as they were saved and read again.

    Args:
      before: its runs of the round before.
    """
    variant, options, folder = session.variants[name], session.options, session.checkpoints(name)
    events = TensorBoard(options.workdir / "tb" / name) if options.tensorboard else None
    config = configs.to_dict(variant.config)
    board = WeightsAndBiases(options.workdir, session.experiment.name, name, config) if options.wandb else None
    callbacks = [
        OnEpoch(lambda epoch: session.check_there()),
        *([NanCheck(variant, session.dataset, _steps(session, variant))] if options.debug_nans else []),
        Checkpoint(folder / "training", functools.partial(workdirs.belonging, options.workdir, name)),
        *([events] if events else []),
        *([board] if board else []),
        *session.hooks.callbacks(name, variant),  # last: what ends a run ends it after all others saw the epoch
    ]
    whole = ranges.train(session, name, callbacks, before)
    session.check_there()
    nets.save_weights(folder, whole)
    if board is not None:
        board.close(whole.result)
    pixels = session.dataset.train.image
    is_usual = pixels.dtype == np.uint8 and pixels.shape[1:] == datasets.IMAGE_SHAPE
    if not (checks.is_shipped(variant.config) and is_usual):
        image = jax.ShapeDtypeStruct(pixels.shape[1:], pixels.dtype)
        why = nets.save_function(folder, _steps(session, variant).predict, whole.state, image)
        if why is not None:
            session.hooks.log(f"{name} cannot be loaded from this run later, since JAX cannot keep it: {why:.200}")
    whole = whole._replace(state=nets.restore_weights(folder, whole))
    if events is not None:
        predict = jax.jit(_steps(session, variant).predict)
        predicted = nets.predicted_classes(predict, whole, session.dataset)
        figure = outputs.predictions_figure(whole.result, predicted, session.dataset)
        events.image("predictions", canvas.pixels(figure), variant.num_epochs)
        events.close()
    return whole


def _steps(session: Session, variant: Variant) -> StepFunctions:
    return loop.step_functions_of(variant.config, session.dataset)
