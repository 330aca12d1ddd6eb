"""The command line: flags from the settings that they set, what they ask of an experiment, and what was meant by a slip."""

import re
import shlex
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import flags

from mnistlab.config import AugmentConfig, OptimConfig, Setting, TrainConfig, settings_of
from mnistlab.errors import UserError, nearest

from . import settings

if TYPE_CHECKING:
    from mnistlab.comparison.spec import Options

FLAGS = flags.FLAGS
PROGRAMS = ("mnistlab ", "python -m ", "bash launch/")
RESULTS = Path("results")  # where runs are left that no --workdir puts elsewhere
flags.disclaim_key_flags()  # they are the entry point's that asks for them: its --help lists them

_DEFINE: dict[type, Callable[..., Any]] = {
    int: flags.DEFINE_integer,
    float: flags.DEFINE_float,
    bool: flags.DEFINE_bool,
    str: flags.DEFINE_string,
}


def define_run_flags() -> None:
    """Flags of every entry point."""
    flags.DEFINE_string(
        "workdir",
        None,
        "Folder for what the run leaves; default results/<experiment>[_controlled], in results/quick/ with --limit_examples.",
    )
    flags.DEFINE_string("data_dir", None, "TFDS data folder; default ~/.cache/mnistlab/datasets.")
    flags.DEFINE_enum("progress", "auto", ["auto", "bar", "lines", "none"], "How progress is shown.")
    flags.DEFINE_bool(
        "deterministic", False, "Bitwise repeatable results on a GPU, somewhat slower; on a CPU they always are."
    )
    flags.DEFINE_bool("preallocate", False, "Let JAX take the GPU's memory at the start instead of as needed.")
    flags.DEFINE_enum(
        "matmul_precision", "default", ["default", "float32", "tensorfloat32", "bfloat16"], "Precision of products."
    )
    flags.DEFINE_string(
        "compile_cache", None, "Folder of compiled programs, or 'off'; default ~/.cache/mnistlab/programs."
    )


def define_training_flags() -> None:
    """Flags of the experiments that train: the settings' own, and those that set something else."""
    from mnistlab.comparison.spec import Options
    from mnistlab.devices import cluster
    from mnistlab.nets.layers import FORMS
    from mnistlab.training.checks import REGISTRIES

    for about in settings_of(Options):
        _define(about, about.default, about.help)
    for about in [*settings_of(OptimConfig), *settings_of(TrainConfig)]:
        names = f" One of {', '.join(REGISTRIES[about.word])}." if about.word in REGISTRIES else ""
        _define(about, None, f"{about.help}{names} Default: each variant's own.")
    moves = "; ".join(f"{name}: {about.help}" for name, about in _moves().items())
    flags.DEFINE_list("augment", None, f"name=number,... such as shift=2,rotate=10. {moves}.")
    flags.DEFINE_enum(
        "convolution",
        None,
        FORMS,
        "How convolutions are computed: cells or slices (our matrix products) or lax (XLA's own); default: the quickest known here.",
    )
    flags.DEFINE_multi_string("sweep", [], "setting=value,value,...: train the grid; may be repeated.")
    flags.DEFINE_enum(
        "distributed",
        "auto",
        cluster.MODES,
        "Join other processes: auto if a launcher says so, on: always, off: never.",
    )
    flags.DEFINE_string("coordinator", None, "host:port of the first process, where no launcher names it.")
    flags.DEFINE_integer("num_processes", None, "How many processes, where no launcher says.")
    flags.DEFINE_integer("process_id", None, "Which of them this is, from 0, where no launcher says.")
    flags.DEFINE_integer("heartbeat_seconds", 10, "After how long a silent process counts as dead.", lower_bound=1)


def _define(about: Setting, default: Any, help: str) -> None:
    """The flag of a setting, if it has one."""
    if about.flag is None:
        return
    if about.choices:
        flags.DEFINE_enum(about.flag, default, about.choices, help)
    elif about.is_tuple:
        flags.DEFINE_list(about.flag, default, help)
    else:
        _DEFINE[about.kind](about.flag, default, help)


def options(name: str, protocol: str | None = None) -> "Options":
    """What the common flags ask of the experiment `name`, which runs under `protocol` (default: --protocol).

    Raises:
      UserError: a flag whose value cannot be.
    """
    from mnistlab.comparison import workdirs
    from mnistlab.comparison.spec import Options

    overrides = _given(OptimConfig) | _given(TrainConfig)
    if "name" in overrides:
        overrides["optimizer"] = overrides.pop("name")
    if FLAGS.augment is not None:
        overrides["augment"] = augmentation(FLAGS.augment)
    if FLAGS.convolution is not None:
        overrides["convolution"] = FLAGS.convolution
    configs = {}
    if "config" in FLAGS and FLAGS.config:
        run = settings.read_config(usable("config", FLAGS.config))
        if run["experiment"] != name:
            raise UserError(f"{FLAGS.config} is of the experiment {run['experiment']!r:.80}, not of {name}; run that")
        configs = run["variants"]
    folder = workdirs.folder_name(name, protocol or FLAGS.protocol)
    return Options(
        workdir=workdir(folder if FLAGS.limit_examples is None else f"quick/{folder}"),
        configs=configs,
        overrides=overrides,
        sweep=_sweeps(FLAGS.sweep),
        data_dir=data_dir(),
        command=command(),
        **_given(Options),
    )


def _given(cls: type) -> dict[str, Any]:
    """What the flags of the settings in `cls` say, where they say something."""
    given: dict[str, Any] = {}
    for about in settings_of(cls):
        value = None if about.flag is None else FLAGS[about.flag].value
        if value is not None and about.is_tuple:
            value = tuple(value) if about.kind is str else _numbers(about.word, value)
        if value is not None:
            given[about.name] = value
    return given


def _sweeps(texts: Sequence[str]) -> dict[str, tuple[float, ...]]:
    sweeps: dict[str, tuple[float, ...]] = {}
    for text in texts:
        name, equals, values = text.partition("=")
        if not equals:
            raise UserError(f"sweep is {text!r}; expected setting=value,value,... such as learning_rate=1e-4,1e-3")
        numbers = _numbers("sweep", values.split(","))
        if name in sweeps:
            raise UserError(f"sweep of {name} is given twice; expected all its values in one --sweep={name}=...")
        sweeps[name] = numbers
    return sweeps


def augmentation(settings: Sequence[str]) -> AugmentConfig:
    """The augmentation that name=value settings ask for; the names are AugmentConfig's without their units.

    Raises:
      UserError: an unknown name, or a value that is no number.

    >>> augmentation(["shift=2", "rotate=7.5"])  # doctest: +ELLIPSIS
    AugmentConfig(shift_pixels=2, rotate_degrees=7.5, ...)
    """
    moves = _moves()
    values: dict[str, Any] = {}
    for text in settings:
        name, _, value = text.partition("=")
        if name not in moves:
            raise UserError(f"augment has {text!r}; expected name=value with a name of {', '.join(moves)}")
        number = _numbers("augment", [value])[0]
        values[moves[name].name] = int(number) if moves[name].kind is int and number.is_integer() else number
    return AugmentConfig(**values)


def _moves() -> dict[str, Setting]:
    return {about.name.rpartition("_")[0]: about for about in settings_of(AugmentConfig)}


def _numbers(what: str, texts: Sequence[str]) -> tuple[float, ...]:
    try:
        return tuple(float(text) for text in texts)
    except ValueError as error:
        raise UserError(f"{what} has {','.join(texts)!r}; expected numbers separated by commas") from error


def workdir(name: str) -> Path:
    """--workdir, or results/<name>."""
    return usable("workdir", FLAGS.workdir or str(RESULTS / name))


def data_dir() -> Path | None:
    """--data_dir."""
    return usable("data_dir", FLAGS.data_dir) if FLAGS.data_dir else None


def usable(flag: str, text: str) -> Path:
    """The path that a flag names.

    Raises:
      UserError: no file can have that name, or the libraries beneath, which take UTF-8 alone, cannot open it.
    """
    try:
        path = Path(text).expanduser()
        str(path.absolute()).encode()
        path.exists()
    except UnicodeEncodeError as error:
        raise UserError(f"{flag} is {text!a:.80}, which is not UTF-8; choose another name") from error
    except (OSError, ValueError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{flag} is {text!r:.80}: {reason}; choose another name") from error
    return path


def command() -> str:
    """This process's command line, as a user would type it."""
    if sys.argv[0].startswith(PROGRAMS):  # as cli.main calls it
        return shlex.join([*shlex.split(sys.argv[0]), *sys.argv[1:]])
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    module = spec.name.removesuffix(".__main__") if spec else Path(sys.argv[0]).stem
    return shlex.join(["python", "-m", module, *sys.argv[1:]])


def parse(argv: Sequence[str], arguments: Sequence[str]) -> list[str]:
    """`argv` without its flags: the program, and as many paths as there are names in `arguments`.

    Where the last name ends in "...", one path or more are called so; one in [brackets] may be left out.

    Raises:
      UserError: an unknown flag or an impossible value; too many or too few paths.
    """
    try:
        rest = FLAGS(["--help" if text == "-h" else text for text in argv])
    except flags.UnrecognizedFlagError as error:
        known = [*FLAGS, *(f"no{name}" for name in FLAGS if FLAGS[name].boolean)]
        raise UserError(f"unknown flag --{error.flagname!s:.80}; {_advice(error.flagname, known)}") from error
    except flags.Error as error:
        raise UserError(_clearer(str(error).split("\n")[0])) from error
    given = rest[1:]
    if arguments and arguments[-1].endswith("..."):
        arguments = [*arguments, *[arguments[-1]] * (len(given) - len(arguments))]
    if len(given) > len(arguments):
        raise UserError(f"unexpected argument {given[len(arguments)]!r}; flags start with --, see --help")
    missing = " ".join(name for name in arguments[len(given) :] if not name.startswith("["))
    if missing:
        raise UserError(f"{missing} is missing; expected {' '.join(arguments)}, see --help")
    for name, text in zip(arguments, given, strict=False):
        usable(name, text)
    if "config" in FLAGS and FLAGS.config:
        _set_defaults(settings.flags_of(settings.read_config(usable("config", FLAGS.config))))
    return rest


def _set_defaults(values: Mapping[str, Any]) -> None:
    """What a config says in place of flags that are not on the line."""
    for name, value in values.items():
        try:
            FLAGS.set_default(name, value)
        except flags.Error as error:
            raise UserError(f"{FLAGS.config}: {error}") from error


def _clearer(message: str) -> str:
    """absl's message about a value, or ours for what people often mean by it."""
    listed = re.match(r"flag --seeds=(\d+)(?:,\d+)+: ", message)
    if listed is None:
        return message
    count = listed[0].count(",") + 1
    return f"seeds says how many, not which; use --seeds={count} --seed={listed[1]} for {count} from {listed[1]} on"


_HABITS = {
    **dict.fromkeys(("output_dir", "output", "outdir", "out", "logdir", "folder"), "workdir"),
    **dict.fromkeys(("num_examples", "max_examples", "subset", "num_train"), "limit_examples"),
    **dict.fromkeys(("force", "overwrite", "restart"), "noresume"),
    **dict.fromkeys(("verbose", "quiet"), "progress"),
    **dict.fromkeys(("gpus", "num_gpus"), "devices"),
    "data": "dataset",
    "l2": "weight_decay",
}
"""What other programs call a flag of ours, where neither its letters nor its initials tell."""

_OF_THE_EXPERIMENT = ("model", "loss", "split")


def _advice(given: str, known: Iterable[str]) -> str:
    given, known = given.lower().replace("-", "_"), list(known)
    if given in _OF_THE_EXPERIMENT and "variants" in known:
        return f"the {given} is the experiment's; another is a comparison of your own: mnistlab run FILE.py, see docs/how_to.md"
    near = _HABITS.get(given)
    near = near if near in known else nearest(given, known)
    return f"did you mean --{near}? See --help" if near else "see --help"
