"""A comparison as data: variants, claims, two protocols, and what a caller may ask of it."""

import dataclasses
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from mnistlab import config as configs
from mnistlab.analysis import departures
from mnistlab.analysis.claims import DIRECTIONS, Checked, Claim
from mnistlab.analysis.sequential import MAX_SEEDS
from mnistlab.config import COUNT, POSITIVE, AugmentConfig, Interval, TrainConfig, setting
from mnistlab.data import batches
from mnistlab.data.datasets import IMAGE_SHAPE, NAMES, Dataset
from mnistlab.devices import mesh
from mnistlab.errors import UserError, is_line, meant
from mnistlab.report import page
from mnistlab.report.page import Draw
from mnistlab.training import checks, optim
from mnistlab.training.result import Result
from mnistlab.training.step import Metric
from mnistlab.training.trained import Trained

PROTOCOLS = ("reported", "controlled")
OWN = "a comparison of the user's own"  # of which there is no source
NUM_TUNING_SEEDS = 6  # the first, whose validation chooses a learning rate: fewer pairs answer no claim


@dataclasses.dataclass(frozen=True)
class Variant(TrainConfig):
    """One row of a comparison: what is trained, and what is said of it."""

    description: str = ""
    curve: str | None = None  # the reported curve drawn behind ours, a file in source_numbers/
    learning_rates: tuple[float, ...] = ()  # that of the best mean validation accuracy of the first seeds is taken
    by_default: bool = True  # else it runs only when named, or with variants=("all",)

    @property
    def config(self) -> TrainConfig:
        """What is trained, without what is said of it."""
        return TrainConfig(**{field.name: getattr(self, field.name) for field in dataclasses.fields(TrainConfig)})


class Outcome(NamedTuple):
    """What an experiment's own figures and tables are made of."""

    results: dict[str, Result]  # variant -> runs; a swept variant once for each point of the grid
    searched: dict[str, dict[float, Result]]  # variant -> learning rate -> runs by which one was chosen
    rates: dict[str, float]  # variant -> the learning rate that was chosen
    trained: dict[str, Trained]  # as results, with the weights
    dataset: Dataset
    predictions: dict[str, np.ndarray]  # variant -> int [test examples], of the first seed
    seconds: dict[str, dict[str, float]]  # trained variant -> wall seconds of compiling, training, evaluating
    protocol: str
    ended: str = ""  # of seeds added until resolved: why they ended, what is open and what it would take
    departures: tuple[str, ...] = ()  # in what the run departs from it; empty: it is the protocol


class Findings(NamedTuple):
    """What an experiment adds to what all show."""

    blocks: Sequence[page.Block] = ()  # of the page
    summary: Mapping[str, Any] = MappingProxyType({})  # entries of summary.json
    claims: Sequence[Checked] = ()  # beside those about runs
    metrics: Mapping[str, Mapping[str, np.ndarray]] = MappingProxyType({})  # variant -> name -> float64 [R]


Extra = Callable[[Outcome, Draw], Findings]


@dataclasses.dataclass(frozen=True)
class Experiment:
    """A comparison of trained networks: two protocols, the claims, and what it shows beyond what all show."""

    name: str
    title: str = ""
    source: str = ""  # whose claims they are; without one they are the user's own
    question: str = ""  # what is asked, in a sentence or two
    quirks: str = ""  # what "reported" keeps of the source and "controlled" mends
    reported: Mapping[str, Variant] = dataclasses.field(default_factory=dict)
    controlled: Mapping[str, Variant] = dataclasses.field(default_factory=dict)
    claims: tuple[Claim, ...] = ()
    answered_by: tuple[str, ...] = ()  # ids of the claims, or metrics, that answer the question; none: the first claim
    metrics: Mapping[str, Metric] = dataclasses.field(default_factory=dict)  # measured on the final weights
    extra: Extra | None = None
    data: Dataset | Callable[[], Dataset] | None = None  # in place of the dataset that the variants name

    def __post_init__(self) -> None:
        said: dict[str, Any] = {"title": self.title or self.name}
        if not self.source:
            said |= {"source": OWN, "claims": tuple(dataclasses.replace(claim, ours=True) for claim in self.claims)}
        for name, value in said.items():
            object.__setattr__(self, name, value)

    def under(self, protocol: str) -> Mapping[str, Variant]:
        """The variants of a protocol."""
        return self.reported if protocol == "reported" else self.controlled


@dataclasses.dataclass(frozen=True)
class Options:
    """What a caller may ask of an experiment; None keeps the experiment's own value."""

    workdir: Path
    protocol: str = setting("reported", "As the source did it, or asked fairly.", choices=PROTOCOLS)
    num_seeds: int = setting(1, "How many seeds.", within=COUNT, flag="seeds")
    until: str | None = setting(
        None,
        "resolved: begin with the fewest seeds that can answer (or --seeds), add some to the variants that an open "
        "claim needs, and stop when every claim is answered.",
        choices=("resolved",),
    )
    max_seeds: int = setting(MAX_SEEDS, "--until: never more seeds of a variant.", within=COUNT)
    max_minutes: float | None = setting(None, "--until: begin no further round after so many minutes.", within=POSITIVE)
    first_seed: int = setting(0, "The first seed.", within=Interval(0, configs.MAX_SEED), flag="seed")
    variants: tuple[str, ...] = setting((), "Which variants; 'all' adds those that run only when named.")
    configs: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # variant -> as a run's config.json has it
    overrides: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # fields of TrainConfig and OptimConfig
    sweep: Mapping[str, tuple[float, ...]] = dataclasses.field(default_factory=dict)
    data_dir: Path | None = None
    resume: bool = setting(True, "Continue what --workdir holds; --noresume replaces it.")
    tensorboard: bool = setting(False, "Write TensorBoard events to <workdir>/tb.")
    wandb: bool = setting(False, "Send every epoch to Weights & Biases; WANDB_MODE=offline keeps it.")
    debug_nans: bool = setting(
        False, "End at the first NaN or infinity and name its seed, step, layer and operation; status 1."
    )
    population_size: int | None = setting(
        None, "How many runs share a compiled program; default: as many as fit.", within=COUNT
    )
    playground: bool = setting(True, "Put the networks into the page, where they answer what one draws.")
    num_devices: int | None = setting(
        None, "How many devices of each process train; default all.", within=COUNT, flag="devices"
    )
    strategy: str = setting("auto", "How several devices share the work.", choices=mesh.STRATEGIES, flag="parallel")
    stream_megabytes: int | None = setting(
        None,
        "Keep the dataset on disk and at most this much of it on the devices; default: all, unless it does not fit.",
        within=Interval(1, math.inf),
    )
    command: str = ""  # how to repeat it


def settled(experiment: Experiment, options: Options) -> Options:
    """`options` with a protocol that the experiment has."""
    return dataclasses.replace(options, protocol=protocol_of(experiment, options.protocol))


def protocol_of(experiment: Experiment, asked: str) -> str:
    """The protocol that was asked for, or the other where the experiment has no such one: one's own has one alone."""
    if experiment.under(asked) or asked not in PROTOCOLS:
        return asked
    return "controlled" if asked == "reported" else "reported"


def resolve(experiment: Experiment, options: Options) -> dict[str, Variant]:
    """The variants to run, with the options' overrides in them.

    Raises:
      UserError: an unknown protocol, variant or setting, an impossible value, or two that contradict each other.
    """
    configs.check_fields(options)
    _check_once(options)
    _check_names(experiment)
    _check_claims(experiment)
    if experiment.data is not None and "dataset" in options.overrides:
        raise UserError("this comparison brings its own data; leave --dataset out")
    known = experiment.under(options.protocol)
    names = options.variants or tuple(name for name, variant in known.items() if variant.by_default)
    names = tuple(known) if names == ("all",) else names
    image_shape, resolved = _image_shape(experiment, options), {}
    for name in names:
        if name not in known:
            raise UserError(
                f"unknown variant {name!r} (protocol {options.protocol}); {meant(name, known)}"
                f"expected some of {', '.join(known)}"
            )
        variant = override(configured(name, known[name], options.configs.get(name)), options.overrides)
        variant = dataclasses.replace(variant, metrics={**experiment.metrics, **variant.metrics})
        if isinstance(experiment.data, Dataset):
            variant = dataclasses.replace(variant, split=batches.split_of(variant, experiment.data))
        if variant.program is not None:
            _check_program(name, variant, known[name], options.sweep)
        if "learning_rate" in options.overrides or "learning_rate" in options.sweep:
            variant = dataclasses.replace(variant, learning_rates=())
        checks.check_sweep(sweep_of(variant, options), checks.check(variant, image_shape), image_shape)
        resolved[name] = variant
    return resolved


def _image_shape(experiment: Experiment, options: Options) -> tuple[int, ...]:
    """That of the images, or one beyond any where only loading tells: then training checks what depends on it."""
    if isinstance(experiment.data, Dataset):
        return experiment.data.train.image.shape[1:]
    is_ours = experiment.data is None and options.overrides.get("dataset", NAMES[0]) in NAMES
    return IMAGE_SHAPE if is_ours else (2**20, 2**20, 1)


def _check_program(name: str, variant: Variant, own: Variant, swept: Iterable[str]) -> None:
    """Checks that nothing is asked of a program of its own, made for the variant `own`, that it would not heed."""
    rate = getattr(variant.optimizer, "learning_rate", None)
    optimizer = dataclasses.replace(own.optimizer, learning_rate=rate) if rate is not None else own.optimizer
    asked = {
        "augment": variant.augment != AugmentConfig(),
        "label_smoothing": variant.label_smoothing > 0,
        "average_epochs": variant.average_epochs > 0,
        "the optimizer and schedule settings": variant.optimizer != optimizer,
        "loss": (variant.loss, variant.loss_reduction) != (own.loss, own.loss_reduction),
        "these model_options": dict(variant.model_options) | {"form": None} != dict(own.model_options) | {"form": None},
        **{setting: setting in swept for setting in ("momentum", "weight_decay")},
    }
    for flag, is_set in asked.items():
        if is_set:
            raise UserError(f"variant {name} has a program of its own, without {flag}; leave it or --{flag} out")


def departures_of(experiment: Experiment, options: Options, variants: Mapping[str, Variant]) -> tuple[str, ...]:
    """In what the resolved `variants` and the options depart from the protocol, in words."""
    protocol = experiment.under(options.protocol)
    own, run = (
        {name: departures.Setup(table[name].config, table[name].learning_rates) for name in variants}
        for table in (protocol, variants)
    )
    return departures.between(own, run, options.sweep)


def _check_claims(experiment: Experiment) -> None:
    """Checks that every claim can be asked, of variants that there are under one protocol or the other."""
    known = [*experiment.reported, *experiment.controlled]
    for claim in experiment.claims:
        configs.one_of(f"the direction of claim {claim.id}", claim.direction, DIRECTIONS)
        if not 0 <= claim.margin < math.inf:
            raise UserError(
                f"claim {claim.id} says that {claim.margin:g} would matter; expected a finite number, 0 or more"
            )
        for name in (claim.left, claim.right):
            if isinstance(name, str) and name not in known:
                raise UserError(
                    f"claim {claim.id} is about the variant {name!r}, which there is not; {meant(name, known)}"
                    f"expected one of {', '.join(dict.fromkeys(known))}"
                )


def _check_names(experiment: Experiment) -> None:
    """Checks that variants can be folders of checkpoints, and claims lines of a table."""
    for name in (*experiment.reported, *experiment.controlled):
        if not is_line(name, 200) or "/" in name or name in (".", ".."):
            raise UserError(
                f"a variant is called {name!r:.80}; expected up to 200 printable characters, no /, as a folder's name"
            )
    for claim in experiment.claims:
        if not (is_line(claim.id, 200) and is_line(claim.text, 2000)):
            raise UserError(f"claim {claim.id!r:.40} says {claim.text!r:.80}; expected a line of printable characters")


def _check_once(options: Options) -> None:
    """Checks that no variant is named twice and no setting is both fixed and swept."""
    for name in options.variants:
        if options.variants.count(name) > 1:
            raise UserError(f"variants names {name!r} twice; expected each once")
    for name in options.sweep:
        if name in options.overrides:
            raise UserError(f"{name} is both fixed and swept; give --{name} or --sweep={name}=..., not both")


def configured(name: str, variant: Variant, entry: Mapping[str, Any] | None) -> Variant:
    """`variant` with what an `entry` of "variants" in a config.json says else of it; what no JSON holds stays.

    Raises:
      UserError: a field that there is not, or of which no such value can be.
    """
    if entry is None:
        return variant
    own = json.loads(json.dumps(configs.to_dict(variant.config)))
    unknown = next((field for field in entry["config"] if field not in own), None)
    if unknown is not None:
        raise UserError(
            f"the config of {name} has the unknown field {unknown!r:.80}; {meant(unknown, own)}leave it out"
        )
    changed = {field: value for field, value in entry["config"].items() if value != own[field]}
    read = configs.from_dict(TrainConfig, {"model": variant.model, **changed})
    rates = entry.get("learning_rates", variant.learning_rates)
    if not isinstance(rates, list | tuple):
        raise UserError(f"the learning_rates of {name} are {rates!r:.80}; expected a list of numbers")
    fields = {field: getattr(read, field) for field in changed}
    return dataclasses.replace(variant, learning_rates=tuple(rates), **fields)


def override(variant: Variant, overrides: Mapping[str, Any]) -> Variant:
    """`variant` with fields of it or of its optimiser replaced; "convolution" is the form of the model's."""
    settings = dict(overrides)
    if settings.get("dataset", variant.dataset) not in (*NAMES, variant.dataset):  # nobody knows the order of its file
        settings["order"] = "tfds"
    if "convolution" in settings:
        options = dict(variant.model_options) | {"form": settings.pop("convolution")}
        variant = dataclasses.replace(variant, model_options=tuple(options.items()))
    if "optimizer" in settings:  # first: its defaults give way to the other overrides
        variant = dataclasses.replace(variant, optimizer=optim.default_config(settings.pop("optimizer")))
    for name, value in settings.items():
        variant = configs.with_setting(variant, name, value)
    return variant


def sweep_of(variant: Variant, options: Options) -> dict[str, tuple[float, ...]]:
    """The grid over which a variant is trained."""
    return {**options.sweep, **({"learning_rate": variant.learning_rates} if variant.learning_rates else {})}
