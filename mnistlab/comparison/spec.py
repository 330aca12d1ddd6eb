"""A comparison as data: variants, claims, two protocols, and what a caller may ask of it."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from mnistlab import config as configs
from mnistlab.analysis.claims import Checked, Claim
from mnistlab.config import AugmentConfig, TrainConfig
from mnistlab.data.datasets import Dataset
from mnistlab.errors import UserError
from mnistlab.report import page
from mnistlab.report.page import Draw
from mnistlab.training.result import Result
from mnistlab.training.step import Metric
from mnistlab.training.trained import Trained

PROTOCOLS = ("reported", "controlled")


@dataclasses.dataclass(frozen=True)
class Variant(TrainConfig):
    """One row of a comparison: what is trained, and what is said of it."""

    description: str = ""
    curve: str | None = None  # the reported curve drawn behind ours, a file in source_numbers/
    learning_rates: tuple[float, ...] = ()  # the one with the best mean validation accuracy is taken
    by_default: bool = True  # else it runs only when named, or with variants=("all",)

    @property
    def config(self) -> TrainConfig:
        """What is trained, without what is said of it."""
        return TrainConfig(**{field.name: getattr(self, field.name) for field in dataclasses.fields(TrainConfig)})


class Outcome(NamedTuple):
    """What an experiment's own figures and tables are made of."""

    results: dict[str, Result]  # variant -> runs; a swept variant once for each point of the grid
    searched: dict[str, dict[float, Result]]  # variant -> learning rate -> runs, where one was chosen
    trained: dict[str, Trained]  # as results, with the weights
    dataset: Dataset
    predictions: dict[str, np.ndarray]  # variant -> int [test examples], of the first seed
    seconds: dict[str, dict[str, float]]  # trained variant -> wall seconds of compiling, training, evaluating
    protocol: str


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
    source: str = ""
    question: str = ""  # what is asked, in a sentence or two
    quirks: str = ""  # what "reported" keeps of the source and "controlled" mends
    reported: Mapping[str, Variant] = dataclasses.field(default_factory=dict)
    controlled: Mapping[str, Variant] = dataclasses.field(default_factory=dict)
    claims: tuple[Claim, ...] = ()
    metrics: Mapping[str, Metric] = dataclasses.field(default_factory=dict)  # measured on the final weights
    extra: Extra | None = None


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
    population_size: int | None = None
    num_devices: int | None = None  # of each process; None: all
    strategy: str = "auto"  # of mesh.STRATEGIES
    stream_megabytes: int | None = None  # of the dataset on the devices at a time; None: all of it where it fits
    command: str = ""  # how to repeat it


def resolve(experiment: Experiment, options: Options) -> dict[str, Variant]:
    """The variants to run, with the options' overrides in them.

    Raises:
      UserError: an unknown protocol, variant or setting, or an impossible value.
    """
    if options.protocol not in PROTOCOLS:
        raise UserError(f"protocol is {options.protocol!r}; expected one of {', '.join(PROTOCOLS)}")
    known = experiment.reported if options.protocol == "reported" else experiment.controlled
    names = options.variants or tuple(name for name, variant in known.items() if variant.by_default)
    names = tuple(known) if names == ("all",) else names
    resolved = {}
    for name in names:
        if name not in known:
            raise UserError(
                f"unknown variant {name!r} (protocol {options.protocol}); expected some of {', '.join(known)}"
            )
        variant = override(known[name], options.overrides)
        if variant.program is not None and variant.augment != AugmentConfig():
            raise UserError(f"variant {name} has a program of its own, which cannot augment; leave it or --augment out")
        if "learning_rate" in options.overrides or "learning_rate" in options.sweep:
            variant = dataclasses.replace(variant, learning_rates=())
        configs.check_sweep(options.sweep, configs.check(variant))
        resolved[name] = variant
    return resolved


def override(variant: Variant, overrides: Mapping[str, Any]) -> Variant:
    """`variant` with fields of it or of its optimiser replaced; "convolution" is the form of the model's."""
    settings = dict(overrides)
    if "convolution" in settings:
        options = dict(variant.model_options) | {"form": settings.pop("convolution")}
        variant = dataclasses.replace(variant, model_options=tuple(options.items()))
    if "optimizer" in settings:  # first: its defaults give way to the other overrides
        variant = dataclasses.replace(variant, optim=configs.optim_default(settings.pop("optimizer")))
    for name, value in settings.items():
        variant = configs.with_setting(variant, name, value)
    return variant


def sweep_of(variant: Variant, options: Options) -> dict[str, tuple[float, ...]]:
    """The grid over which a variant is trained."""
    return {**options.sweep, **({"learning_rate": variant.learning_rates} if variant.learning_rates else {})}
