"""Prints what makes a shell complete commands, comparisons, flags and their choices.

python -m experiments.completion bash > ~/.local/share/bash-completion/completions/mnistlab
python -m experiments.completion zsh > ~/.zfunc/_mnistlab          # a folder of $fpath
"""

from mnistlab.config import one_of

from . import common
from .cli import shells


def main(shell: str) -> None:
    """Prints the script for `shell`."""
    one_of("shell", shell, shells.SHELLS)
    tools = {name: common.flags_of(name) for name in common.TOOLS}
    comparisons = {name: common.flags_of(name) for name in common.names()}
    print(shells.script(shell, tools, comparisons, common.flags_of(None)), end="")


if __name__ == "__main__":
    common.enter(main, ("SHELL",), needs_jax=False)
