"""Completion as a user has it: a tab in an interactive bash or zsh, and what the command was then given."""

import os
import pty
import re
import select
import shutil
import subprocess
import time

import pytest
from command_lines import run_all

from experiments import common
from experiments.cli.shells import Flag, script

PROMPT = "ready> "
START = {
    "bash": ("bash --rcfile settings.bash -i", "bind 'set bell-style none'; bind 'set enable-bracketed-paste off'"),
    "zsh": ("zsh -i", "autoload -U compinit; compinit -u -D; unset zle_bracketed_paste; unsetopt beep prompt_sp"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("completion")
    (folder / "results" / "mnist").mkdir(parents=True)
    (folder / "mine.py").touch()
    (folder / "mine.txt").touch()
    ended = run_all([("experiments.cli.main", ["completion", shell]) for shell in START], folder)
    for shell, (status, out, err) in zip(START, ended, strict=True):
        assert (status, err) == (0, "")
        (folder / f"completion.{shell}").write_text(out)
        prints = "mnistlab() { printf '[%s]' \"$@\"; echo; }"
        settings = f"{START[shell][1]}\n. ./completion.{shell}\n{prints}\nPS1='{PROMPT}'\n"
        (folder / {"bash": "settings.bash", "zsh": ".zshrc"}[shell]).write_text(settings)
    return folder


class Terminal:
    """An interactive shell in which `mnistlab` prints what it was given."""

    def __init__(self, shell, folder):
        environ = {"PATH": os.environ["PATH"], "HOME": str(folder), "TERM": "dumb", "INPUTRC": "/dev/null"}
        self.file, end = pty.openpty()
        streams = dict.fromkeys(("stdin", "stdout", "stderr"), end)
        self.process = subprocess.Popen(
            START[shell][0].split(), cwd=folder, env=environ, start_new_session=True, **streams
        )
        os.close(end)
        self.send("")

    def send(self, keys):
        """What is on the screen when the next prompt has come."""
        os.write(self.file, keys.encode())
        seen, end = "", time.monotonic() + 30
        while not re.sub(r"\x1b\[[?\d;]*[A-Za-z]", "", seen).endswith(PROMPT):
            assert time.monotonic() < end and select.select([self.file], [], [], 30)[0], seen
            seen += os.read(self.file, 4096).decode()
        return seen

    def close(self):
        self.process.kill()
        self.process.wait()
        os.close(self.file)


@pytest.fixture(scope="module", params=list(START))
def terminal(request, folder):
    if shutil.which(request.param) is None:
        pytest.skip(f"{request.param} is not installed")
    terminal = Terminal(request.param, folder)
    yield terminal
    terminal.close()


@pytest.mark.parametrize(
    "keys, given",
    [
        ("pru\t", ["prune"]),
        ("run lenet_vs_d\t", ["run", "lenet_vs_dense"]),
        ("run lenet_vs_dense --proto\trep\t", ["run", "lenet_vs_dense", "--protocol=reported"]),
        ("run lenet_vs_dense --nores\t", ["run", "lenet_vs_dense", "--noresume"]),
        ("run cnn_variants --optimizer=rms\t", ["run", "cnn_variants", "--optimizer=rmsprop"]),
        (
            "run lenet_vs_dense --variants=dense,lenet5_rat\t",
            ["run", "lenet_vs_dense", "--variants=dense,lenet5_rate_1e-4"],
        ),
        ("run mine.p\t --see\t2", ["run", "mine.py", "--seed2"]),  # --seed= and --seeds= are left to the user
        ("run mine.p\t --epo\t2", ["run", "mine.py", "--epochs=2"]),
        ("show resu\tmn\t", ["show", "results/mnist"]),
        ("compare results/mnist --workdir=resu\t", ["compare", "results/mnist", "--workdir=results"]),
        ("power --metr\ttest_loss results/mnist", ["power", "--metric=test_loss", "results/mnist"]),
        ("prune --epo\t", ["prune", "--epo"]),  # no flag of prune
    ],
)
def test_a_tab_completes(terminal, keys, given):
    said = terminal.send(f"mnistlab {keys}\n")
    assert "".join(f"[{text}]" for text in given) in said.replace("/]", "]")  # zsh takes the last / back


def test_every_flag_of_every_entry_point_is_completed(folder):
    text = (folder / "completion.bash").read_text()
    for name in common.TOOLS + common.names():
        for flag in common.flags_of(name):
            assert f"--{flag.name}" in text
    assert "'run lenet_vs_dense --variants') echo 'lenet5 dense " in text


@pytest.mark.parametrize("shell", START)
def test_names_are_quoted(shell):
    """A key stands for itself alone, whatever patterns the shell knows."""
    made = script(shell, {"t[x]": [Flag("a", False)]}, {}, [])
    assert "'t[x]') echo '--a='" in made and "'run '*)" in made
