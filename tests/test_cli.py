"""The command line: what is refused in one line before anything is done, what --help lists, what a slip is answered."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from absl import flags
from absl.testing import flagsaver
from command_lines import run_all

from experiments import common
from mnistlab.config import AugmentConfig, OptimConfig, TrainConfig, settings_of
from mnistlab.errors import nearest

ROOT = Path(__file__).parents[1]
TOO_LONG = "x" * 300

BAD = [
    (["--variants=nonsense"], "nonsense"),
    (["--variants=dense,dense"], "variants names 'dense' twice"),
    (["--learning_rate=-1"], "learning_rate"),
    (["--seeds=0"], "seeds"),
    (["--seed=-1"], "seed"),
    (["--epochs=0"], "epochs"),
    (["--batch_size=0"], "batch_size"),
    (["--limit_examples=1"], "limit_examples"),
    (["--schedule=wavy"], "schedule"),
    (["--optimizer=magic"], "adadelta"),  # the line lists what there is
    (["--sweep=learning_rate"], "sweep"),
    (["--sweep=batch_size=1,2"], "sweep"),
    (["--learning_rate=0.1", "--sweep=learning_rate=0.1,0.2"], "learning_rate is both fixed and swept"),
    (["--optimizer=sgd", "--sweep=momentum=0.1,0.2", "--momentum=0.5"], "momentum is both fixed and swept"),
    (["--seeds=many"], "seeds"),
    (["--seeds=3,4,5"], "use --seeds=3 --seed=3"),
    (["--protocol=other"], "protocol"),
    (["--no_such_flag"], "no_such_flag"),
    (["--lr=0.1"], "did you mean --learning_rate"),
    (["--num-epochs", "3"], "did you mean --epochs"),
    (["--output_dir=w"], "did you mean --workdir"),
    (["--overwrite"], "did you mean --noresume"),
    (["--gpus=2"], "did you mean --devices"),
    (["--data=kmnist"], "did you mean --dataset?"),
    (["--model=vit"], "the model is the experiment's; another is a comparison of your own"),
    (["--variants=lenet"], "did you mean lenet5?"),
    (["--optimizer=Adam"], "did you mean adam?"),
    (["stray"], "stray"),
    (["--population_size=0"], "population_size"),
    (["--stream_megabytes=0"], "stream_megabytes"),
    (["--augment=twist=2"], "twist"),
    (["--augment=shift=far"], "far"),
    (["--augment=shift=1.5"], "shift_pixels"),
    (["--augment=shift=1e9"], "at most 28"),  # aborted the process
    (["--augment=shift=29"], "shift_pixels is 29"),
    (["--augment=cutout=29"], "cutout_pixels is 29"),
    (["--augment=rotate=181"], "rotate_degrees"),
    (["--augment=elastic_alpha=281,elastic_sigma=4"], "elastic_alpha_pixels is 281"),
    (["--augment=elastic_alpha=34,elastic_sigma=29"], "elastic_sigma_pixels is 29"),
    (["--devices=0"], "devices"),
    (["--devices=1000"], "devices"),
    (["--parallel=quickly"], "parallel"),
    (["--distributed=off", "--process_id=1"], "process_id"),
    (["--num_processes=2", "--process_id=0"], "coordinator"),
    (["--num_processes=-2", "--process_id=0", "--coordinator=a:1"], "num_processes is -2; expected at least 1"),
    (["--workdir=w\udcff"], "not UTF-8"),
    (["--data_dir=w\udcff"], "not UTF-8"),
    ([f"--workdir={TOO_LONG}"], "File name too long"),
    ([f"--data_dir={TOO_LONG}"], "File name too long"),
    ([f"--compile_cache={TOO_LONG}"], "File name too long"),
    (["--workdir=~nobody_of_this_name/run"], "home directory"),
]
BAD_OF_OTHERS = [
    ("jacobian_eigen", ["--augment=shift=100"], "at most 28"),
    ("compare", [], "RUN... is missing"),
    ("judge", ["no_such.csv"], "cannot read no_such.csv"),
    ("compare", ["run", TOO_LONG], "RUN... is 'xxx"),
    ("scoreboard", ["--norun", f"--runs={TOO_LONG}"], "runs is 'xxx"),
    ("scoreboard", ["--norun", "--learned=learned.md"], "give both"),
    ("scoreboard", ["--norun", "--bench=no_such.json"], "cannot read no_such.json"),
    ("scoreboard", ["--until=resolved"], "scoreboard does not pass until on"),
    ("lenet_vs_dense", ["--config=~/no_such.json"], "/no_such.json"),
    ("bench", ["--round_gflop=inf"], "round_gflop is inf"),
    ("bench", ["--matmul_precision=float32"], "leave --matmul_precision out"),
]
BAD_LINES = [("lenet_vs_dense", *bad) for bad in BAD] + BAD_OF_OTHERS


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("command_lines")


@pytest.fixture(scope="module")
def refused(folder):
    return run_all([(f"experiments.{name}", arguments) for name, arguments, _ in BAD_LINES], folder)


@pytest.mark.parametrize("number", range(len(BAD_LINES)), ids=[" ".join(line[1])[:40] for line in BAD_LINES])
def test_bad_input_is_one_line_and_status_2(refused, folder, number):
    status, _, err = refused[number]
    assert status == 2, err
    assert len(err.strip().splitlines()) == 1 and BAD_LINES[number][-1] in err
    assert not list(folder.rglob("config.json")) and not list(folder.rglob("datasets"))


WITHOUT_FLAGS = ("completion", "list", "open", "prune", "show")
OWN_FLAGS = {
    "compare": ("metric",),
    "judge": ("claim", "matters"),
    "power": ("difference",),
    "export": ("format", "output"),
    "predict": ("which",),
    "scoreboard": ("runs", "results", "learned", "bench"),
    "matmul_devices": ("sizes",),
}


@pytest.fixture(scope="module")
def helped(folder):
    names = common.names() + common.TOOLS
    return dict(zip(names, run_all([(f"experiments.{name}", ["--help"]) for name in names], folder), strict=True))


@pytest.mark.parametrize("name", common.names() + common.TOOLS)
def test_help_lists_the_flags_of_the_command_with_an_example(helped, name):
    status, out, err = helped[name]
    assert (status, err) == (0, "")
    assert f"python -m experiments.{name}" in out and common.summary_line(name) in out
    of_all = ["workdir", "compile_cache"] + ([] if name in common.TOOLS else ["seeds", "epochs", "augment"])
    if name in WITHOUT_FLAGS:
        assert not re.search(r"^  --", out, re.MULTILINE)
        return
    for flag in (*of_all, *OWN_FLAGS.get(name, ())):
        assert f"\n  --{flag}: " in out
    assert "(default: 'auto')" in out and "--log_dir" not in out  # absl's own are in --helpfull


@pytest.mark.parametrize("arguments", [["run", "lenet_vs_dense"], ["compare"]], ids=" ".join)
def test_help_through_the_command_is_the_same_but_for_how_it_is_called(helped, folder, arguments):
    ((status, out, err),) = run_all([("experiments.cli.main", [*arguments, "--help"])], folder)
    name = arguments[-1]
    assert (status, err) == (0, "")
    theirs = helped[name].out.replace(f"python -m experiments.{name}", f"mnistlab {' '.join(arguments)}")
    listed = [text[text.index("\n  --") :] for text in (out, theirs)]
    assert listed[0] == listed[1] and out.splitlines()[:3] == theirs.splitlines()[:3]


def test_help_may_be_piped_into_what_reads_its_beginning_alone(folder):
    command = f"PYTHONPATH={ROOT} {sys.executable} -m experiments.lenet_vs_dense --help | head -n 1"
    done = subprocess.run(["bash", "-c", command], cwd=folder, capture_output=True, text=True, timeout=300)
    assert (done.stderr, done.stdout.count("\n")) == ("", 1)


def test_every_setting_with_a_flag_is_in_the_help_with_what_it_says_of_itself(helped):
    words = " ".join(helped["lenet_vs_dense"].out.split())
    for about in [*settings_of(OptimConfig), *settings_of(TrainConfig)]:
        if about.flag:
            assert f"--{about.flag}: {about.help}" in words
    for about in settings_of(AugmentConfig):
        assert about.help in words


def test_the_command_says_what_was_probably_meant(folder):
    given = [["comparee"], ["lenet_vs_dens"], ["run", "lenet_vs_dens"], ["run"]]
    wanted = ["did you mean compare?", "did you mean run lenet_vs_dense?", "did you mean lenet_vs_dense?", "which"]
    for ended, text in zip(run_all([("experiments.cli.main", line) for line in given], folder), wanted, strict=True):
        assert ended.status == 2 and text in ended.err and len(ended.err.splitlines()) == 1


@pytest.mark.parametrize(
    "arguments, line",
    [
        (["lenet_vs_dence"], "did you mean lenet_vs_dense?"),
        (["colours"], "unknown experiment 'colours'; python -m experiments lists them"),
        (["lenet_vs_dense", "--lr=0.1"], "did you mean --learning_rate?"),
    ],
)
def test_an_experiment_is_also_run_by_its_name(arguments, line):
    command = [sys.executable, "-m", "experiments", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 2 and line in done.stderr and len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    "argv, line",
    [
        (["mnistlab run lenet_vs_dense", "--workdir=my runs"], "mnistlab run lenet_vs_dense '--workdir=my runs'"),
        (["mnistlab run 'my file.py'"], "mnistlab run 'my file.py'"),
        (["bash launch/local.sh fashion_mlp", "--seeds=2"], "bash launch/local.sh fashion_mlp --seeds=2"),
        (["/home/me/my work/experiments/fashion_mlp.py"], "python -m fashion_mlp"),  # no program of ours in the path
    ],
)
def test_the_command_that_repeats_a_run_is_as_it_was_typed(monkeypatch, argv, line):
    monkeypatch.setattr(sys, "argv", argv)
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", None)
    assert common.command() == line


@pytest.mark.parametrize(
    "given, meant",
    [
        ("lr", "learning_rate"),
        ("bs", "batch_size"),
        ("wd", "weight_decay"),
        ("optimizer", "optimizer"),
        ("Epoch", "epochs"),
        ("num_seeds", "seeds"),
        ("n_epochs", "epochs"),
        ("dropout", "dropout_rate"),
        ("batch-size", "batch_size"),
        ("no-resume", "noresume"),
        ("learningrate", "learning_rate"),
        ("tensorbord", "tensorboard"),
        ("qqqqqq", None),
    ],
)
def test_the_nearest_flag(training_flags, given, meant):
    assert nearest(given, [*training_flags, "noresume"]) == meant


@pytest.mark.parametrize(
    "arguments, folder",
    [
        ([], "results/lenet_vs_dense"),
        (["--protocol=controlled"], "results/lenet_vs_dense_controlled"),
        (["--limit_examples=200"], "results/quick/lenet_vs_dense"),  # beside the whole run, not in its way
        (["--limit_examples=200", "--protocol=controlled"], "results/quick/lenet_vs_dense_controlled"),
        (["--limit_examples=200", "--workdir=w"], "w"),
        (["--workdir=~/w"], str(Path("~/w").expanduser())),
    ],
)
def test_where_a_run_leaves_its_files(training_flags, arguments, folder):
    with flagsaver.flagsaver():
        flags.FLAGS(["prog", *arguments])
        assert str(common.options("lenet_vs_dense").workdir) == folder


def test_flags_reach_the_fields_they_are_named_for(training_flags):
    given = ["--epochs=3", "--optimizer=sgd", "--momentum=0.5", "--decay_epochs=1,2.5", "--augment=shift=2"]
    given += ["--seeds=4", "--seed=7", "--variants=a,b", "--devices=2", "--parallel=pmap", "--noresume"]
    with flagsaver.flagsaver():
        flags.FLAGS(["prog", *given, "--convolution=lax", "--sweep=dropout_rate=0.1,0.2"])
        asked = common.options("lenet_vs_dense")
    assert asked.overrides == {
        "num_epochs": 3,
        "optimizer": "sgd",
        "momentum": 0.5,
        "decay_epochs": (1.0, 2.5),
        "augment": AugmentConfig(shift_pixels=2),
        "convolution": "lax",
    }
    assert (asked.num_seeds, asked.first_seed, asked.variants, asked.num_devices) == (4, 7, ("a", "b"), 2)
    assert (asked.strategy, asked.resume, asked.sweep) == ("pmap", False, {"dropout_rate": (0.1, 0.2)})
    assert (asked.protocol, asked.population_size, asked.tensorboard) == ("reported", None, False)


def test_a_system_that_does_not_say_which_cores_are_ours_has_all_of_them(monkeypatch):
    """macOS; there --xla_force_host_platform_device_count ended in an AttributeError."""
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    assert common.with_devices_of_cores("") == "--xla_force_host_platform_device_count=3"
