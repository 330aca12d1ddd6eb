"""The process of an entry point: what it is set to before a device is touched, its signals, and how it ends."""

import os
import signal
import sys
import warnings
from typing import TYPE_CHECKING, Any, NoReturn

from absl import flags, logging

from mnistlab import files

from .flags import usable

if TYPE_CHECKING:
    from mnistlab.training.callbacks import Callback

FLAGS = flags.FLAGS


def set_up(*, needs_jax: bool = True) -> None:
    """Environment and JAX settings, before a device is touched."""
    logging.set_verbosity(logging.FATAL)  # TFDS and orbax log much that is of no interest, and repeat what they raise
    warnings.showwarning = lambda message, *_, **__: print(f"warning: {message}", file=sys.stderr)
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    if not needs_jax:
        return
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "true" if FLAGS.preallocate else "false")
    if FLAGS.deterministic:  # XLA takes the last of a repeated flag
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_gpu_deterministic_ops=true".strip()
    import jax

    hook = sys.unraisablehook
    sys.unraisablehook = lambda what: None if _is_late_callback(what) else hook(what)
    if FLAGS.matmul_precision != "default":
        jax.config.update("jax_default_matmul_precision", FLAGS.matmul_precision)
    if FLAGS.compile_cache != "off":
        own = files.cache_folder() / "programs"
        path = usable("compile_cache", FLAGS.compile_cache) if FLAGS.compile_cache else own
        jax.config.update("jax_compilation_cache_dir", str(path))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    if "distributed" in FLAGS:
        from mnistlab.devices import cluster

        found = cluster.resolve_cluster(
            FLAGS.distributed, os.environ, FLAGS.coordinator, FLAGS.num_processes, FLAGS.process_id
        )
        if found is None:
            os.environ["XLA_FLAGS"] = with_devices_of_cores(os.environ.get("XLA_FLAGS", ""))
        else:  # one device per process: its cores work on one run together
            cluster.join(found, heartbeat_seconds=FLAGS.heartbeat_seconds)


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
    return xla_flags if flag in xla_flags else f"{xla_flags} {flag}={num_cores()}".strip()


def num_cores() -> int:
    """How many cores this process may use; of a system that does not say, such as macOS, all there are."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class Stopped(Exception):
    """A signal asked the run to end, and an epoch has just been kept."""

    def __init__(self, number: int):
        super().__init__(number)
        self.number = number


STATUS_OF_SIGNAL: dict[int, int] = {signal.SIGTERM: os.EX_TEMPFAIL, signal.SIGINT: 130}
"""EX_TEMPFAIL, 75: try again later, which schedulers can be told to requeue on."""


def stop_at_signals() -> "Callback":
    """From now on SIGTERM and SIGINT only ask; the callback returned raises Stopped where one has.

    To be called after each epoch by every process. An epoch is one compiled program, within which nothing can stop. A second
    SIGINT ends the process at once.
    """
    received: list[int] = []

    def note(number: int, frame: Any) -> None:
        del frame
        received.append(number)
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            say("\nending after this epoch; once more to end at once")

    for number in STATUS_OF_SIGNAL:
        signal.signal(number, note)

    def check() -> None:
        from mnistlab.devices import cluster

        agreed = cluster.agree(max(received, default=0))
        if agreed:
            raise Stopped(agreed)

    from mnistlab.training.callbacks import OnEpoch

    return OnEpoch(lambda epoch: check())


def fail(text: str) -> NoReturn:
    print(f"error: {text}", file=sys.stderr)
    leave(2)


def leave(status: int) -> NoReturn:
    """Ends the process; where there are several, at once, since an orderly exit would wait for the others."""
    if joined():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


def leave_quietly() -> NoReturn:
    """Ends the process where nobody reads what it prints, which the interpreter would complain of when it flushes."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(128 + signal.SIGPIPE)  # as a program that the signal ends


def say(text: str) -> None:
    """A line on stderr, from the first process alone."""
    import jax

    if not joined() or jax.process_index() == 0:
        print(text, file=sys.stderr, flush=True)


def joined() -> bool:
    """Whether this is one of several processes."""
    jax = sys.modules.get("jax")
    return jax is not None and jax.distributed.is_initialized()
