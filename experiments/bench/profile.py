"""What one step of ours spends: JAX's trace of a few steps, with the names of XLA's program to say which layer it was.

`python -m experiments.bench.profile JOB FOLDER` trains them in a process of its own and leaves both in FOLDER.
"""

import gzip
import json
import os
import re
import subprocess
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from mnistlab.errors import UserError

from .peers import job as jobs
from .processes import OURS, environment

Key = TypeVar("Key")
NUM_STEPS = 20  # traced, of those of a round
CONTAINERS = ("while", "call", "conditional")  # their time is that of the operations in them
FORWARD, BACKWARD, REST = "forward", "backward", "update and the rest"

_INSTRUCTION = re.compile(r"\s*(?:ROOT )?%([\w.-]+) = (?:\(.*?\)|\S+) ([\w-]+)\(")
_COMPUTATION = re.compile(r"(?:ENTRY )?%([\w.-]+) \(.*\{$")


class Instruction(NamedTuple):
    """One instruction of a compiled program."""

    opcode: str  # of an unnamed fusion, that of the last instruction within
    op_name: str  # JAX's, such as jit(f)/jvp(Network)/conv_1/dot_general; "" where XLA keeps none
    is_product: bool  # itself, or one within what it calls


class Spent(NamedTuple):
    """Milliseconds of a step that operations of one kind take, summed over the cores."""

    layer: str  # "" outside the layers
    direction: str
    operation: str
    milliseconds: float


class Profile(NamedTuple):
    """Of one workload."""

    spent: Sequence[Spent]  # the largest first
    step_milliseconds: float  # from the first operation to the end of the last, over the steps

    @property
    def total(self) -> float:
        """Milliseconds of a step's operations, summed over the cores."""
        return sum(one.milliseconds for one in self.spent)

    def by_layer(self) -> dict[tuple[str, str], float]:
        """(layer, direction) -> milliseconds, the largest first."""
        sums: dict[tuple[str, str], float] = {}
        for one in self.spent:
            sums[one.layer, one.direction] = sums.get((one.layer, one.direction), 0.0) + one.milliseconds
        return dict(_largest_first(sums))


def measure(job: jobs.Job) -> Profile:
    """The profile of one seed's steps.

    Raises:
      UserError: the process fails, or its trace names no operation.
    """
    folder = job.folder / "profile"
    path = job.folder / "profile.json"
    jobs.write(job, path)
    environ = environment(OURS)
    environ["XLA_FLAGS"] += f" --xla_dump_to={folder / 'programs'} --xla_dump_hlo_as_text"
    command = [sys.executable, "-m", f"{__package__}.profile", str(path), str(folder)]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    if done.returncode:
        raise UserError(f"the profile failed: {done.stderr.strip().split(chr(10))[-1]}; leave it out with --noprofile")
    return read(folder, [name for _, name, _ in job.layers], min(NUM_STEPS, len(job.order())))


def read(folder: Path, layers: Collection[str], num_steps: int) -> Profile:
    """What `main` left in `folder`.

    Raises:
      UserError: the trace names no operation.
    """
    events = [event for path in folder.rglob("*.trace.json.gz") for event in _operations(path)]
    if not events:
        raise UserError("the trace of this JAX names no operation; leave it out with --noprofile")
    programs = {name: _program(folder, name) for name in {event["args"]["hlo_module"] for event in events}}
    sums: dict[tuple[str, str, str], float] = {}
    for event in events:
        name = event["args"]["hlo_op"]
        found = programs[event["args"]["hlo_module"]].get(name, Instruction(name.partition(".")[0], "", False))
        if found.opcode not in CONTAINERS:
            key = place(found, layers)
            sums[key] = sums.get(key, 0.0) + event["dur"] / 1e3 / num_steps
    start, end = min(event["ts"] for event in events), max(event["ts"] + event["dur"] for event in events)
    return Profile([Spent(*key, value) for key, value in _largest_first(sums)], (end - start) / 1e3 / num_steps)


def _largest_first(sums: Mapping[Key, float]) -> list[tuple[Key, float]]:
    return sorted(sums.items(), key=lambda item: -item[1])


def place(instruction: Instruction, layers: Collection[str]) -> tuple[str, str, str]:
    """(layer, direction, operation) of an instruction, as far as its name says.

    >>> place(Instruction("dot", "jit(f)/transpose(jvp(Network))/conv_1/dot_general", True), ["conv_1"])
    ('conv_1', 'backward', 'product')
    >>> place(Instruction("fusion", "jit(f)/while/body/mul", False), ["conv_1"])
    ('', 'update and the rest', 'mul')
    """
    parts = instruction.op_name.split("/")
    layer = next((part for part in parts if part in layers), "")
    backward = any(part.startswith("transpose(jvp(") for part in parts)
    forward = layer or any(part.startswith("jvp(") for part in parts)
    direction = BACKWARD if backward else FORWARD if forward else REST
    return layer, direction, "product" if instruction.is_product else parts[-1] or instruction.opcode


def instructions(lines: Iterable[str]) -> dict[str, Instruction]:
    """Those of a compiled program's text; one without a name has that of the last named one in what it calls."""
    found: dict[str, tuple[str, str, str]] = {}
    inside: dict[str, list[str]] = {}
    computation = ""
    for line in lines:
        opened, matched = _COMPUTATION.match(line.rstrip()), _INSTRUCTION.match(line)
        if opened:
            computation = opened[1]
        elif matched:
            found[matched[1]] = matched[2], _field(line, r'op_name="([^"]*)"'), _field(line, r"calls=%([\w.-]+)")
            inside.setdefault(computation, []).append(matched[1])
    return {name: _resolved(name, found, inside) for name in found}


def _resolved(name: str, found: Mapping[str, tuple[str, str, str]], inside: Mapping[str, list[str]]) -> Instruction:
    opcode, op_name, called = found[name]
    within = [found[other] for other in inside.get(called, [])]
    named = [other for _, other, _ in within if other]
    is_product = any(code in ("dot", "convolution") for code in (opcode, *(code for code, _, _ in within)))
    op_name = op_name or (named[-1] if named else "")
    opcode = within[-1][0] if within and not op_name else opcode
    return Instruction(opcode, op_name, is_product or "gemm" in name)


def _field(line: str, pattern: str) -> str:
    matched = re.search(pattern, line)
    return matched[1] if matched else ""


def _program(folder: Path, module: str) -> dict[str, Instruction]:
    """The instructions of a module, of which several programs may have the name: they differ in their operations."""
    result: dict[str, Instruction] = {}
    for path in sorted((folder / "programs").glob(f"*.{module}.*after_optimizations.txt"), key=os.path.getsize):
        with path.open() as lines:
            result.update(instructions(lines))
    return result


def _operations(path: Path) -> Iterator[dict[str, Any]]:
    """The events of a trace that are operations of a program."""
    with gzip.open(path, "rt") as file:
        for event in json.load(file)["traceEvents"]:
            if "dur" in event and {"hlo_op", "hlo_module"} <= event.get("args", {}).keys():
                yield event


def main(path: str, folder: str) -> None:
    """Trains a few steps to compile them, then traces as many."""
    import jax

    from .peers import mnistlab_epoch

    job = jobs.read(Path(path))
    train = mnistlab_epoch.prepare(job, OURS)
    order = job.order()[:NUM_STEPS]
    train(order)
    with jax.profiler.trace(folder):
        train(order)


if __name__ == "__main__":
    main(*sys.argv[1:])
