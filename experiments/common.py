"""The door: flags common to all experiments, progress on the terminal, errors as one line with exit status 2."""

import dataclasses
import importlib
import os
import pkgutil
import shlex
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from absl import app, flags, logging

from mnistlab.errors import UserError

if TYPE_CHECKING:
    from mnistlab.comparison.experiment import Display, Experiment, Options
    from mnistlab.config import AugmentConfig
    from mnistlab.training.train import Epoch

FLAGS = flags.FLAGS
TOOLS = ("bench", "compare", "gather", "power")  # entry points that are no comparison of a source


def define_run_flags() -> None:
    """Flags of every entry point."""
    flags.DEFINE_string("workdir", None, "Folder for what the run leaves; default results/<experiment>.")
    flags.DEFINE_string("data_dir", None, "TFDS data folder; default ~/.cache/mnistlab/datasets.")
    flags.DEFINE_enum("progress", "auto", ["auto", "bar", "lines", "none"], "How progress is shown.")
    flags.DEFINE_bool(
        "deterministic", False, "The same bits from the same command on a GPU too, somewhat slower; a CPU's are anyway."
    )
    flags.DEFINE_bool("preallocate", False, "Let JAX take the GPU's memory at the start instead of as needed.")
    flags.DEFINE_enum(
        "matmul_precision", "default", ["default", "float32", "tensorfloat32", "bfloat16"], "Precision of products."
    )
    flags.DEFINE_string(
        "compile_cache", None, "Folder of compiled programs, or 'off'; default ~/.cache/mnistlab/programs."
    )


def define_training_flags() -> None:
    """Flags of the experiments that train."""
    flags.DEFINE_integer("seeds", 1, "How many seeds.")
    flags.DEFINE_integer("seed", 0, "The first seed.")
    flags.DEFINE_enum("protocol", "reported", ["reported", "controlled"], "As the source did it, or asked fairly.")
    flags.DEFINE_list("variants", [], "Which variants; 'all' adds those that run only when named.")
    flags.DEFINE_integer("epochs", None, "Epochs, in place of each variant's own.")
    flags.DEFINE_integer("batch_size", None, "Examples a step, in place of each variant's own.")
    flags.DEFINE_string("optimizer", None, "adam, adamw, sgd, rmsprop or adadelta, with Keras' defaults.")
    flags.DEFINE_float("learning_rate", None, "Learning rate (the schedule's peak), in place of each variant's own.")
    flags.DEFINE_float("momentum", None, "Momentum of sgd.")
    flags.DEFINE_float("weight_decay", None, "Decoupled weight decay of adamw.")
    flags.DEFINE_string("schedule", None, "constant, warmup_cosine, exponential, piecewise or one_cycle.")
    flags.DEFINE_float("warmup_epochs", None, "warmup_cosine, one_cycle: epochs of linear rise.")
    flags.DEFINE_float("decay_factor", None, "exponential, piecewise: what the rate is multiplied by.")
    flags.DEFINE_list("decay_epochs", None, "exponential: epochs of one decay; piecewise: epochs at which it drops.")
    flags.DEFINE_float("dropout_rate", None, "In place of every dropout rate of the model.")
    flags.DEFINE_float("initial_scale", None, "Multiplies every initial kernel.")
    flags.DEFINE_list(
        "augment", None, "e.g. shift=2,rotate=10,scale=0.1,elastic_alpha=34,elastic_sigma=4,cutout=8,mixup=0.2."
    )
    flags.DEFINE_enum(
        "convolution",
        None,
        ["cells", "slices", "lax"],
        "How convolutions are computed, in place of what suits the backend.",
    )
    flags.DEFINE_integer("patience_epochs", None, "Early stopping on validation loss.")
    flags.DEFINE_integer("limit_examples", None, "Train on the first N training images, for a quick look.")
    flags.DEFINE_multi_string("sweep", [], "setting=value,value,...: train the grid; may be repeated.")
    flags.DEFINE_integer("crowd_size", None, "How many runs share a compiled program.")
    flags.DEFINE_integer(
        "stream_megabytes",
        None,
        "Keep the dataset on disk and so much of it on the devices at a time; default: all of it, unless it is too large.",
        lower_bound=1,
    )
    flags.DEFINE_integer("devices", None, "How many devices of each process train; default all.")
    flags.DEFINE_enum("parallel", "auto", ["auto", "jit", "pmap", "shard_map"], "How several devices share the work.")
    flags.DEFINE_enum(
        "distributed", "auto", ["auto", "on", "off"], "Several processes: as the launcher says, asked for, or never."
    )
    flags.DEFINE_string("coordinator", None, "host:port of the first process, where no launcher names it.")
    flags.DEFINE_integer("num_processes", None, "How many processes, where no launcher says.")
    flags.DEFINE_integer("process_id", None, "Which of them this is, from 0, where no launcher says.")
    flags.DEFINE_integer("heartbeat_seconds", 10, "After how long a silent process counts as dead.", lower_bound=1)
    flags.DEFINE_bool("resume", True, "Continue what --workdir holds; --noresume replaces it.")
    flags.DEFINE_bool("tensorboard", False, "Write TensorBoard events to <workdir>/tb.")
    flags.DEFINE_bool(
        "debug_nans", False, "End at the first NaN or infinity and name its seed, step, layer and operation; status 1."
    )


def main(experiment: "Experiment") -> None:
    """The entry point of a training experiment."""
    define_run_flags()
    define_training_flags()
    enter(lambda: _run(experiment))


def enter(body: Callable[..., Any], arguments: Sequence[str] = ()) -> None:
    """Parses the command line, sets the process up and runs `body`; bad input is one line and exit status 2.

    Args:
      arguments: names of what stands on the line beside the flags; `body` is called with as many texts.
    """

    def start(argv: Sequence[str]) -> None:
        try:
            _set_up()
            body(*argv[1:])
        except UserError as error:
            _fail(str(error))
        except FloatingPointError as error:
            print(
                f"error: {error}; without --debug_nans a diverged run is counted and the others go on", file=sys.stderr
            )
            _leave(1)
        except Stopped as stop:
            name = signal.Signals(stop.number).name
            _say(f"stopped by {name} after a whole epoch, which is kept; the same command goes on from there")
            sys.exit(STATUS_OF_SIGNAL[stop.number])
        except KeyboardInterrupt:
            print("\ninterrupted; the same command resumes after the last whole epoch", file=sys.stderr)
            _leave(130)
        except Exception as error:
            from mnistlab.devices import parallel

            if not parallel.is_lost_process(error):
                if _joined():  # an orderly exit would wait for the others, which wait for this one
                    traceback.print_exc()
                    _leave(1)
                raise
            print(
                "error: another process has died; the same command resumes after the last whole epoch", file=sys.stderr
            )
            _leave(STATUS_OF_SIGNAL[signal.SIGTERM])

    app.run(start, flags_parser=lambda argv: _parse(argv, arguments))


class Stopped(Exception):
    """A signal asked the run to end, and an epoch has just been kept."""

    def __init__(self, number: int):
        super().__init__(number)
        self.number = number


STATUS_OF_SIGNAL: dict[int, int] = {signal.SIGTERM: os.EX_TEMPFAIL, signal.SIGINT: 130}
"""EX_TEMPFAIL, 75: try again later, which schedulers can be told to requeue on."""


def stop_at_signals() -> Callable[[], None]:
    """From now on SIGTERM and SIGINT only ask; the function returned raises Stopped where one has.

    To be called after each epoch by every process. An epoch is one compiled program, within which nothing can stop. A second
    SIGINT ends the process at once.
    """
    received: list[int] = []

    def note(number: int, frame: Any) -> None:
        del frame
        received.append(number)
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            _say("\nending after this epoch; once more to end at once")

    for number in STATUS_OF_SIGNAL:
        signal.signal(number, note)

    def check() -> None:
        from mnistlab.devices import parallel

        agreed = parallel.agree(max(received, default=0))
        if agreed:
            raise Stopped(agreed)

    return check


def workdir(name: str) -> Path:
    """--workdir, or results/<name>."""
    return Path(FLAGS.workdir or Path("results") / name)


def data_dir() -> Path | None:
    """--data_dir."""
    return Path(FLAGS.data_dir) if FLAGS.data_dir else None


def command() -> str:
    """This process's command line, as a user would type it."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    module = spec.name.removesuffix(".__main__") if spec else Path(sys.argv[0]).stem
    return shlex.join(["python", "-m", module, *sys.argv[1:]])


def _run(experiment: "Experiment") -> None:
    from mnistlab.comparison import experiment as engine
    from mnistlab.devices import parallel

    asked = dataclasses.replace(options(experiment.name), after_epoch=stop_at_signals())
    engine.resolve(experiment, asked)  # bad values end here, before the banner
    if not parallel.is_first():
        engine.run(experiment, asked)
        return
    print(f"{experiment.title}\n{experiment.question}\nprotocol {asked.protocol}, {asked.num_seeds} seed(s)")
    engine.run(experiment, asked, display(FLAGS.progress))


def options(name: str) -> "Options":
    """What the common flags ask of the experiment `name`."""
    from mnistlab.comparison.experiment import Options

    names = {
        "num_epochs": "epochs", "batch_size": "batch_size", "optimizer": "optimizer", "learning_rate": "learning_rate",
        "momentum": "momentum", "weight_decay": "weight_decay", "schedule": "schedule",
        "warmup_epochs": "warmup_epochs",
        "decay_factor": "decay_factor", "dropout_rate": "dropout_rate", "initial_scale": "initial_scale",
        "patience_epochs": "patience_epochs", "limit_examples": "limit_examples", "convolution": "convolution",
    }  # fmt: skip
    overrides = {field: getattr(FLAGS, flag) for field, flag in names.items() if getattr(FLAGS, flag) is not None}
    if FLAGS.decay_epochs is not None:
        overrides["decay_epochs"] = _numbers("decay_epochs", FLAGS.decay_epochs)
    if FLAGS.augment is not None:
        overrides["augment"] = augmentation(FLAGS.augment)
    if FLAGS.crowd_size is not None and FLAGS.crowd_size < 1:
        raise UserError(f"crowd_size is {FLAGS.crowd_size}; expected a whole number of at least 1")
    suffix = "" if FLAGS.protocol == "reported" else f"_{FLAGS.protocol}"
    return Options(
        workdir=workdir(name + suffix),
        protocol=FLAGS.protocol,
        num_seeds=FLAGS.seeds,
        first_seed=FLAGS.seed,
        variants=tuple(FLAGS.variants),
        overrides=overrides,
        sweep=_sweeps(FLAGS.sweep),
        data_dir=data_dir(),
        resume=FLAGS.resume,
        tensorboard=FLAGS.tensorboard,
        debug_nans=FLAGS.debug_nans,
        crowd_size=FLAGS.crowd_size,
        num_devices=FLAGS.devices,
        strategy=FLAGS.parallel,
        stream_megabytes=FLAGS.stream_megabytes,
        command=command(),
    )


def _sweeps(texts: Sequence[str]) -> dict[str, tuple[float, ...]]:
    sweeps: dict[str, tuple[float, ...]] = {}
    for name, values in map(_sweep, texts):
        if name in sweeps:
            raise UserError(f"sweep of {name} is given twice; expected all its values in one --sweep={name}=...")
        sweeps[name] = values
    return sweeps


def _sweep(text: str) -> tuple[str, tuple[float, ...]]:
    name, equals, values = text.partition("=")
    if not equals:
        raise UserError(f"sweep is {text!r}; expected setting=value,value,... such as learning_rate=1e-4,1e-3")
    return name, _numbers("sweep", values.split(","))


def augmentation(settings: Sequence[str]) -> "AugmentConfig":
    """The augmentation that name=value settings ask for; the names are AugmentConfig's without their units.

    >>> augmentation(["shift=2", "rotate=7.5"])  # doctest: +ELLIPSIS
    AugmentConfig(shift_pixels=2, rotate_degrees=7.5, ...)
    """
    from mnistlab.config import AugmentConfig

    fields = {field.name.rpartition("_")[0]: field for field in dataclasses.fields(AugmentConfig)}
    values = {}
    for text in settings:
        name, _, value = text.partition("=")
        if name not in fields:
            raise UserError(f"augment has {text!r}; expected name=value with a name of {', '.join(fields)}")
        number = _numbers("augment", [value])[0]
        values[fields[name].name] = int(number) if fields[name].type is int and number.is_integer() else number
    return AugmentConfig(**values)  # type: ignore[arg-type]


def _numbers(what: str, texts: Sequence[str]) -> tuple[float, ...]:
    try:
        return tuple(float(text) for text in texts)
    except ValueError as error:
        raise UserError(f"{what} has {','.join(texts)!r}; expected numbers separated by commas") from error


def display(progress: str = "auto") -> "Display":
    """Progress as a bar where stderr is a terminal, else as plain lines."""
    from mnistlab.comparison.experiment import Display

    bar = progress == "bar" or (progress == "auto" and sys.stderr.isatty())
    state: dict[str, Any] = {}

    def line(text: str) -> None:
        print(text, flush=True)

    def begin(variant: str, num_epochs: int) -> None:
        state.update(variant=variant, num_epochs=num_epochs)

    def epoch(variant: str, epoch: "Epoch") -> None:
        if progress == "none":
            return
        values = {name: float(_mean(values)) for name, values in epoch.record.items()}
        crowd = f"{variant} seeds {epoch.runs[0].seed}-{epoch.runs[-1].seed}" if len(epoch.runs) > 1 else variant
        if not bar:
            shown = " - ".join(f"{name}: {value:.4f}" for name, value in values.items())
            line(f"{crowd} epoch {epoch.number}/{state['num_epochs']} - {epoch.seconds:.1f}s - {shown}")
            return
        from tqdm import tqdm

        if state.get("crowd") != crowd:
            end()
            state.update(
                crowd=crowd, bar=tqdm(total=state["num_epochs"], desc=crowd, unit="epoch", initial=epoch.number - 1)
            )
        state["bar"].set_postfix({name.replace("accuracy", "acc"): f"{value:.4f}" for name, value in values.items()})
        state["bar"].update()

    def end() -> None:
        if state.get("bar") is not None:
            state["bar"].close()
        state.update(bar=None, crowd=None)

    return Display(line, begin, epoch, end)


def _mean(values: Any) -> float:
    import numpy as np

    finite = values[np.isfinite(values)]
    return finite.mean() if len(finite) else float("nan")


def _parse(argv: Sequence[str], arguments: Sequence[str]) -> list[str]:
    try:
        rest = flags.FLAGS(list(argv))
    except flags.Error as error:
        _fail(str(error).split("\n")[0])
    given = rest[1:]
    if len(given) > len(arguments):
        _fail(f"unexpected argument {given[len(arguments)]!r}; flags start with --, see --help")
    if len(given) < len(arguments):
        _fail(f"{' '.join(arguments[len(given) :])} is missing; expected {' '.join(arguments)}, see --help")
    return rest


def _set_up() -> None:
    """Environment and JAX settings, before a device is touched."""
    logging.set_verbosity(logging.FATAL)  # TFDS and orbax tell much that is no news, and what they raise as well
    warnings.showwarning = lambda message, *_, **__: print(f"warning: {message}", file=sys.stderr)
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "true" if FLAGS.preallocate else "false")
    if FLAGS.deterministic:  # of a flag that is there twice XLA takes the last
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_gpu_deterministic_ops=true".strip()
    import jax

    hook = sys.unraisablehook
    sys.unraisablehook = lambda what: None if _is_late_callback(what) else hook(what)
    if FLAGS.matmul_precision != "default":
        jax.config.update("jax_default_matmul_precision", FLAGS.matmul_precision)
    if FLAGS.compile_cache != "off":
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mnistlab" / "programs"
        jax.config.update("jax_compilation_cache_dir", str(FLAGS.compile_cache or cache))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    if "distributed" in FLAGS:
        from mnistlab.devices import parallel

        cluster = parallel.resolve_cluster(
            FLAGS.distributed, os.environ, FLAGS.coordinator, FLAGS.num_processes, FLAGS.process_id
        )
        if cluster is None:
            os.environ["XLA_FLAGS"] = with_devices_of_cores(os.environ.get("XLA_FLAGS", ""))
        else:  # a device a process: the cores of one help each other
            parallel.join(cluster, heartbeat_seconds=FLAGS.heartbeat_seconds)


def _is_late_callback(unraisable: Any) -> bool:
    """What TensorStore's threads say after a checkpoint could not be read or written, which is an error of its own.

    orbax closes its event loop at the first failure; the others still report to it.
    """
    return isinstance(unraisable.exc_value, RuntimeError) and str(unraisable.exc_value) == "Event loop is closed"


def with_devices_of_cores(xla_flags: str) -> str:
    """XLA_FLAGS with a device for each core that this process may use, unless they say another number of them.

    It changes nothing where JAX finds an accelerator.
    """
    flag = "--xla_force_host_platform_device_count"
    return xla_flags if flag in xla_flags else f"{xla_flags} {flag}={len(os.sched_getaffinity(0))}".strip()


def _fail(text: str) -> NoReturn:
    print(f"error: {text}", file=sys.stderr)
    _leave(2)


def _leave(status: int) -> NoReturn:
    """Ends the process; one of several at once, since an orderly exit would wait for the others."""
    if _joined():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


def _say(text: str) -> None:
    """A line on stderr, from the first process alone."""
    import jax

    if not _joined() or jax.process_index() == 0:
        print(text, file=sys.stderr, flush=True)


def _joined() -> bool:
    """Whether this is one of several processes."""
    jax = sys.modules.get("jax")
    return jax is not None and jax.distributed.is_initialized()


def names() -> list[str]:
    """The modules of this package that are comparisons of a source, and the scoreboard of them."""
    return [name for name in _entry_points() if name not in TOOLS]


def tools() -> list[str]:
    """The modules of this package that work on runs of any experiment."""
    return [name for name in _entry_points() if name in TOOLS]


def _entry_points() -> list[str]:
    folder = Path(__file__).parent
    others = {"common", "__main__"}
    modules = pkgutil.iter_modules([str(folder)])
    return sorted(module.name for module in modules if module.name not in others and not module.ispkg)


def summary_line(name: str) -> str:
    """The first line of an entry point's docstring."""
    text = importlib.import_module(f"experiments.{name}").__doc__ or ""
    return text.strip().split("\n")[0]
