"""Whatever stands on the command line or in a folder: it runs, or it is one clear line; never a traceback.

`MNISTLAB_FLIPS=2000 python -m pytest tests/test_fuzz.py -k flipped -s` flips 2,000 bits (default 400) and counts.
"""

import contextlib
import dataclasses
import io
import json
import math
import os

import numpy as np
import pytest
from absl import flags
from absl.testing import flagsaver
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from run_folders import result_of, write_run

from experiments import common, lenet_vs_dense, power, scoreboard
from mnistlab import config, sealed
from mnistlab.analysis import claims, departures
from mnistlab.analysis.claims import Claim
from mnistlab.comparison import ranges, saved, spec, workdirs
from mnistlab.config import OptimConfig, TrainConfig
from mnistlab.devices import cluster, mesh
from mnistlab.errors import UserError
from mnistlab.training import checks, optim

NUM_EXAMPLES = int(os.environ.get("MNISTLAB_EXAMPLES", "60"))  # MNISTLAB_EXAMPLES=300 before a release
pytestmark = pytest.mark.usefixtures("near_sighted")
quickly = settings(deadline=None, max_examples=NUM_EXAMPLES, suppress_health_check=list(HealthCheck), derandomize=True)

NUMBERS = (
    "0",
    "-1",
    "1",
    "2",
    "0.5",
    "-0.0",
    "1e-3",
    "1e-320",
    "1e30",
    "1e308",
    "1e400",
    "nan",
    "-inf",
    "٣",
    "1_0",
    "0x10",
)
HUGE = (str(2**31), str(2**32 - 1), str(2**32), str(2**33), str(10**30))
WORDS = ("", " ", ",", "=", "all", "adam", "sgd", "adamw", "piecewise", "exponential", "one_cycle", "warmup_cosine")
WORDS += (
    "dense",
    "lenet5,dense",
    "a;b",
    "learning_rate",
    "zwölf",
    "\n",
    "line\nline",
    "\udcff",
    "\0",
    "--seeds",
    "None",
    "true",
)
LISTS = ("1,2", "2,1", "1,,2", "1;2", "1 2", ",1", "1e300,1e301", "nan,1", "1,1", "0.0001,0.0002")
SWEEPS = tuple(
    f"{name}={values}"
    for name in ("learning_rate", "momentum", "weight_decay", "dropout_rate", "initial_scale", "batch_size", "")
    for values in ("1e-3,1e-2", "", "1e-3,", "nan", "0.1,0.1", "-1", "1e308", "1e-3;1e-2", "=1", "all")
)
VALUES = st.one_of(*map(st.sampled_from, (NUMBERS, HUGE, WORDS, LISTS, SWEEPS)), st.text(max_size=5))
FLAGS_OF_NO_USE_HERE = {"workdir", "data_dir", "compile_cache", "preallocate"}


@pytest.fixture(scope="module", autouse=True)
def defined(training_flags):
    """The flags that any value may be given to."""
    return sorted(set(training_flags) - FLAGS_OF_NO_USE_HERE)


def outcome(body):
    """None where `body` came to its end, else the one line with which it ended."""
    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors):
            body()
    except UserError as error:
        line = str(error)
    except SystemExit as stop:
        assert stop.code == 2
        line = errors.getvalue().removesuffix("\n")
    else:
        return None
    assert line.strip() and "\n" not in line and len(line) < 1000, line[:1000]
    return line


def resolve(arguments, asked=lenet_vs_dense.EXPERIMENT):
    """What an experiment makes of its command line, before it loads data."""
    common._parse(["prog", *arguments], ())
    options = common.options(asked.name)
    variants = spec.resolve(asked, options)
    config.check_seeds(options.first_seed, options.num_seeds)
    mesh.make_layout(options.num_devices, options.strategy)
    cluster.resolve_cluster(
        flags.FLAGS.distributed, {}, flags.FLAGS.coordinator, flags.FLAGS.num_processes, flags.FLAGS.process_id
    )
    for variant in variants.values():
        schedule = optim.make_schedule(variant.config.optimizer, variant.config.num_epochs, 60_000)
        float(schedule(np.int32(3)))
        optim.make_optimizer(variant.config.optimizer, variant.config.num_epochs, 60_000).init({"w": np.zeros(1)})


@settings(quickly, max_examples=2 * NUM_EXAMPLES)
@given(data=st.data())
def test_any_flags(defined, data):
    chosen = data.draw(st.lists(st.sampled_from(defined), min_size=1, max_size=4))
    numeric = {name for name in chosen if flags.FLAGS[name].flag_type() in ("int", "float")}
    likely = st.sampled_from(NUMBERS + HUGE)
    arguments = [f"--{name}={data.draw(likely | VALUES if name in numeric else VALUES)}" for name in chosen]
    with flagsaver.flagsaver():
        outcome(lambda: resolve(arguments))


@pytest.mark.parametrize(
    "arguments, word",
    [
        (["--seeds=4294967297"], "seeds"),
        (["--seeds=4000000000"], "seeds"),
        (["--seed=8589934592"], "seed"),
        (["--seed=-1"], "seed"),
        (["--epochs=999999999999"], "epochs"),
        (["--patience_epochs=99999999999999999999"], "patience_epochs"),
        (["--batch_size=999999999999"], "batch_size"),
        (["--learning_rate=1e39"], "learning_rate"),  # float32 has no such number
        (["--learning_rate=nan"], "learning_rate"),
        (["--optimizer=sgd", "--momentum=inf"], "momentum"),
        (["--optimizer=adamw", "--weight_decay=1e300"], "weight_decay"),
        (["--initial_scale=inf"], "initial_scale"),
        (["--schedule=exponential", "--decay_epochs=1e300"], "decay_epochs"),
        (["--schedule=piecewise", "--decay_epochs=1;2"], "decay_epochs"),
        (["--schedule=piecewise", "--decay_epochs=1,,2"], "decay_epochs"),
        (["--schedule=piecewise", "--decay_epochs="], "decay_epochs"),
        (["--schedule=one_cycle", "--warmup_epochs=1e300"], "warmup_epochs"),
        (["--sweep=learning_rate=1e-3;1e-2"], "sweep"),
        (["--sweep=learning_rate=1e-3,1e-3"], "twice"),
        (["--sweep=learning_rate=1e-3", "--sweep=learning_rate=1e-2"], "twice"),
        (["--sweep="], "sweep"),
        (["--variants=lenet5;dense"], "lenet5;dense"),
        (["--variants=lenet5,"], "variant"),
        (["--variants=zwölf\n"], "zwölf"),
        (["--num_processes=0", "--process_id=0", "--coordinator=a:1"], "process"),
        (["--coordinator=here", "--num_processes=1", "--process_id=0"], "coordinator"),
        (["--flagfile=no/such/file"], "no/such/file"),
        (["--resume=perhaps"], "resume"),
    ],
)
def test_these_flags_are_refused(arguments, word):
    with flagsaver.flagsaver():
        line = outcome(lambda: resolve(arguments))
    assert line is not None and word in line


fields = {field: None for cls in (TrainConfig, OptimConfig) for field in cls.__dataclass_fields__}
json_scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
json_values = st.recursive(
    json_scalars | st.sampled_from([10**400, math.inf, "adam", "piecewise", "mean", "dense", "test_halves"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*fields, "x"]), inner, max_size=4),
    max_leaves=6,
)


@quickly
@given(values=st.dictionaries(st.sampled_from([*fields, "colour"]), json_values, max_size=4))
def test_any_config_in_json(values):
    text = json.dumps({"model": "dense", **values})
    outcome(lambda: checks.check(config.from_dict(TrainConfig, json.loads(text)), (28, 28, 1)))


JUNK = [None, True, 0, -1, 10**30, math.inf, math.nan, "", "x", "é\n", [], [1], [None, None], {}, {"a": 1}, [[1]]]


def mutated(data, tree):
    """`tree` with one part of it replaced, or gone."""
    if isinstance(tree, dict | list) and tree and data.draw(st.integers(0, 5)):
        copy = tree.copy()
        place = data.draw(st.sampled_from(sorted(tree) if isinstance(tree, dict) else range(len(tree))))
        if data.draw(st.integers(0, 9)):
            copy[place] = mutated(data, tree[place])
        else:
            del copy[place]
        return copy
    return data.draw(st.sampled_from(JUNK))


def damaged(data, text):
    """`text` cut off, or with something else in its middle."""
    start, length = data.draw(st.integers(0, len(text))), data.draw(st.integers(0, 30))
    middle = data.draw(st.sampled_from(["", "\0", "é", "-1", "1e999", "99999999999999", '"', "[" * 50_000, "\n"]))
    rest = text[start + length :] if data.draw(st.booleans()) else ""
    return (text[:start] + middle + rest).encode("utf-16" if data.draw(st.integers(0, 9)) == 9 else "utf-8")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    rng = np.random.default_rng(0)
    results = {name: result_of(0.9 + 0.01 * rng.standard_normal(8), range(8)) for name in ("high", "low")}
    questions = [Claim("a", "high is higher", "test_accuracy", "high", ">", "low")]
    return write_run(folder / "run", results, questions=questions, digests=False)


FILES = ("config.json", "history.csv", "summary.json")


def read(folder):
    """All that compare, power and the scoreboard read of a run's folder, up to what they draw."""
    run = saved.read_run(folder)
    for one, other in saved.pair_variants(run, run, "high", "low"):
        claims.check([Claim("1", "", "test_accuracy", one, ">", other)], run.variants)
        saved.differing_settings(run, one, run, other)
    asked = power.pilots(run, None, None, None, "test_accuracy")
    power.needs_table(asked, [[power.need(pilot.differences)] for pilot in asked], 1)


def board(folder):
    summary = scoreboard._read(folder, "made_up", "controlled")
    summaries = {("lenet_vs_dense", protocol): summary for protocol in spec.PROTOCOLS}
    departed = {key: departures.of_summary(summary) for key in summaries}
    scoreboard._values(summaries)
    scoreboard._changed_table(summaries, departed)
    read_back = scoreboard.board_of(summaries, dict.fromkeys(summaries, folder), None)
    scoreboard._markdown(read_back, ())
    scoreboard.learned_page(read_back, "results.md")
    sorted({summary["device"], "cpu"})
    max(summary["n_seeds"], 1)
    (summary.get("data") or {})


@quickly
@given(data=st.data())
def test_any_damage_to_a_runs_files(whole, data):
    name = data.draw(st.sampled_from(FILES))
    original = (whole / name).read_bytes()
    try:
        if name.endswith("json") and data.draw(st.booleans()):
            (whole / name).write_text(json.dumps(mutated(data, json.loads(original))))
        else:
            (whole / name).write_bytes(damaged(data, original.decode()))
        outcome(lambda: read(whole))
        if name == "summary.json":
            outcome(lambda: board(whole))
        if name == "config.json":
            outcome(lambda: workdirs.check(whole, {"experiment": "x", "seeds": [0, 1, 2]}))
    finally:
        (whole / name).write_bytes(original)
    assert outcome(lambda: read(whole)) is None and outcome(lambda: board(whole)) is None


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_a_file_cut_off_is_refused_and_named(whole, name, share):
    original = (whole / name).read_bytes()
    try:
        (whole / name).write_bytes(original[: int(share * len(original))])
        assert name in outcome(lambda: read(whole))
    finally:
        (whole / name).write_bytes(original)


NUM_FLIPS = int(os.environ.get("MNISTLAB_FLIPS", "400"))


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A run folder with digests, and the parts in which it was trained."""
    folder = tmp_path_factory.mktemp("written")
    rng = np.random.default_rng(0)
    results = {name: result_of(0.9 + 0.01 * rng.standard_normal(8), range(8)) for name in ("high", "low")}
    write_run(folder / "run", results, questions=[Claim("a", "high is higher", "test_accuracy", "high", ">", "low")])
    sealed.write(folder / "run" / "parts.json", {"parts": [[2, 2], [6, 3]]})
    return folder / "run"


def resumed(folder):
    """What resuming reads of config.json: whether it is this run with fewer seeds."""
    configs = {
        name: {"config": dataclasses.asdict(TrainConfig("dense")), "learning_rates": []} for name in ("high", "low")
    }
    return workdirs.check(folder, {"seeds": list(range(9)), "variants": configs})


READERS = {
    "config.json": (saved.read_run, resumed),
    "history.csv": (saved.read_run, saved.read_summary),
    "summary.json": (saved.read_run, saved.read_summary),
    "parts.json": (lambda folder: ranges._kept_ranges(folder / "parts.json", 8),),
}
"""Who reads which file: compare, power, gather by read_run, the scoreboard by read_summary, and resuming."""


def says_the_same(name, flipped, original):
    """Whether other bytes of JSON are the same values: a space for a line's end, E for e in a number."""
    try:
        return name.endswith("json") and json.dumps(json.loads(flipped)) == json.dumps(json.loads(original))
    except ValueError:
        return False


@pytest.mark.parametrize("name", READERS)
def test_no_flipped_bit_is_used(written, name):
    path = written / name
    original = path.read_bytes()
    before = [repr(read(written)) for read in READERS[name]]
    rng = np.random.default_rng(0)
    counts = {"refused": 0, "without a change of any value": 0}
    try:
        for _ in range(NUM_FLIPS // 4):
            flipped = bytearray(original)
            flipped[rng.integers(len(original))] ^= 1 << rng.integers(8)
            path.write_bytes(flipped)
            same = says_the_same(name, flipped, original)
            counts["without a change of any value" if same else "refused"] += 1
            for read, said in zip(READERS[name], before, strict=True):
                found = []
                line = outcome(lambda read=read, found=found: found.append(repr(read(written))))
                assert found == [said] if same else name in (line or ""), (line, found)
    finally:
        path.write_bytes(original)
    print(f"{name}: {counts}")
    assert counts["refused"] > 0.9 * sum(counts.values())
