"""The rules that keep the code readable: imports go down, each heavy library has one door, nothing hidden."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = ("mnistlab", "nets", "devices", "data", "training", "analysis", "report", "comparison", "experiments")
"""In the order of the way of the data: a file imports from its own room and from those before it."""

ONLY_IMPORTER = {
    "tensorflow_datasets": {"tfds"},
    "orbax": {"checkpoint"},
    "jsonschema": {"schema"},
    "matplotlib": {"canvas", "figures", "images"},
    "tensorboardX": {"tensorboard"},
    "tensorflow": {"peers"},
    "wandb": {"wandb"},
    "onnx": {"onnx_graph"},
    "safetensors": {"export"},
    "clu": set(),  # it imports tensorflow
    "torch": {"peers"},  # what the benchmark compares with
    "keras": {"peers"},
}


LONGEST_FILE, LONGEST_FUNCTION, MOST_PARAMETERS = 500, 60, 6


def sources(*folders):
    return [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]


LIBRARY = sources("mnistlab")
ALL = sources("mnistlab", "experiments", "launch")


def test_a_wheel_has_every_package():
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    folders = {path.parent.relative_to(ROOT).as_posix() for path in sources("mnistlab", "experiments")}
    inside = {name if name.startswith("mnistlab") else f"mnistlab/{name}" for name in folders}
    assert sorted(listed) == sorted(name.replace("/", ".") for name in inside)


def name_of(path):
    return (
        "peers"
        if path.parent.name == "peers"
        else path.stem
        if path.is_relative_to(ROOT / "mnistlab")
        else "experiments"
    )


def room_of(module):
    """The room of a dotted name, such as mnistlab.data.batches; the files of mnistlab/ itself are its first room."""
    parts = module.split(".")
    return parts[1] if parts[0] == "mnistlab" and len(parts) > 1 and parts[1] in ROOMS else parts[0]


def short(path):
    return str(path.relative_to(ROOT))


def imports(path):
    """Every module that `path` imports, wherever in the file the import stands."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = short(path).split("/")[: -node.level] if node.level else []
            assert not package or package[0] == "experiments", f"{short(path)}: relative import"  # it has two names
            module = ".".join([*package, *([node.module] if node.module else [])])
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("path", sources("mnistlab", "experiments"), ids=short)
def test_imports_go_down(path):
    door = path == ROOT / "mnistlab" / "__init__.py"  # gives out what the last room makes
    own = ROOMS.index("comparison" if door else room_of(short(path).removesuffix(".py").replace("/", ".")))
    found = {module for module in imports(path) if module.split(".")[0] in ("mnistlab", "experiments")}
    assert not {module for module in found if ROOMS.index(room_of(module)) > own}


@pytest.mark.parametrize("library", ONLY_IMPORTER)
def test_each_heavy_library_has_one_door(library):
    importers = {name_of(path) for path in ALL for module in imports(path) if module.split(".")[0] == library}
    assert importers == ONLY_IMPORTER[library]


def test_flags_are_defined_outside_the_library():
    for path in LIBRARY:
        assert not {"absl.flags", "absl.app", "argparse"} & set(imports(path)), short(path)


@pytest.mark.parametrize("path", LIBRARY, ids=short)
def test_the_library_neither_prints_nor_keeps_globals(path):
    for node in ast.walk(ast.parse(path.read_text())):
        assert not isinstance(node, ast.Global), f"line {node.lineno}: global"
        called = node.func if isinstance(node, ast.Call) else None
        assert not (isinstance(called, ast.Name) and called.id == "print"), f"line {node.lineno}: print"


@pytest.mark.parametrize("path", ALL, ids=short)
def test_files_functions_and_signatures_are_short(path):
    text = path.read_text()
    assert len(text.splitlines()) <= LONGEST_FILE
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno - node.lineno < LONGEST_FUNCTION, node.name
            given = [arg.arg for arg in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
            assert len([name for name in given if name not in ("self", "cls")]) <= MOST_PARAMETERS, node.name


def test_files_name_no_place_on_the_authors_machine():
    texts = [path for folder in ("mnistlab", "experiments", "launch") for path in sorted((ROOT / folder).rglob("*"))]
    for path in texts:
        if path.suffix in (".py", ".sh", ".md", ".sbatch", ".toml", ".json") and path.is_file():
            text = path.read_text()
            assert not re.search(r"(?<![\w.$}])/(home|root|Users|mnt)/\w", text), short(path)
            assert str(ROOT) not in text, short(path)


def test_importing_the_engine_loads_nothing_it_may_not_need():
    slow = ["tensorflow", "tensorflow_datasets", "matplotlib", "scipy.stats", "tensorboardX", "torch"]
    code = f"import sys, mnistlab.comparison.run; print([name for name in {slow} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert (done.stdout.strip(), done.returncode) == ("[]", 0), done.stderr
