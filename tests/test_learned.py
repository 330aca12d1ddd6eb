"""The page of what we learned: no sentence can disagree with its run."""

import re

import numpy as np
import pytest
from run_folders import result_of, write_run

from experiments import scoreboard
from mnistlab.analysis.claims import Claim
from mnistlab.comparison import saved, verdicts

KEYS = {protocol: ("lenet_vs_dense", protocol) for protocol in ("reported", "controlled")}
UP = np.arange(16) % 4 * 1e-4
GAPS = {
    "it holds": np.full(16, 0.02),
    "the opposite is true": np.full(16, -0.02),
    "there is no difference that matters": np.tile([1e-5, -1e-5], 8),
    "it is not settled": 0.004 * np.tile([1, -1], 8),
}


def board_of(tmp_path, **gaps):
    """The board of runs of lenet_vs_dense, by protocol the differences of its two nets."""
    runs = {}
    for protocol, gap in gaps.items():
        results = {"lenet5": result_of(0.97 + UP + gap, range(16)), "dense": result_of(0.97 + UP, range(16))}
        results["lenet5_double_softmax"] = results["dense"]
        questions = (
            Claim("a", "LeNet-5 is more accurate", "test_accuracy", "lenet5", ">", "dense"),
            Claim("e", "logits are better", "test_accuracy", "lenet5", ">", "lenet5_double_softmax", ours=True),
        )
        folder = write_run(
            tmp_path / protocol, results, questions=questions, experiment="lenet_vs_dense", protocol=protocol
        )
        runs[KEYS[protocol]] = folder
    summaries = {key: saved.read_summary(folder) for key, folder in runs.items()}
    return scoreboard.board_of(summaries, runs, None)


def section(text, title):
    return text.partition(f"## {title}\n")[2].partition("\n## ")[0]


@pytest.mark.parametrize("said", GAPS)
def test_the_sentence_is_that_of_the_verdict_and_leads_to_its_run(tmp_path, said):
    board = board_of(tmp_path, reported=GAPS[said])
    text = section(scoreboard.learned_page(board, "results.md"), "LeNet-5 against a dense net")
    assert [words for words in GAPS if words in text] == [said]
    (line,) = [line for line in text.splitlines() if line.startswith("Done as the source did, ")]
    assert line.endswith("([lenet_vs_dense](results.md#lenet_vs_dense)).")
    delta = 100 * float(np.mean(GAPS[said]))
    assert f"{delta:+.1f}".replace("-", "−") in line or abs(delta) < 0.05
    assert "Asked fairly: not run yet, so there is no verdict." in text
    assert "What applying the softmax twice (LeNet-5) costs is not known yet" in text


def test_a_quirk_by_which_every_run_diverged_was_run(tmp_path):
    lost = np.full(16, np.nan)
    text = scoreboard.learned_page(board_of(tmp_path, reported=lost, controlled=lost), "results.md")
    said = "every pair of seeds diverged (n too small; lenet5 diverged in 16 of 16 seeds)"
    assert f"What applying the softmax twice (LeNet-5) costs is not known yet: {said}" in text


def test_who_diverged_is_said_of_what_is_answered(tmp_path):
    gap = 0.02 + np.where(np.arange(16) < 2, np.nan, 0.0)
    text = scoreboard.learned_page(board_of(tmp_path, reported=gap), "results.md")
    assert "Done as the source did, it holds (lenet5 diverged in 2 of 16 seeds): " in text


def test_one_run_is_held_against_the_claim_seed_by_seed(tmp_path):
    gap = np.where(np.arange(16) < 4, -0.001, 0.02)  # in 4 of 16 pairs the other way round
    text = scoreboard.learned_page(board_of(tmp_path, reported=gap), "results.md")
    assert "one run of each contradicts the claim for 4 of 16 seeds" in text
    assert (
        "Of 1 claim that set one network against another and were run as the source did, 1 would have been contradicted"
        in text
    )


def test_of_seconds_which_a_program_has_once_no_share_of_seeds_is_said(tmp_path):
    results = {name: result_of(0.97 + UP, range(16)) for name in ("lenet5", "dense")}
    faster = Claim("t", "LeNet-5 is faster", "epoch_seconds", "lenet5", "<", "dense")
    folder = write_run(tmp_path / "run", results, questions=[faster], experiment="lenet_vs_dense", protocol="reported")
    board = scoreboard.board_of({KEYS["reported"]: saved.read_summary(folder)}, {KEYS["reported"]: folder}, None)
    assert "would have been contradicted" not in scoreboard.learned_page(board, "results.md")


def test_where_every_pair_agrees_one_run_of_each_was_enough(tmp_path):
    text = scoreboard.learned_page(board_of(tmp_path, reported=GAPS["it holds"]), "results.md")
    assert "one run of each contradicts the claim for none of 16 seeds" in text
    assert (
        "Of 1 claim that set one network against another and were run as the source did, 0 would have been contradicted"
        in text
    )


def test_the_two_protocols_stand_one_below_the_other_and_the_quirk_has_its_price(tmp_path):
    board = board_of(tmp_path, reported=GAPS["the opposite is true"], controlled=GAPS["it holds"])
    text = section(scoreboard.learned_page(board, "results.md"), "LeNet-5 against a dense net")
    assert text.index("Done as the source did, the opposite is true") < text.index("Asked fairly, it holds")
    price = "Applying the softmax twice (LeNet-5) costs test accuracy: mended, test accuracy changes by +2.0000"
    assert price in text and "([lenet_vs_dense, controlled](results.md#lenet_vs_dense_controlled))" in text


def test_a_changed_run_says_nothing_of_the_source(tmp_path):
    board = board_of(tmp_path, reported=GAPS["it holds"])
    (key,) = board.runs
    run = board.runs[key]._replace(departures=("epochs 20 -> 3",))
    found = [*verdicts.judged(key, run), *(one for one in board.found if one.key != key)]
    text = scoreboard.learned_page(board._replace(runs={key: run}, found=found), "results.md")
    assert "it holds" not in text
    assert "the run departs from the protocol (epochs 20 -> 3), so there is no verdict ([lenet_vs_dense]" in text


def test_the_best_epoch_of_a_run_is_held_against_its_last(tmp_path):
    board = board_of(tmp_path, controlled=GAPS["it holds"])
    (key,) = board.runs
    measured = {"best_minus_last_epoch": {"under_8000": {"mean": 0.0012, "ci95": [0.0010, 0.0014]}}}
    run = board.runs[key]._replace(summary={**board.runs[key].summary, **measured})
    text = scoreboard.learned_page(board._replace(runs={key: run}), "results.md")
    assert "The best epoch of a run instead of its last flatters `under_8000` by +0.12 [+0.10, +0.14] points" in text
    assert "best epoch" not in scoreboard.learned_page(board, "results.md")


def test_without_runs_there_is_no_verdict_and_no_link_to_one():
    board = scoreboard.board_of({}, {}, None)
    text = scoreboard.learned_page(board, "results.md")
    assert not re.search("|".join(GAPS), text) and "](results.md" not in text
    assert text.count("not run yet, so there is no verdict") == 2 * len(
        set(scoreboard.EXPERIMENTS) - set(scoreboard.OURS)
    )


def test_every_link_leads_to_a_section_of_the_results(tmp_path):
    board = board_of(tmp_path, reported=GAPS["it holds"], controlled=GAPS["it is not settled"])
    values, _ = scoreboard._values({key: run.summary for key, run in board.runs.items()})
    text, results = scoreboard.learned_page(board, "results.md"), scoreboard._markdown(board, values)
    links = set(re.findall(r"\(results\.md#([\w-]+)\)", text)) | set(re.findall(r"\]\(#([\w-]+)\)", results))
    assert links == {"lenet_vs_dense", "lenet_vs_dense_controlled", "reported-and-ours"}
    headings = re.findall(r"^#+ (.*)$", results, re.MULTILINE)
    assert links <= {heading.lower().replace(" ", "-") for heading in headings}
    assert len(headings) == len(set(headings))


def test_every_quirk_has_its_price_in_the_section_of_a_source():
    text = scoreboard.learned_page(scoreboard.board_of({}, {}, None), "results.md")
    for quirk in scoreboard.quirks.QUIRKS:
        assert text.count(f"What {quirk.words} costs is not known yet") == 1
