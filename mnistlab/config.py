"""Every knob of a training run: frozen, typed, with the unit in the name, to and from JSON."""

import dataclasses
import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from mnistlab.errors import UserError

OPTIMIZERS = ("adam", "adamw", "sgd", "rmsprop", "adadelta")
SCHEDULES = ("constant", "warmup_cosine", "exponential", "piecewise", "one_cycle")
SPLITS = ("own", "test_halves", "test_halves_swapped", "test_is_validation", "random_80_20", "random_55_5")
ORDERS = ("tfds", "file")
LOSSES = ("cross_entropy", "double_softmax", "categorical")
SWEEPABLE = ("learning_rate", "momentum", "weight_decay", "dropout_rate", "initial_scale")
"""Settings that change numbers but not the program: they can be a vmapped axis."""

MAX_SEED = 2**32 - 1  # jax.random.key(2**32 + s) silently equals key(s)
# More is a slip of the hand, which would end as a lack of memory.
MAX_SEEDS = MAX_EPOCHS = MAX_BATCH_SIZE = 1_000_000
MAX_FLOAT32 = 3.4028234663852886e38


@dataclasses.dataclass(frozen=True)
class OptimConfig:
    """An optimiser and its learning-rate schedule; times are in epochs."""

    name: str = "adam"
    learning_rate: float = 1e-3  # the peak of the schedule
    momentum: float = 0.0  # sgd only
    weight_decay: float = 0.0  # adamw only, decoupled
    schedule: str = "constant"
    warmup_epochs: float = 0.0  # warmup_cosine, one_cycle: length of the linear rise
    decay_factor: float = 0.1  # exponential, piecewise: what the rate is multiplied by
    decay_epochs: tuple[float, ...] = ()  # exponential: one number, the length of a decay; piecewise: when it drops


@dataclasses.dataclass(frozen=True)
class AugmentConfig:
    """What is drawn anew for every training example at every step; 0 is off, and all off is no augmentation."""

    shift_pixels: int = 0  # at most so far along each axis, by whole pixels
    rotate_degrees: float = 0.0  # at most, either way
    scale_fraction: float = 0.0  # a factor from [1 - f, 1 + f]
    elastic_alpha_pixels: float = 0.0  # elastic distortion: what the smoothed noise is multiplied by
    elastic_sigma_pixels: float = 0.0  # how far it is smoothed
    cutout_pixels: int = 0  # side of a square set to 0
    mixup_alpha: float = 0.0  # mixed with another example at a share ~ Beta(alpha, alpha)


OPTIM_DEFAULTS = {
    "adam": OptimConfig("adam", 1e-3),
    "adamw": OptimConfig("adamw", 1e-3, weight_decay=0.004),
    "sgd": OptimConfig("sgd", 1e-2),
    "rmsprop": OptimConfig("rmsprop", 1e-3),
    "adadelta": OptimConfig("adadelta", 1.0),  # as Keras 2.1 had it; later releases say 1e-3
}
"""Keras' defaults by name."""


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """One variant of an experiment: data, model, loss, optimiser and budget."""

    model: str  # a name in models.MODELS
    dataset: str = "mnist"
    order: str = "tfds"  # order of the examples before splitting: as TFDS wrote them, or as in the original file
    split: str = "test_halves"
    model_options: tuple[tuple[str, Any], ...] = ()
    loss: str = "cross_entropy"
    loss_reduction: str = "mean"  # over the batch: mean, or sum
    optim: OptimConfig = OptimConfig()
    batch_size: int = 128  # examples a step, over all devices
    num_epochs: int = 20
    patience_epochs: int | None = None  # early stopping on validation loss; the best weights are restored
    pixel_scale: float = 1 / 255  # images enter the model as float32(image) * pixel_scale
    dropout_rate: float | None = None  # None keeps the model's own rates
    initial_scale: float = 1.0  # multiplies every initial kernel
    augment: AugmentConfig = AugmentConfig()
    limit_examples: int | None = None  # first N training examples
    program: Callable[["TrainConfig"], Any] | None = None  # -> StepFunctions, in place of model, loss and optimiser


T = TypeVar("T")
C = TypeVar("C", bound=TrainConfig)


def optim_default(name: str) -> OptimConfig:
    """Keras' defaults for the optimiser `name`.

    Raises:
      UserError: no such optimiser.
    """
    _one_of("optimizer", name, OPTIMIZERS)
    return OPTIM_DEFAULTS[name]


def check(config: TrainConfig) -> TrainConfig:
    """Returns `config` where every value is possible.

    Raises:
      UserError: one line that names the first impossible value.
    """
    optim = config.optim
    _one_of("optimizer", optim.name, OPTIMIZERS)
    _one_of("schedule", optim.schedule, SCHEDULES)
    _one_of("split", config.split, SPLITS)
    _one_of("order", config.order, ORDERS)
    _one_of("loss", config.loss, LOSSES)
    _one_of("loss_reduction", config.loss_reduction, ("mean", "sum"))
    _number("learning_rate", optim.learning_rate, low=0.0, low_is_open=True)
    _number("momentum", optim.momentum, low=0.0, high=1.0)
    _number("weight_decay", optim.weight_decay, low=0.0)
    _number("warmup_epochs", optim.warmup_epochs, low=0.0, high=MAX_EPOCHS)
    _number("decay_factor", optim.decay_factor, low=0.0, low_is_open=True)
    for epochs in optim.decay_epochs:
        _number("decay_epochs", epochs, low=0.0, high=MAX_EPOCHS, low_is_open=True)
    if list(optim.decay_epochs) != sorted(set(optim.decay_epochs)):
        raise UserError(f"decay_epochs is {optim.decay_epochs!r:.80}; expected increasing numbers of epochs")
    if optim.schedule == "exponential" and len(optim.decay_epochs) != 1:
        raise UserError(
            "schedule exponential needs one number in decay_epochs: the epochs in which the rate decays once"
        )
    if optim.schedule == "piecewise" and not optim.decay_epochs:
        raise UserError("schedule piecewise needs decay_epochs: the epochs at which the rate drops")
    _integer("batch_size", config.batch_size, low=1, high=MAX_BATCH_SIZE)
    _integer("epochs", config.num_epochs, low=1, high=MAX_EPOCHS)
    if config.patience_epochs is not None:
        _integer("patience_epochs", config.patience_epochs, low=1, high=MAX_EPOCHS)
    if config.limit_examples is not None:
        _integer("limit_examples", config.limit_examples, low=2)
    _number("pixel_scale", config.pixel_scale, low=0.0, low_is_open=True)
    _number("initial_scale", config.initial_scale, low=0.0)
    if config.dropout_rate is not None:
        _number("dropout_rate", config.dropout_rate, low=0.0, high=1.0)
    _check_augment(config.augment)
    if optim.momentum and optim.name != "sgd":
        raise UserError(f"momentum is set, but {optim.name} has none; use the optimizer sgd")
    if optim.weight_decay and optim.name != "adamw":
        raise UserError(f"weight_decay is set, but {optim.name} has none; use the optimizer adamw")
    return config


def _check_augment(augment: AugmentConfig) -> None:
    _integer("shift_pixels", augment.shift_pixels, low=0)
    _number("rotate_degrees", augment.rotate_degrees, low=0.0)
    _number("scale_fraction", augment.scale_fraction, low=0.0, high=1.0)
    _number("elastic_alpha_pixels", augment.elastic_alpha_pixels, low=0.0)
    _number("elastic_sigma_pixels", augment.elastic_sigma_pixels, low=0.0)
    _integer("cutout_pixels", augment.cutout_pixels, low=0)
    _number("mixup_alpha", augment.mixup_alpha, low=0.0)
    if bool(augment.elastic_alpha_pixels) != bool(augment.elastic_sigma_pixels):
        raise UserError("elastic distortion needs both elastic_alpha_pixels and elastic_sigma_pixels, e.g. 34 and 4")


def check_sweep(sweep: Mapping[str, Sequence[float]], config: TrainConfig) -> None:
    """Checks every swept value as if it stood in `config`.

    Raises:
      UserError: an unknown setting, or an impossible value.
    """
    for name, values in sweep.items():
        _one_of("sweep", name, SWEEPABLE)
        if not values:
            raise UserError(f"sweep of {name} has no values; expected e.g. {name}=0.1,0.2")
        if len(set(values)) < len(values):
            raise UserError(f"sweep of {name} names a value twice: {','.join(map(str, values))}")
        for value in values:
            check(with_setting(config, name, value))


def with_setting(config: C, name: str, value: Any) -> C:
    """`config` with one field of it or of its optimiser replaced.

    >>> with_setting(TrainConfig("dense"), "learning_rate", 0.1).optim.learning_rate
    0.1
    """
    change: dict[str, Any] = {name: value}
    if name in {field.name for field in dataclasses.fields(OptimConfig)}:
        return dataclasses.replace(config, optim=dataclasses.replace(config.optim, **change))
    return dataclasses.replace(config, **change)


def check_seeds(first: int, count: int) -> tuple[int, ...]:
    """The seeds first..first+count-1.

    Raises:
      UserError: no seeds, or a seed outside [0, 2**32).
    """
    _integer("seeds", count, low=1, high=MAX_SEEDS)
    _integer("seed", first, low=0)
    if first + count - 1 > MAX_SEED:
        raise UserError(f"seed {first + count - 1} is too large; expected at most {MAX_SEED}")
    return tuple(range(first, first + count))


def to_dict(config: TrainConfig) -> dict[str, Any]:
    """A config as JSON can hold it; what is no named choice is left out."""
    values = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    values["optim"], values["augment"] = dataclasses.asdict(config.optim), dataclasses.asdict(config.augment)
    del values["program"]
    return values


def to_json(config: Any) -> str:
    """JSON of a config dataclass; `from_json` gives an equal value back."""
    return json.dumps(dataclasses.asdict(config), indent=2)


def from_json(cls: type[T], text: str) -> T:
    """The config that `to_json` wrote.

    >>> config = TrainConfig("dense", optim=OptimConfig("sgd", momentum=0.9))
    >>> from_json(TrainConfig, to_json(config)) == config
    True

    Raises:
      UserError: not JSON, an unknown or a missing field.
    """
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"config is not JSON: {error}; expected what mnistlab wrote") from error
    return from_dict(cls, values)


def from_dict(cls: type[T], values: Mapping[str, Any]) -> T:
    """As `from_json`, from what the JSON parser returns."""
    if not isinstance(values, Mapping):
        raise UserError(f"config is {values!r:.80}; expected a JSON object with fields of {cls.__name__}")
    fields = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    unknown = sorted(set(values) - set(fields))
    if unknown:
        raise UserError(f"config has the unknown field {unknown[0]!r}; expected some of {', '.join(fields)}")
    known = {name: _field_value(name, value) for name, value in values.items()}
    try:
        return cls(**known)
    except TypeError as error:
        raise UserError(f"config is incomplete: {error}") from error


def _field_value(name: str, value: Any) -> Any:
    if name == "optim":
        return from_dict(OptimConfig, value)
    if name == "augment":
        return from_dict(AugmentConfig, value)
    return _tuples(value)


def _tuples(value: Any) -> Any:
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value


def _one_of(what: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise UserError(f"{what} is {value!r:.80}; expected one of {', '.join(allowed)}")


def _integer(what: str, value: int, *, low: int, high: int | None = None) -> None:
    good = isinstance(value, int) and not isinstance(value, bool)
    if not good or value < low or (high is not None and value > high):
        bound = "" if high is None else f" and at most {high:,}"
        raise UserError(f"{what} is {value!r:.80}; expected a whole number of at least {low}{bound}")


def _number(what: str, value: float, *, low: float, high: float = math.inf, low_is_open: bool = False) -> None:
    good = isinstance(value, int | float) and (value > low if low_is_open else value >= low)
    if not good or not value < high or value > MAX_FLOAT32:
        bound = f"more than {low:g}" if low_is_open else f"at least {low:g}"
        bound += f" and less than {min(high, MAX_FLOAT32):g}"
        raise UserError(f"{what} is {value!r:.80}; expected a number of {bound}")
