"""run --dry_run and run --config: what would be trained is what is trained, from the config that was printed too."""

import dataclasses
import json
import textwrap

import numpy as np
import pytest
from command_lines import run_all_with_data

import mnistlab
from experiments.cli import settings
from mnistlab.comparison import listing, plan, spec
from mnistlab.comparison.spec import Experiment, Options, Variant
from mnistlab.config import to_dict
from mnistlab.errors import UserError

MAIN = "experiments.cli.main"
SMALL = ["--variants=dense,lenet5", "--epochs=1", "--limit_examples=200", "--batch_size=100", "--seeds=2", "--seed=2"]
RUN = ["run", "lenet_vs_dense", *SMALL, "--convolution=cells"]
QUIET = "--progress=none"
MINE = """
    from flax import linen as nn
    import optax
    import mnistlab
    from mnistlab import Variant

    class Net(nn.Module):
        @nn.compact
        def __call__(self, image):
            return nn.Dense(10)(image.reshape(len(image), -1))

    VARIANTS = {"net": Variant(Net(), optimizer=optax.sgd(0.1), num_epochs=1, limit_examples=200)}
    EXPERIMENT = mnistlab.Experiment(name="mine", controlled=VARIANTS)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("plan")
    (folder / "mine.py").write_text(textwrap.dedent(MINE))
    return folder


@pytest.fixture(scope="module")
def asked(little_flags):
    return [*RUN, *little_flags]


@pytest.fixture(scope="module")
def planned(asked, folder):
    (ended,) = run_all_with_data([(MAIN, [*asked, "--dry_run", "--workdir=direct"])], folder)
    assert ended.status == 0, ended.err
    assert not (folder / "direct").exists()
    (folder / "planned.json").write_text(ended.out)
    return ended


@pytest.fixture(scope="module")
def trained(planned, asked, little_flags, folder):
    """The same run from its flags and from the config that --dry_run printed."""
    direct, configured = run_all_with_data(
        [
            (MAIN, [*asked, QUIET, "--workdir=direct"]),
            (MAIN, ["run", "--config=planned.json", *little_flags[1:], QUIET, "--workdir=configured"]),
        ],
        folder,
        pictures=False,
    )
    assert (direct.status, configured.status) == (0, 0), direct.err + configured.err
    return folder


def read(path):
    return json.loads(path.read_text())


def test_a_dry_run_says_what_would_be_trained(planned):
    assert "seeds 2 to 3" in planned.err and "trained on the first 200 examples" in planned.err
    dense = next(line for line in planned.err.splitlines() if line.startswith("dense ")).split()
    assert dense[1:6] == ["101,770", "200/50/50", "1", "100", "2"]
    assert "time: roughly, by the operations" in planned.err


def test_the_config_it_prints_is_taken_back_and_gives_the_same_run(trained):
    direct, configured = (read(trained / name / "config.json")["run"] for name in ("direct", "configured"))
    assert direct == configured and direct["seeds"] == [2, 3]
    metrics = [read(trained / name / "summary.json")["variants"] for name in ("direct", "configured")]
    for name in ("test_accuracy", "test_loss", "val_loss"):
        for variant in ("dense", "lenet5"):
            assert metrics[0][variant]["metrics"][name]["values"] == metrics[1][variant]["metrics"][name]["values"]


def test_what_it_says_of_disk_is_nearly_what_the_run_takes(planned, trained):
    rows = [line for line in planned.err.splitlines() if line.startswith(("dense ", "lenet5 "))]
    said = sum(float(line.split()[-2]) for line in rows)
    took = listing.bytes_in(trained / "direct" / "checkpoints") / 1e6
    assert rows[0].endswith("MB") and said == pytest.approx(took, rel=0.2)


def test_an_earlier_run_says_how_long(trained, asked, little_flags):
    again, grown, other = run_all_with_data(
        [
            (
                MAIN,
                ["run", "--config=direct/config.json", "--dry_run", "--workdir=direct", "--seeds=6", *little_flags[1:]],
            ),
            (MAIN, [*asked, "--dry_run", "--variants=all", "--workdir=elsewhere"]),
            (MAIN, [*asked, "--dry_run", "--epochs=2", "--workdir=direct"]),
        ],
        trained,
    )
    assert again.status == 0 and "time: by the epochs of direct" in again.err and "seeds 2 to 7" in again.err
    assert "where that has the variant; else roughly" in grown.err
    assert other.status == 2 and "holds another run (epochs 1 -> 2)" in other.err  # as the run itself would end


def test_flags_change_what_a_config_says(planned, little_flags, folder):
    changed = [
        "run",
        "--config=planned.json",
        *little_flags[1:],
        "--variants=dense",
        "--epochs=3",
        "--seeds=1",
        "--dry_run",
    ]
    (ended,) = run_all_with_data([(MAIN, changed)], folder)
    config = json.loads(ended.out)
    assert list(config["variants"]) == ["dense"] and config["seeds"] == [2]
    assert config["variants"]["dense"]["config"]["num_epochs"] == 3
    assert config["variants"]["dense"]["config"]["limit_examples"] == 200
    assert "epochs 20 -> 3" in ended.err  # told by the experiment, not by the file


@pytest.mark.parametrize("own, said", [(0.0, 0.1), (0.1, 0.0)])
def test_a_config_turns_on_what_is_off_and_off_what_is_on(own, said):
    variant = Variant("dense", label_smoothing=own, average_epochs=own)
    wanted = dataclasses.replace(variant, label_smoothing=said, average_epochs=said)
    entry = json.loads(json.dumps({"config": to_dict(wanted.config)}))
    assert spec.configured("dense", variant, entry) == wanted


def test_a_network_of_ones_own_keeps_what_no_json_holds(folder):
    (ended,) = run_all_with_data([(MAIN, ["run", "mine.py", "--dry_run", "--workdir=w"])], folder)
    config = json.loads(ended.out)
    assert config["variants"]["net"]["config"]["optimizer"] == "an optax transformation"
    config["variants"]["net"]["config"]["num_epochs"] = 2
    (folder / "edited.json").write_text(json.dumps(config))
    line = ["run", "mine.py", "--config=edited.json", QUIET, "--workdir=mine"]
    (ended,) = run_all_with_data([(MAIN, line)], folder, pictures=False)
    assert ended.status == 0, ended.err
    assert read(folder / "mine" / "summary.json")["variants"]["net"]["metrics"]["num_epochs"]["values"] == [2.0]


def test_what_a_run_refuses_of_its_data_is_not_planned(tmp_path):
    image, label = np.zeros((60, 28, 28, 1), np.uint8), np.arange(60) % 12
    data = mnistlab.from_arrays((image, label), (image, label), name="letters")
    experiment = Experiment("mine", controlled={"dense": Variant("dense", num_epochs=1)}, data=data)
    options = Options(tmp_path / "run", "controlled")
    with pytest.raises(UserError, match="labels go from 0 to 11, but the model has 10 logits"):
        plan.plan(experiment, options)


def test_a_folder_into_which_nobody_may_look_is_passed_over(tmp_path):
    assert plan._ended_at(tmp_path / ("n" * 300)) is None  # as one that is closed: an OSError
    (tmp_path / "summary.json").write_text("{}")
    assert plan._ended_at(tmp_path) == (tmp_path / "summary.json").stat().st_mtime


def test_of_rounds_the_first_is_planned(folder):
    line = ["run", "lenet_vs_dense", *SMALL[:4], "--until=resolved", "--max_seeds=20", "--dry_run", "--workdir=rounds"]
    (ended,) = run_all_with_data([(MAIN, line)], folder)
    assert ended.status == 0, ended.err
    assert len(json.loads(ended.out)["seeds"]) >= 6  # the fewest that can answer
    assert "first round; until resolved, a variant gets up to 20 seeds" in ended.err


def variant_of(config):
    return config["variants"]["dense"]


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda config: config.pop("experiment"), "names no experiment"),
        (lambda config: config.update(experiment="other"), "unknown experiment 'other'"),
        (lambda config: config.update(seeds=[0, 2]), "has the seeds [0, 2]"),
        (lambda config: config.update(seeds="all"), "has the seeds 'all'"),
        (lambda config: config.update(variants=["dense"]), "variants is no object"),
        (lambda config: config.update(sweep=["momentum"]), "sweep is no object"),
        (lambda config: config.update(protocol="mine"), "mine"),
        (lambda config: config["variants"].update(dence=config["variants"].pop("dense")), "did you mean dense?"),
        (lambda config: variant_of(config)["config"].update(epoch=3), "unknown field 'epoch'"),
        (lambda config: variant_of(config)["config"].update(num_epochs=0), "epochs is 0"),
        (lambda config: variant_of(config)["config"].update(num_epochs="many"), "epochs is 'many'"),
        (lambda config: variant_of(config)["config"].update(optimizer={"name": "magic"}), "optimizer is 'magic'"),
        (lambda config: variant_of(config).update(learning_rates=3), "learning_rates of dense"),
        (lambda config: variant_of(config).update(learning_rates=["fast"]), "learning_rate"),
    ],
)
def test_a_config_that_cannot_be_is_one_line(planned, tmp_path, change, words):
    config = json.loads(planned.out)
    change(config)
    (tmp_path / "c.json").write_text(json.dumps(config))
    (ended,) = run_all_with_data([(MAIN, ["run", "--config=c.json", QUIET, "--workdir=w"])], tmp_path)
    assert ended.status == 2 and words in ended.err and len(ended.err.splitlines()) == 1, ended.err
    assert not (tmp_path / "w" / "config.json").exists()


def test_a_config_of_another_experiment_and_none_at_all(planned, folder):
    lines = [["run", "fashion_mlp", "--config=planned.json"], ["run", "--config=none.json"], ["run", "--seeds=2"]]
    wanted = ["not of fashion_mlp", "cannot read none.json", "which comparison?"]
    for ended, words in zip(run_all_with_data([(MAIN, line) for line in lines], folder), wanted, strict=True):
        assert ended.status == 2 and words in ended.err and len(ended.err.splitlines()) == 1


@pytest.mark.parametrize("arguments", [["--config=c.json"], ["--epochs=2", "--config", "c.json"]])
def test_the_name_stands_in_the_file(tmp_path, monkeypatch, arguments):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c.json").write_text(json.dumps({"experiment": "x", "seeds": [0], "variants": {}}))
    assert settings.experiment_in(arguments) == "x"
    assert settings.experiment_in(["--configs=c.json"]) is None
