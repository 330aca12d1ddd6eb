"""Every setting of a training run: frozen, typed, with the unit in the name, to and from what JSON holds.

A field says of itself what the command line and `check` need: its help, its bounds or choices, its flag.
"""

import dataclasses
import math
import types
import typing
from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple, TypeVar

from mnistlab.errors import UserError, meant

SPLITS = ("own", "test_halves", "test_halves_swapped", "test_is_validation", "random_80_20", "random_55_5")
ORDERS = ("tfds", "file")
SWEEPABLE = ("learning_rate", "momentum", "weight_decay", "dropout_rate", "initial_scale")
"""Settings that change numbers but not the program: they can be a vmapped axis."""

MAX_SEED = 2**32 - 1  # jax.random.key(2**32 + s) silently equals key(s)
MAX_FLOAT32 = 3.4028234663852886e38


@dataclasses.dataclass(frozen=True)
class Interval:
    """The numbers from `low` to `high`, which belong to it unless they are open.

    >>> RATE, 1.0 in RATE
    (at least 0 and less than 1, False)
    """

    low: float
    high: float = MAX_FLOAT32
    low_is_open: bool = False
    high_is_open: bool = False

    def __contains__(self, number: float) -> bool:
        above = number > self.low if self.low_is_open else number >= self.low
        return above and (number < self.high if self.high_is_open else number <= self.high)

    def __repr__(self) -> str:
        low, high = (f"{end:,}" if isinstance(end, int) else f"{end:g}" for end in (self.low, self.high))
        bound = f"{'more than' if self.low_is_open else 'at least'} {low}"
        return (
            bound if self.high == math.inf else f"{bound} and {'less than' if self.high_is_open else 'at most'} {high}"
        )


POSITIVE = Interval(0, low_is_open=True)
NOT_NEGATIVE = Interval(0)
RATE = Interval(0, 1, high_is_open=True)
COUNT = Interval(1, 1_000_000)  # more is a slip of the hand, which would end as a lack of memory


class Setting(NamedTuple):
    """What a field of a settings dataclass says of itself."""

    name: str
    kind: type  # of its value, or where it is a tuple of each of its values
    is_tuple: bool
    may_be_none: bool
    default: Any
    help: str
    within: Interval | None
    choices: tuple[str, ...]  # empty: any, or what a registry holds
    flag: str | None  # its name on the command line and in messages; None: it has no flag

    @property
    def word(self) -> str:
        """What messages call it."""
        return self.flag or self.name


def setting(
    default: Any, help: str, *, within: Interval | None = None, choices: tuple[str, ...] = (), flag: str | None = ""
) -> Any:
    """A dataclass field with what `Setting` holds as its metadata; its flag has its name unless it says otherwise."""
    about = {"help": help, "within": within, "choices": choices, "flag": flag}
    return dataclasses.field(default=default, metadata=about)


def settings_of(cls: type) -> list[Setting]:
    """The fields of a dataclass that were made with `setting`.

    >>> [(each.name, each.kind, each.flag) for each in settings_of(TrainConfig)][-1]
    ('limit_examples', <class 'int'>, 'limit_examples')
    """
    found = []
    for field in dataclasses.fields(cls):
        if field.metadata:
            kinds = typing.get_args(field.type) or (field.type,)
            is_tuple = typing.get_origin(field.type) is tuple
            may_be_none = types.NoneType in kinds
            about = dict(field.metadata)
            about["flag"] = field.name if about["flag"] == "" else about["flag"]
            found.append(Setting(field.name, kinds[0], is_tuple, may_be_none, field.default, **about))
    return found


@dataclasses.dataclass(frozen=True)
class OptimConfig:
    """An optimiser and its learning-rate schedule; times are in epochs."""

    name: str = setting("adam", "Optimiser, with its own defaults.", flag="optimizer")
    learning_rate: float = setting(1e-3, "Learning rate: the schedule's peak.", within=POSITIVE)
    momentum: float = setting(0.0, "Momentum of sgd.", within=RATE)
    weight_decay: float = setting(0.0, "Decoupled weight decay of adamw.", within=NOT_NEGATIVE)
    schedule: str = setting("constant", "Schedule of the learning rate.")
    warmup_epochs: float = setting(
        0.0, "warmup_cosine, one_cycle: epochs of linear rise.", within=Interval(0, 1_000_000)
    )
    decay_factor: float = setting(0.1, "exponential, piecewise: what the rate is multiplied by.", within=POSITIVE)
    decay_epochs: tuple[float, ...] = setting(
        (),
        "exponential: epochs of one decay; piecewise: epochs at which the rate drops.",
        within=Interval(0, 1_000_000, low_is_open=True),
    )


@dataclasses.dataclass(frozen=True)
class AugmentConfig:
    """What is drawn anew for every training example at every step; 0 is off, and all off is no augmentation.

    The image bounds what is in pixels further: data.augment.check.
    """

    shift_pixels: int = setting(0, "at most so far along each axis, by whole pixels", within=Interval(0, math.inf))
    rotate_degrees: float = setting(0.0, "at most, either way", within=Interval(0, 180))
    scale_fraction: float = setting(0.0, "a factor from [1 - f, 1 + f]", within=RATE)
    elastic_alpha_pixels: float = setting(0.0, "what smoothed noise is multiplied by", within=NOT_NEGATIVE)
    elastic_sigma_pixels: float = setting(0.0, "how far that noise is smoothed", within=NOT_NEGATIVE)
    cutout_pixels: int = setting(0, "side of a square set to 0", within=Interval(0, math.inf))
    mixup_alpha: float = setting(0.0, "mixed with another example at a share ~ Beta(alpha, alpha)", within=NOT_NEGATIVE)
    flip_fraction: float = setting(0.0, "share of the images that are mirrored left to right", within=Interval(0, 1))


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """One variant of an experiment: data, model, loss, optimiser and budget."""

    model: Any  # a name in nets.models.MODELS, or any Linen module: image float32 [N, H, W, C] -> logits [N, K]
    dataset: str = setting(
        "mnist", "Another dataset for every variant: fashion_mnist, kmnist, emnist/digits, any prepared TFDS name."
    )
    order: str = setting(
        "tfds", "Of the examples before splitting: as TFDS or the original file has them.", choices=ORDERS, flag=None
    )
    split: str = setting("test_halves", "What is trained, validated and tested on.", choices=SPLITS, flag=None)
    model_options: tuple[tuple[str, Any], ...] = ()
    loss: Any = setting("cross_entropy", "Loss of one example.", flag=None)  # noqa: RUF009 - or (logits, label) -> float32 [N]
    loss_reduction: str = setting("mean", "Over the batch.", choices=("mean", "sum"), flag=None)
    optimizer: Any = OptimConfig()  # or any optax transformation, which then decides its own learning rate
    batch_size: int = setting(128, "Examples a step, over all devices.", within=COUNT)
    num_epochs: int = setting(20, "Epochs.", within=COUNT, flag="epochs")
    patience_epochs: int | None = setting(
        None,
        "Early stopping: end after so many epochs without a lower validation loss, and restore the best weights.",
        within=COUNT,
    )
    pixel_scale: float = setting(
        1 / 255, "Images enter the model as float32(image) * pixel_scale.", within=POSITIVE, flag=None
    )
    dropout_rate: float | None = setting(None, "In place of every dropout rate of the model.", within=RATE)
    initial_scale: float = setting(1.0, "Multiplies every initial kernel.", within=NOT_NEGATIVE)
    augment: AugmentConfig = AugmentConfig()
    label_smoothing: float = setting(
        0.0, "In training, the share of each label that is spread evenly over all classes.", within=RATE
    )
    average_epochs: float = setting(
        0.0,
        "Validate and test an exponential moving average of the weights over about this many last epochs; "
        "0: the weights themselves.",
        within=Interval(0, 1_000_000),
    )
    limit_examples: int | None = setting(
        None, "Train on the first N training images, for a quick look.", within=Interval(2, math.inf)
    )
    program: Callable[["TrainConfig"], Any] | None = None  # -> StepFunctions, in place of model, loss and optimiser
    # A user's own: name -> (logits float32 [N, K], label int32 [N]) -> float32 [N], measured on the final weights.
    metrics: Mapping[str, Callable[..., Any]] = dataclasses.field(default_factory=dict)


WORDS = {about.name: about.word for cls in (OptimConfig, TrainConfig) for about in settings_of(cls)}
"""What messages call a field: the flag that sets it, where it has one."""

T = TypeVar("T")
C = TypeVar("C", bound=TrainConfig)


def check(config: C, registries: Mapping[str, Collection[str]] | None = None) -> C:
    """Returns `config` where every value is possible.

    Args:
      registries: what a setting may name, by its flag: training.checks knows them.

    Raises:
      UserError: one line that names the first impossible value.
    """
    for part in (config.optimizer, config, config.augment):
        if dataclasses.is_dataclass(part):
            check_fields(part, registries)
    augment = config.augment
    decay_epochs = config.optimizer.decay_epochs if isinstance(config.optimizer, OptimConfig) else ()
    if list(decay_epochs) != sorted(set(decay_epochs)):
        raise UserError(f"decay_epochs is {decay_epochs!r:.80}; expected increasing numbers of epochs")
    if bool(augment.elastic_alpha_pixels) != bool(augment.elastic_sigma_pixels):
        raise UserError("elastic distortion needs both elastic_alpha_pixels and elastic_sigma_pixels, e.g. 34 and 4")
    return config


def check_fields(part: Any, registries: Mapping[str, Collection[str]] | None = None) -> None:
    """Checks every field of a settings dataclass against what it says of itself.

    Raises:
      UserError: one line that names the first impossible value.
    """
    for about in settings_of(type(part)):
        value = getattr(part, about.name)
        choices = (registries or {}).get(about.word, about.choices)
        is_left_out = value is None and about.may_be_none
        if choices and not callable(value) and not is_left_out:
            one_of(about.word, value, choices)
        if about.is_tuple and not isinstance(value, tuple | list):
            raise UserError(f"{about.word} is {value!r:.80}; expected a tuple")
        if about.within is not None and not is_left_out:
            for number in value if about.is_tuple else (value,):
                _check_number(about.word, number, about.kind, about.within)


def with_setting(config: C, name: str, value: Any) -> C:
    """`config` with one field of it or of its optimiser replaced.

    Raises:
      UserError: a number of the optimiser's where the optimiser is an optax transformation.

    >>> with_setting(TrainConfig("dense"), "learning_rate", 0.1).optimizer.learning_rate
    0.1
    """
    change: dict[str, Any] = {name: value}
    if name in {field.name for field in dataclasses.fields(OptimConfig)}:
        if not isinstance(config.optimizer, OptimConfig):
            raise UserError(
                f"{name} cannot be set: the optimizer is an optax transformation; set it where that is made"
            )
        return dataclasses.replace(config, optimizer=dataclasses.replace(config.optimizer, **change))
    return dataclasses.replace(config, **change)


def check_seeds(first: int, count: int) -> tuple[int, ...]:
    """The seeds first..first+count-1.

    Raises:
      UserError: no seeds, or a seed outside [0, 2**32).
    """
    _check_number("seeds", count, int, COUNT)
    _check_number("seed", first, int, Interval(0, math.inf))
    if first + count - 1 > MAX_SEED:
        raise UserError(f"seed {first + count - 1} is too large; expected at most {MAX_SEED}")
    return tuple(range(first, first + count))


def to_dict(config: TrainConfig) -> dict[str, Any]:
    """A config as JSON can hold it; of what is no named choice the name of its type or function."""
    values = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    values["augment"] = dataclasses.asdict(config.augment)
    if isinstance(config.optimizer, OptimConfig):
        values["optimizer"] = dataclasses.asdict(config.optimizer)
    else:
        values["optimizer"] = "an optax transformation"
    for name in ("model", "loss"):
        if not isinstance(values[name], str):
            values[name] = getattr(values[name], "__name__", type(values[name]).__name__)
    del values["program"], values["metrics"]
    return values


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested mapping as one, names joined by points.

    >>> flat({"optimizer": {"name": "adam"}, "loss": "sum"})
    {'optimizer.name': 'adam', 'loss': 'sum'}
    """
    leaves: dict[str, Any] = {}
    for name, value in tree.items():
        leaves |= flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {prefix + name: value}
    return leaves


def is_named(config: TrainConfig) -> bool:
    """Whether names and numbers say all of `config`, so that JSON holds all of it."""
    parts = (config.model, config.loss)
    named = all(isinstance(part, str) for part in parts) and isinstance(config.optimizer, OptimConfig)
    return named and config.program is None


def from_dict(cls: type[T], values: Mapping[str, Any]) -> T:
    """The config of what a JSON parser returns.

    >>> import json
    >>> config = TrainConfig("dense", optimizer=OptimConfig("sgd", momentum=0.9))
    >>> from_dict(TrainConfig, json.loads(json.dumps(dataclasses.asdict(config)))) == config
    True

    Raises:
      UserError: no object, an unknown or a missing field.
    """
    if not isinstance(values, Mapping):
        raise UserError(f"config is {values!r:.80}; expected a JSON object with fields of {cls.__name__}")
    fields = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    values = {("optimizer" if name == "optim" else name): value for name, value in values.items()}  # as format 1 says
    unknown = sorted(set(values) - set(fields))
    if unknown:
        near = meant(unknown[0], fields)
        raise UserError(f"config has the unknown field {unknown[0]!r}; {near}expected some of {', '.join(fields)}")
    known = {name: _field_value(name, value) for name, value in values.items()}
    try:
        return cls(**known)
    except TypeError as error:
        raise UserError(f"config is incomplete: {error}") from error


def _field_value(name: str, value: Any) -> Any:
    if name == "optimizer" and not isinstance(value, str):
        return from_dict(OptimConfig, value)
    if name == "augment":
        return from_dict(AugmentConfig, value)
    return _tuples(value)


def _tuples(value: Any) -> Any:
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value


def one_of(what: str, value: Any, allowed: Collection[str]) -> None:
    """Raises UserError where `value` is none of `allowed`."""
    if value not in tuple(allowed):
        near = meant(value, allowed) if isinstance(value, str) else ""
        raise UserError(f"{what} is {value!r:.80}; {near}expected one of {', '.join(allowed)}")


def _check_number(what: str, value: Any, kind: type, within: Interval) -> None:
    whole = kind is int
    good = isinstance(value, int if whole else int | float) and not isinstance(value, bool)
    if not good or value not in within:
        raise UserError(f"{what} is {value!r:.80}; expected a {'whole ' if whole else ''}number of {within}")
