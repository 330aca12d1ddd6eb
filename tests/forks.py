"""Processes as `python -m MODULE` starts them, but forked from one that has imported JAX and the rest: seconds less.

Each pytest process has one such parent. It has no threads and has touched no device, so what is set before JAX starts,
XLA_FLAGS for example, is set in the fork as in a process of its own. Where the imports themselves are asked about, a
test starts Python by `subprocess`.
"""

import atexit
import concurrent.futures
import contextlib
import functools
import gc
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO

ROOT = Path(__file__).parents[1]
SOCKET = "MNISTLAB_TESTS_FORKS"  # in the environment: the file descriptor of a parent of forks
IMPORTED = (
    "absl.app", "jax", "matplotlib.pyplot", "mnistlab.comparison.run", "scipy.stats", "tensorflow_datasets", "undrawn",
)  # fmt: skip


class Started:
    """A process like that of `subprocess.Popen`, a child of the parent of forks."""

    def __init__(self, status: int, stdout: IO[str], stderr: IO[str]):
        self.stdout, self.stderr, self.returncode = stdout, stderr, None
        self._status = status
        self.pid = int(_line(status))

    def poll(self) -> int | None:
        """The exit status, negative where a signal ended it; None while it runs."""
        if self.returncode is None and select.select([self._status], [], [], 0)[0]:
            self.wait()
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None:
            if not select.select([self._status], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0)
            self.returncode = int(_line(self._status))
            os.close(self._status)
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """What is left to be read of both streams, when it has ended; after `timeout` it is killed."""
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            texts = [pool.submit(file.read) for file in (self.stdout, self.stderr)]
            try:
                self.wait(timeout)
            except BaseException:
                self.kill()
                raise
            return texts[0].result(), texts[1].result()

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def _line(file: int) -> bytes:
    """One line, and nothing read beyond it."""
    line = b""
    while not line.endswith(b"\n"):
        read = os.read(file, 1)
        if not read:
            raise EOFError("the parent of forks has ended")
        line += read
    return line


@functools.cache
def _parent() -> socket.socket:
    """The socket of the parent, which is started at the first call and ends with this process."""
    ours, theirs = socket.socketpair()
    environ = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "OPENBLAS_NUM_THREADS": "1"}
    environ |= {name: os.environ[name] for name in ("HOME", "XDG_CACHE_HOME") if name in os.environ}
    command = [sys.executable, __file__, str(theirs.fileno())]
    process = subprocess.Popen(
        command, env=environ, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    )
    theirs.close()
    atexit.register(process.wait)
    atexit.register(ours.close)
    return ours


def socket_of_parent() -> int:
    """The file that a process is to inherit, and to find by `SOCKET`, to be one of `_command_line`."""
    return _parent().fileno()


def _command_line(arguments: Sequence[str]) -> int:
    """`python forks.py -m MODULE ARGUMENT ...` in another process, whose environment names the parent of forks."""
    environ = {name: value for name, value in os.environ.items() if name != SOCKET}
    request = {"module": arguments[1], "arguments": list(arguments[2:]), "folder": str(Path.cwd()), "environ": environ}
    status = _fork(request | {"pictures": False}, 1, 2, socket.socket(fileno=int(os.environ[SOCKET])))
    _line(status)
    return int(_line(status)) % 256


def _fork(request: Mapping[str, object], out: int, err: int, parent: socket.socket | None = None) -> int:
    """Starts a process that writes into `out` and `err`; returns where its id and its exit status are read."""
    reading, writing = os.pipe()
    with tempfile.TemporaryFile() as file:
        file.write(json.dumps(request).encode())
        file.seek(0)
        socket.send_fds(parent or _parent(), [b" "], [file.fileno(), out, err, writing])
    os.close(writing)
    return reading


def start(
    module: str,
    arguments: Sequence[str],
    *,
    folder: Path = ROOT,
    environ: Mapping[str, str] = os.environ,
    pictures: bool = True,
) -> Started:
    """Starts `python -m module arguments` in `folder`; its streams are pipes. Without `pictures` these are empty."""
    (out, out_end), (err, err_end) = os.pipe(), os.pipe()
    request = {"module": module, "arguments": list(arguments), "folder": str(folder), "environ": dict(environ)}
    request["pictures"] = pictures
    status = _fork(request, out_end, err_end)
    os.close(out_end)
    os.close(err_end)
    return Started(status, os.fdopen(out), os.fdopen(err, errors="replace"))


def run(
    module: str,
    arguments: Sequence[str],
    *,
    folder: Path = ROOT,
    environ: Mapping[str, str] = os.environ,
    timeout: float = 900,
    pictures: bool = True,
) -> subprocess.CompletedProcess[str]:
    """Runs `python -m module arguments` in `folder` to its end."""
    process = start(module, arguments, folder=folder, environ=environ, pictures=pictures)
    out, err = process.communicate(timeout)
    return subprocess.CompletedProcess([module, *arguments], process.wait(), out, err)


def _requests(parent: socket.socket) -> Iterator[tuple[IO[bytes], int, int, int]]:
    while True:
        message, (*files,), _, _ = socket.recv_fds(parent, 1, 4)
        if not message:
            return
        request, out, err, status = files
        yield os.fdopen(request, "rb"), out, err, status


def _reap(*_: object) -> None:
    """Waits for what has ended."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _serve(parent: socket.socket) -> dict[str, object] | None:
    """Forks for each request: the request in the fork, None in the parent when no more will come.

    Between both stands a process that says how the fork ended.
    """
    signal.signal(signal.SIGCHLD, _reap)
    for file, out, err, status in _requests(parent):
        if os.fork():
            file.close()
            for end in (out, err, status):
                os.close(end)
            continue
        parent.close()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        pid = os.fork()
        if pid:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            os.close(out)
            os.close(err)
            os.write(status, f"{pid}\n".encode())
            os.write(status, f"{os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])}\n".encode())
            os._exit(0)
        os.dup2(out, 1)
        os.dup2(err, 2)
        for end in (out, err, status):
            os.close(end)
        with file:
            return json.load(file)
    return None


def _become(request: dict) -> None:
    """Does what `python -m` does."""
    os.environ.clear()
    os.environ.update(request["environ"])
    if "JAX_PLATFORMS" in os.environ:
        sys.modules["jax"].config.update("jax_platforms", os.environ["JAX_PLATFORMS"])
    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        sys.modules["jax"].config.update("jax_compilation_cache_dir", os.environ["JAX_COMPILATION_CACHE_DIR"])
        sys.modules["jax"].config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    os.chdir(request["folder"])
    sys.path[0] = request["folder"]
    sys.argv[1:] = request["arguments"]
    if not request["pictures"]:
        sys.modules["undrawn"].apply()
    runpy.run_module(request["module"], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    if sys.argv[1] == "-m":
        sys.exit(_command_line(sys.argv[1:]))
    for name in IMPORTED:
        __import__(name)
    sys.modules["mnistlab.comparison.workdirs"]._own_revision()  # which every fork would ask git for
    gc.freeze()  # no fork copies the pages of what is imported, or looks through it at its end
    assert len(os.listdir("/proc/self/task")) == 1  # noqa: PTH208
    asked = _serve(socket.socket(fileno=int(sys.argv[1])))
    if asked is not None:
        _become(asked)
