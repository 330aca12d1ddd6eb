"""The entry point of an experiment, errors as one line with exit status 2, and which experiments there are."""

import ast
import importlib
import json
import pkgutil
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import app, flags

from mnistlab.errors import UserError

from .cli import process, settings
from .cli.flags import RESULTS as RESULTS
from .cli.flags import command as command
from .cli.flags import data_dir as data_dir
from .cli.flags import define_run_flags, define_training_flags, options, parse
from .cli.flags import workdir as workdir
from .cli.process import with_devices_of_cores as with_devices_of_cores
from .cli.progress import log, progress
from .cli.shells import Flag

if TYPE_CHECKING:
    from mnistlab.comparison.spec import Experiment, Options

# Entry points that are no comparison of a source.
TOOLS = [
    "bench",
    "compare",
    "completion",
    "export",
    "gather",
    "judge",
    "list",
    "open",
    "power",
    "predict",
    "prune",
    "scoreboard",
    "show",
]
flags.disclaim_key_flags()  # those that `main` defines are the experiment's


def main(experiment: "Experiment") -> None:
    """The entry point of a training experiment."""
    define_flags()
    enter(lambda: _run(experiment))


def define_flags() -> None:
    """Flags of a comparison that trains."""
    define_run_flags()
    define_training_flags()
    settings.define_flags()


def enter(body: Callable[..., Any], arguments: Sequence[str] = (), *, needs_jax: bool = True) -> None:
    """Parses the command line, sets the process up and runs `body`; bad input is one line and exit status 2.

    Args:
      arguments: names of the paths that stand on the line beside the flags, as flags.parse takes them; `body` is
        called with the texts given for them.
      needs_jax: False for a tool that only reads numbers, which then works where there is no JAX.
    """

    def start(argv: Sequence[str]) -> None:
        try:
            process.set_up(needs_jax=needs_jax)
            body(*argv[1:])
            sys.stdout.flush()
        except BrokenPipeError:  # mnistlab list | head
            process.leave_quietly()
        except UserError as error:
            process.fail(str(error))
        except FloatingPointError as error:
            print(
                f"error: {error}; without --debug_nans a diverged run is counted and the others go on", file=sys.stderr
            )
            process.leave(1)
        except process.Stopped as stop:
            name = signal.Signals(stop.number).name
            process.say(f"stopped by {name} after a whole epoch, which is kept; {_again()} goes on from there")
            sys.exit(process.STATUS_OF_SIGNAL[stop.number])
        except KeyboardInterrupt:
            goes_on = f"; {_again()} resumes after the last whole epoch" if "resume" in flags.FLAGS else ""
            print(f"\ninterrupted{goes_on}", file=sys.stderr)
            process.leave(130)
        except Exception as error:
            if "jax" not in sys.modules:
                raise
            from mnistlab.devices import cluster

            if not cluster.is_lost_process(error):
                if process.joined():  # an orderly exit would wait for the others, which wait for this one
                    traceback.print_exc()
                    process.leave(1)
                raise
            print(f"error: another process has died; {_again()} resumes after the last whole epoch", file=sys.stderr)
            process.leave(process.STATUS_OF_SIGNAL[signal.SIGTERM])

    app.run(start, flags_parser=lambda argv: _parse(argv, arguments))


def _again() -> str:
    replaces = "resume" in flags.FLAGS and not flags.FLAGS.resume
    return "the same command without --noresume" if replaces else "the same command"


def _run(experiment: "Experiment") -> None:
    from mnistlab.comparison import run, spec
    from mnistlab.comparison.run import Hooks
    from mnistlab.devices import cluster

    from .cli.next_step import next_step

    protocol = spec.protocol_of(experiment, flags.FLAGS.protocol)
    asked = spec.settled(experiment, options(experiment.name, protocol))
    if flags.FLAGS.dry_run:
        _plan(experiment, asked)
        return
    stop, kind = process.stop_at_signals(), flags.FLAGS.progress
    spec.resolve(experiment, asked)  # bad values end here, before the banner
    if not cluster.is_first():
        run.run(experiment, asked, Hooks(callbacks=lambda name, variant: [stop]))
        return
    seeds = f"{asked.num_seeds} seed(s)" if asked.until is None else f"seeds until {asked.until}"
    print(f"{experiment.title}\n{experiment.question}\nprotocol {asked.protocol}, {seeds}")
    hooks = Hooks(log, lambda name, variant: [progress(kind, name, variant.num_epochs), stop])
    log(next_step(run.run(experiment, asked, hooks), asked))


def _plan(experiment: "Experiment", asked: "Options") -> None:
    """The config on stdout, for a file; what is said of it on stderr."""
    from mnistlab.comparison import plan

    planned = plan.plan(experiment, asked)
    print("\n".join(plan.lines(planned)), file=sys.stderr, flush=True)
    print(json.dumps(planned.config, indent=2))


def _parse(argv: Sequence[str], arguments: Sequence[str]) -> list[str]:
    try:
        return parse(argv, arguments)
    except UserError as error:
        process.fail(str(error))
    except SystemExit:  # absl's, after --help, with status 1
        sys.exit(0)
    except BrokenPipeError:  # --help | head
        process.leave_quietly()


def names() -> list[str]:
    """The modules of this package that are comparisons: of a source, or our own."""
    modules = pkgutil.iter_modules([str(Path(__file__).parent)])
    return sorted({module.name for module in modules} - {*TOOLS, "common", "cli", "__main__"})


def flags_of(name: str | None) -> list[Flag]:
    """The flags of the entry point `name`; None: of a comparison in a file of one's own."""
    from mnistlab.training.checks import REGISTRIES

    variants: dict[str, Any] = {}
    define: Callable[[], None] | None = define_flags
    if name is not None:
        is_package = (Path(__file__).parent / name).is_dir()
        module = importlib.import_module(f"{__package__}.{name}{'.__main__' if is_package else ''}")
        experiment = getattr(module, "EXPERIMENT", None)
        variants = {**experiment.reported, **experiment.controlled, "all": None} if experiment else {}
        define = getattr(module, "define_flags", define if experiment else None)
    before = set(flags.FLAGS)
    if define is not None:
        define()
    found = []
    for own in sorted(set(flags.FLAGS) - before):
        about = flags.FLAGS[own]
        named = tuple(variants) if own == "variants" else tuple(REGISTRIES.get(own, ()))
        choices = named or tuple(getattr(about.parser, "enum_values", None) or ())
        found.append(Flag(own, bool(about.boolean), choices))
        delattr(flags.FLAGS, own)
    return found


def docstring(name: str) -> str:
    """What an entry point says of itself: a line, how it is called, and more."""
    folder = Path(__file__).parent
    path = folder / f"{name}.py" if (folder / f"{name}.py").exists() else folder / name / "__init__.py"
    return ast.get_docstring(ast.parse(path.read_text())) or ""


def summary_line(name: str) -> str:
    """The first line of an entry point's docstring."""
    return docstring(name).split("\n")[0]


def listing() -> str:
    """The comparisons and the tools, one line each."""
    groups = (("Experiments", names()), ("Tools", TOOLS))
    return "\n".join(
        f"{heading}\n" + "\n".join(f"  {name:28} {summary_line(name)}" for name in own) for heading, own in groups
    )
