"""How claims stand over many runs: counts, why the open ones are open, hours, and PyTorch's hours."""

import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import pytest
from run_folders import result_of, write_run

from mnistlab.analysis import claims, looks
from mnistlab.analysis.claims import Claim
from mnistlab.comparison import peer_hours, quirks, saved, verdict_tables, verdicts
from mnistlab.config import TrainConfig
from mnistlab.errors import UserError

KEY = ("lenet_vs_dense", "controlled")
UP = np.arange(16) % 4 * 1e-4
RESULTS = {
    "high": result_of(0.98 + UP, range(16)),
    "low": result_of(0.96 + UP[::-1], range(16)),
    "near": result_of(0.98 + UP + 1e-5 * np.tile([1, -1], 8), range(16)),
    "wild": result_of(0.98 + UP + 0.004 * np.array([*np.tile([1, -1], 7), 1, np.nan]), range(16)),
    "lost": result_of(np.full(16, np.nan), range(16)),
}
QUESTIONS = (
    Claim("a", "high is better", "test_accuracy", "high", ">", "low"),
    Claim("b", "low is better", "test_accuracy", "low", ">", "high"),
    Claim("c", "near is better", "test_accuracy", "near", ">", "high"),
    Claim("d", "wild is better", "test_accuracy", "wild", ">", "high"),
    Claim("e", "lost is better", "test_accuracy", "lost", ">", "high", ours=True),
    Claim("f", "there is an epoch 9", "val_accuracy@9", "high", ">", 0.5),
    Claim("g", "another network is better", "test_accuracy", "other", ">", "high"),
)
SECONDS = {
    name: {"compile_seconds": 60.0, "train_seconds": 3600.0 * n, "evaluate_seconds": 300.0}
    for n, name in enumerate(RESULTS, start=1)
}
UNTIL = "Open, since max_minutes is 120; the same command goes on: (d) after 16 pairs, about 9 more would probably."
BENCH = peer_hours.Bench("cpu", "cpu: cpu", {("dense", 128): {1: ("pytorch", 0.8), 8: ("pytorch_compiled", 0.5)}})


def run_of(folder, results=RESULTS, questions=QUESTIONS, **summary):
    """A run read back, as the scoreboard reads it."""
    write_run(folder, results, questions=questions, seconds=SECONDS, **summary)
    return verdicts.read(folder, saved.read_summary(folder))


def by_id(found):
    return {one.id: one for one in found}


def test_claims_are_counted_by_how_they_stand(tmp_path):
    found = verdicts.judged(KEY, run_of(tmp_path / "run"), variants=RESULTS)
    assert {id_: one.state for id_, one in by_id(found).items()} == {
        "a": "holds", "b": "reversed", "c": "no difference that matters", "d": "open", "e": "open", "f": "open",
    }  # fmt: skip
    found += verdicts.not_run(("fashion_mlp", "reported"), QUESTIONS[:2], RESULTS)
    table = verdict_tables.counts(found)
    assert table.header == (
        "whose", "protocol", "holds", "reversed", "no difference that matters", "open", "not run", "in all",
    )  # fmt: skip
    assert table.rows == [
        ("the sources' claims", "controlled", 1, 1, 1, 2, 0, 5),
        ("the sources' claims", "reported", 0, 0, 0, 0, 2, 2),
        ("our own questions", "controlled", 0, 0, 0, 1, 0, 1),
    ]


def test_an_open_claim_says_why(tmp_path):
    run = run_of(tmp_path / "run", until=UNTIL)
    found = by_id(verdicts.judged(KEY, run, variants=RESULTS))
    sides = claims.sides(QUESTIONS[3], RESULTS)
    more = looks.pairs_to_go(sides, 0.002, ">", num_open=2)  # of d and e
    about = f"over {more - 1}" if 15 + more >= looks.FURTHEST else f"about {more}"
    assert found["d"].why == (
        f"stopped at --max_minutes=120: 15 pairs; {about} more would probably answer it; "
        "1 of 16 pairs are lost to runs that diverged"
    )
    assert found["e"].why == "diverged: 16 of 16 pairs are lost to runs that diverged"
    assert found["f"].why == "not measured here: a variant or an epoch of it was not run"
    assert [found[id_].why for id_ in "abc"] == ["", "", ""]


def test_too_few_seeds_and_max_seeds_are_two_reasons(tmp_path):
    few = {name: result_of([0.98, 0.981, 0.979], range(3)) for name in ("high", "low")}
    for number, (until, said) in enumerate(
        (
            ("", "too few seeds: 3 pairs"),
            (UNTIL.replace("max_minutes is 120", "max_seeds is 3"), "stopped at --max_seeds=3"),
        )
    ):
        run = run_of(tmp_path / str(number), few, QUESTIONS[:1], until=until)
        assert verdicts.judged(KEY, run)[0].why.startswith(said)
    one = run_of(tmp_path / "one", {name: result_of([0.98], [0]) for name in ("high", "low")}, QUESTIONS[:1])
    assert verdicts.judged(KEY, one)[0].why == "too few seeds: 1 pair; one shows no spread"


def test_an_open_claim_about_seconds_asks_for_no_seeds(tmp_path):
    faster = dataclasses.replace(QUESTIONS[0], metric="epoch_seconds", direction="<")
    same = {name: result_of([0.98, 0.981, 0.979], range(3)) for name in ("high", "low")}
    (found,) = verdicts.judged(KEY, run_of(tmp_path / "run", same, [faster]))
    assert re.fullmatch(r"\d pairs?: seconds have one for each program that was timed", found.why)


def test_the_number_of_further_pairs_is_that_of_until(tmp_path):
    results = {name: RESULTS[name] for name in ("wild", "high")}
    found = verdicts.judged(KEY, run_of(tmp_path / "run", results, QUESTIONS[3:4]))
    sides = [claims.sides(QUESTIONS[3], results)]
    (question,) = looks.questions(claims.check_sides(QUESTIONS[3:4], sides), sides)
    number = int(re.search(r"(?:over|about) (\d+) more", found[0].why)[1])
    assert question.num_more == number + ("over" in found[0].why) and question.num_more > 0


def test_a_claim_that_the_protocol_does_not_ask_is_no_open_one(tmp_path):
    run = run_of(tmp_path / "run")
    assert "g" in by_id(verdicts.judged(KEY, run, variants={*RESULTS, "other"}))
    assert "g" not in by_id(verdicts.judged(KEY, run, variants=RESULTS))


def test_a_changed_run_judges_nothing(tmp_path):
    run = run_of(tmp_path / "run", departures=["epochs 20 -> 3"])
    assert {one.state for one in verdicts.judged(KEY, run)} == {"changed run"}


def test_hours_are_of_the_variants_that_a_claim_is_about(tmp_path):
    run = run_of(tmp_path / "run")
    found = by_id(verdicts.judged(KEY, run))
    assert found["a"].seconds == 2 * 360 + 3600 * (1 + 2)
    assert found["f"].seconds is None and found["g"].seconds is None  # not measured
    entry = {**run.summary["claims"][0], "left": "by hand", "right": 0.0, "comparison": {}}
    exact = run._replace(summary={**run.summary, "claims": [entry]})
    assert verdicts.judged(KEY, exact)[0].seconds == verdicts.seconds_of(run.summary)  # it is about no variant
    number = run._replace(summary={**run.summary, "claims": [{**entry, "left": "low"}]})
    assert verdicts.judged(KEY, number)[0].seconds == 360 + 3600 * 2  # one variant, against a number
    assert verdicts.seconds_of(run.summary) == 5 * 360 + 3600 * 15
    assert verdicts.seconds_of({"seconds": {"total": 7.0}}, ["cpu"]) == 7.0  # it trains nothing
    assert verdicts.seconds_of({"seconds": {"total": 7.0}}, part="train_seconds") is None
    gathered = {"seconds": {"one": SECONDS, "two": SECONDS}}
    assert verdicts.seconds_of(gathered, ["high"]) == 2 * (360 + 3600)
    assert verdicts.seconds_of({"seconds": {}}) is None
    assert verdicts.seconds_of(run.summary, ["other"]) is None


def test_pytorch_takes_our_training_over_the_ratio(tmp_path):
    run = run_of(tmp_path / "run")
    assert {settings["batch_size"] for settings in map(run.training.settings_of, RESULTS)} == {
        TrainConfig("dense").batch_size
    }
    exact = peer_hours.Bench(
        "cpu", "cpu: cpu", {("dense", TrainConfig("dense").batch_size): BENCH.ratios["dense", 128]}
    )
    assert peer_hours.seconds_of(exact, run, ["high", "low"]) == 3600 * (1 + 2) / 0.5  # 16 seeds: the row of 8 at once
    table = verdict_tables.claims_of(verdicts.judged(KEY, run, variants=RESULTS), run, exact)
    words, verdict, difference, *took = table.rows[0]
    assert (words, verdict, took) == ("(a) high is better", "holds", ["16", "3.2", "6.0"])
    assert difference.startswith("+0.02")
    *_, whole, known = verdict_tables.took(
        {KEY: run, ("other", "reported"): run._replace(training=None)}, {}, exact
    ).rows
    train, total = 3600 * 15, 5 * 360 + 3600 * 15
    assert whole == ("all of them", "", "–", *map(verdict_tables.hours, (2 * total, 2 * train, None)), "")
    assert known[3:6] == tuple(map(verdict_tables.hours, (total, train, train / 0.5)))
    assert "PyTorch, hours" not in verdict_tables.claims_of([], run, None).header


@pytest.mark.parametrize(
    ("model", "batch_size", "num_seeds", "ratio"), [("dense", 60_000, 1, 0.8), ("cnn_a", 128, 8, None)]
)
def test_the_nearest_batch_size_of_the_same_network_is_taken_and_named(model, batch_size, num_seeds, ratio):
    found = peer_hours.estimate(BENCH, model, batch_size, num_seeds)
    assert found.ratio == ratio
    assert found.source.startswith("the nearest, dense_128" if ratio else "no workload")


def test_a_benchmark_on_another_device_gives_no_number(tmp_path):
    run = run_of(tmp_path / "run", device="gpu: NVIDIA H100")
    assert peer_hours.seconds_of(BENCH, run, ["high"]) is None
    assert peer_hours.of_variant(BENCH, run, "high").source == "the run was on gpu, the benchmark on cpu"
    own = run_of(tmp_path / "own")
    own.training.config["run"]["variants"]["high"]["program"] = "0"
    assert peer_hours.of_variant(BENCH, own, "high").source == "a program of its own, which no workload is"
    own.training.config["run"]["variants"]["low"]["config"]["augment"]["shift_pixels"] = 2
    assert peer_hours.of_variant(BENCH, own, "low").source == "images augmented, as in no workload"
    here = run._replace(summary={**run.summary, "device": "cpu: cpu"})
    assert peer_hours.seconds_of(BENCH, here, ["high"]) is not None


def test_the_fastest_form_of_pytorch_is_the_one_to_beat(tmp_path):
    path = tmp_path / "summary.json"
    ratios = {
        "mlp_128_64_128: mnistlab": {"pytorch": 0.4, "pytorch_compiled": 0.6, "keras_tensorflow": 0.9},
        "mlp_128_64_128: mnistlab_8_seeds": {"pytorch": 0.3, "pytorch_compiled": 0.2},
        "mlp_128_64_128: mnistlab_lax": {"pytorch": 9.0},
    }
    path.write_text(json.dumps({"device": {"platform": "cpu", "kind": "cpu"}, "ratios": ratios}))
    assert peer_hours.read(path).ratios == {
        ("mlp_128_64", 128): {1: ("pytorch_compiled", 0.6), 8: ("pytorch", 0.3)},
    }
    shipped = peer_hours.read(Path(__file__).parents[1] / "experiments" / "bench" / "reference.json")
    assert shipped.platform == "cpu" and set(shipped.ratios["lenet5", 256]) == {1, 8}
    for content in ("{}", "[]", "no JSON", '{"ratios": {"a": 3}, "device": {}}'):
        path.write_text(content)
        with pytest.raises(UserError, match=r"no result of the benchmark|is damaged"):
            peer_hours.read(path)


def test_an_aim_is_reached_by_the_mean_of_the_last_epoch(tmp_path):
    questions = (
        Claim("a", "98 %", "test_accuracy", "high", ">", 0.98),
        Claim("b", "99 %", "test_accuracy", "low", ">", 0.99),
    )
    optimism = {"high": {"mean": 0.0012, "ci95": [0.0010, 0.0014]}}
    run = run_of(tmp_path / "run", questions=questions, best_minus_last_epoch=optimism)
    asked = [(KEY, claim) for claim in questions] + [(("small_budgets", "controlled"), questions[0])]
    rows = verdict_tables.aims(asked, {KEY: run}, {}).rows
    assert [row[3] for row in rows] == ["98.00 %", "99.00 %", "98.00 %"]
    assert [row[5] for row in rows] == ["16", "16", "–"]
    assert rows[0][6] == "yes" and rows[1][6] == "no: 3 points short"  # 0.96015 of 0.99
    assert rows[0][8] == "+0.0012 [+0.0010, +0.0014]" and rows[1][8] == "–"
    assert rows[2][6] == "not run"


def test_a_quirk_is_priced_by_its_claim_or_by_both_protocols(tmp_path):
    questions = (Claim("e", "logits", "test_accuracy", "high", ">", "low", ours=True),)
    fair = run_of(tmp_path / "fair", questions=questions)
    source = run_of(tmp_path / "source", {"high": RESULTS["low"]}, (), protocol="reported")
    runs = {KEY: fair, ("lenet_vs_dense", "reported"): source}
    asked = (
        quirks.Quirk("a", KEY[0], claim="e"),
        quirks.Quirk("b", KEY[0], variant="high"),
        quirks.Quirk("c", "none", claim="a"),
    )
    by_claim, by_variant, unknown = quirks.costs(runs, asked)
    assert by_claim.word == by_variant.word == "holds" and unknown.word == "not run"
    assert by_claim.difference == pytest.approx(0.02) and by_variant.difference == pytest.approx(0.02)
    assert by_variant.interval[0] < 0.02 < by_variant.interval[1] and by_variant.num_pairs == 16
    changed = {key: run._replace(departures=("epochs",)) for key, run in runs.items()}
    assert [cost.verdict for cost in quirks.costs(changed, asked)] == ["changed run", "changed run", "not run"]
