"""Completion for bash and zsh: scripts that hold all names, flags and choices, so that a tab starts no Python."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

PATHS = ("against", "compile_cache", "config", "data_dir", "runs", "workdir")
"""Flags whose value is a file or a folder."""


class Flag(NamedTuple):
    """A flag of an entry point."""

    name: str
    is_boolean: bool
    choices: tuple[str, ...] = ()


def script(
    shell: str, tools: Mapping[str, Sequence[Flag]], comparisons: Mapping[str, Sequence[Flag]], shared: Sequence[Flag]
) -> str:
    """The completion script for "bash" or "zsh"; `shared` are the flags of a comparison in a file of one's own."""
    entries = {**{f"run {name}": flags for name, flags in comparisons.items()}, **tools}
    words = {entry: " ".join(map(_words, flags)) for entry, flags in entries.items()}
    every = {"run *": " ".join(map(_words, shared))}
    values = {
        f"{entry} --{flag.name}": " ".join(flag.choices)
        for entry, flags in {**entries, "run *": shared}.items()
        for flag in flags
        if flag.choices
    }
    tables = [
        _table(
            "_mnistlab_flags", {**{entry: text for entry, text in words.items() if text != every["run *"]}, **every}
        ),
        _table("_mnistlab_values", values),
        f"_mnistlab_paths=' {' '.join(f'--{name}' for name in PATHS)} '",
        f"_mnistlab_commands='run {' '.join(tools)} --help --version'",
        f"_mnistlab_comparisons='{' '.join(comparisons)}'",
    ]
    head = "#compdef mnistlab\n" if shell == "zsh" else ""
    return (
        head
        + "\n".join([f"# {shell} completion of mnistlab: made by `mnistlab completion {shell}`", *tables])
        + _CODE[shell]
    )


def _words(flag: Flag) -> str:
    return f"--{flag.name} --no{flag.name}" if flag.is_boolean else f"--{flag.name}="


def _table(function: str, texts: Mapping[str, str]) -> str:
    """A shell function that prints the text of a key; a * in a key stands for anything."""
    cases = "\n".join(f"    {_pattern(key)}) echo '{text}' ;;" for key, text in texts.items())
    return f'{function}() {{\n  case "$1" in\n{cases}\n  esac\n}}'


def _pattern(key: str) -> str:
    return "*".join(f"'{part}'" for part in key.split("*")).replace("''", "")


_BASH = r"""
_mnistlab() {
  local line=${COMP_LINE:0:COMP_POINT} entry prefix="" choices
  local word=${line##*[[:space:]]}
  local -a before
  read -ra before <<< "${line%"$word"}"
  entry=${before[1]}
  [ "$entry" != run ] || entry="run ${before[2]}"
  COMPREPLY=()
  if [ ${#before[@]} -eq 1 ]; then
    mapfile -t COMPREPLY < <(compgen -W "$_mnistlab_commands" -- "$word")
  elif [[ $word == --*=* ]]; then
    choices=$(_mnistlab_values "$entry ${word%%=*}")
    if [ -n "$choices" ]; then
      prefix=${word%"${word##*[=,]}"}
      mapfile -t COMPREPLY < <(compgen -W "$choices" -P "$prefix" -- "${word##*[=,]}")
    elif [[ $_mnistlab_paths == *" ${word%%=*} "* ]]; then
      compopt -o filenames 2> /dev/null
      mapfile -t COMPREPLY < <(compgen -f -- "${word#*=}")
      COMPREPLY=("${COMPREPLY[@]/#/${word%%=*}=}")
    fi
    # What stands before a character of COMP_WORDBREAKS stays on the line.
    [[ $COMP_WORDBREAKS != *=* ]] || COMPREPLY=("${COMPREPLY[@]#"${word%%=*}="}")
  elif [[ $word == -* ]]; then
    mapfile -t COMPREPLY < <(compgen -W "$(_mnistlab_flags "$entry")" -- "$word")
    [[ ${COMPREPLY[*]} != *= ]] || compopt -o nospace 2> /dev/null
  elif [ "$entry" = "run " ]; then
    mapfile -t COMPREPLY < <(compgen -W "$_mnistlab_comparisons" -- "$word")
  fi
}
complete -o default -F _mnistlab mnistlab  # where there is nothing above, files, as bash quotes them
"""

_ZSH = r"""
_mnistlab() {
  local entry=$words[2] flag
  [[ $entry == run ]] && entry="run $words[3]"
  if (( CURRENT == 2 )); then
    compadd -- ${=_mnistlab_commands}
  elif [[ $PREFIX == --*=* ]]; then
    flag=${PREFIX%%=*}
    compset -P '*='
    local -a choices=(${=$(_mnistlab_values "$entry $flag")})
    if (( $#choices )); then
      compset -P '*,'
      compadd -S '' -- $choices
    elif [[ $_mnistlab_paths == *" $flag "* ]]; then
      _files
    fi
  elif [[ $PREFIX == -* ]]; then
    local -a flags=(${=$(_mnistlab_flags "$entry")})
    compadd -S '' -- ${(M)flags:#*=}
    compadd -- ${flags:#*=}
  elif [[ $words[2] == run ]] && (( CURRENT == 3 )); then
    compadd -- ${=_mnistlab_comparisons}
    _files -g '*.py'
  else
    _files
  fi
}
if [[ ${funcstack[1]} == _mnistlab ]]; then _mnistlab "$@"; else compdef _mnistlab mnistlab; fi
"""

_CODE = {"bash": _BASH, "zsh": _ZSH}
SHELLS = tuple(_CODE)
