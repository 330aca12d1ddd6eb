"""The blocks that every page is made of."""

import numpy as np
from run_folders import result_of

from mnistlab.analysis import claims
from mnistlab.analysis.claims import Claim
from mnistlab.report import page, sections, text

SEEDS = range(8)
RESULTS = {
    name: result_of(0.9 + shift + 0.01 * np.random.default_rng(0).standard_normal(8), SEEDS)
    for name, shift in (("high", 0.02), ("low", 0.0))
}
CHECKED = claims.check(
    [
        Claim("a", "", "test_accuracy", "high", ">", "low"),
        Claim("b", "", "overfitting_gap", "high", ">", "low"),
        Claim("c", "", "val_loss@2", "high", "<", "low"),
        Claim("d", "", "test_accuracy", "high", ">", 0.5),
        Claim("e", "", "test_accuracy", "high", ">", "never run"),
    ],
    RESULTS,
)


def picture(figure, name, caption, alt=None):
    return page.Picture(figure, caption, name)


def test_paired_differences_of_every_claim_on_two_variants_in_a_figure_a_quantity():
    drawn = sections.difference_pictures(CHECKED, RESULTS, picture)
    rows = {block.alt: [label.get_text() for label in block.figure.axes[0].get_yticklabels()] for block in drawn}
    assert list(rows) == ["differences_accuracy", "differences_loss"]
    accuracy, loss = rows.values()
    assert [label[:3] for label in accuracy] == ["(a)", "(b)"] and [label[:3] for label in loss] == ["(c)"]


def test_the_evidence_of_the_claims_that_were_measured():
    table = sections.evidence_table(CHECKED)
    assert table.header == ("", "(a)", "(b)", "(c)", "(d)")
    rows = {row[0]: row[1:] for row in table.rows}
    assert rows["verdict"][0] == "holds" and rows["B"][3] == "0.5" and rows["pairs"] == ("8",) * 4
    assert rows["one look: A − B [95 %, t]"][0].startswith("+0.02")
    chances = rows["one look: P(A < B) [95 %]"]
    assert chances[2].startswith("0.50") and chances[0] == text.MISSING


def test_runs_that_diverged_are_named():
    assert sections.diverged(RESULTS) == ""
    values = np.where(np.arange(8) % 4 == 1, np.nan, 0.9)
    said = sections.diverged(RESULTS | {"third": result_of(values, SEEDS)})
    assert said.startswith("Diverged: third in 2 of 8 runs (seeds 1, 5).")


def test_the_table_of_a_claim_on_runs_that_all_diverged_names_them_and_has_no_numbers():
    results = RESULTS | {"low": result_of(np.full(8, np.nan), SEEDS)}
    table = sections.claims_table(claims.check([Claim("a", "", "test_accuracy", "high", ">", "low")], results))
    (row,) = table.rows
    assert row[3] == "not resolved (n too small; low diverged in 8 of 8 seeds)"
    assert row[4:] == (*[text.MISSING] * 3, "0")


def test_sentences_to_quote_say_where_they_come_from():
    quoted, _, _ = sections.quotable(CHECKED, "mnist, 8 seeds")
    (said,) = quoted.blocks
    assert said.text.startswith("Measured on mnist, 8 seeds:") and said.text.count("(95 % interval") == 4
    assert sections.quotable(CHECKED[-1:], "mnist") == []


def test_what_was_measured_is_a_card_and_what_was_not_a_line():
    cards, missing = sections.claim_cards(CHECKED)
    assert cards.cards[0].verdict == "holds" and len(cards.cards) == 4
    assert dict(cards.cards[0].facts)["difference, points"] == "+2.0000 [+2.0000, +2.0000]"
    assert dict(cards.cards[2].facts)["difference"].startswith("+0.0")  # of a loss, which has no points
    assert missing.text.endswith("(e) .")


def test_alternative_texts_say_the_finding():
    (accuracy, _) = sections.difference_pictures(CHECKED, RESULTS, lambda *block: page.Picture(block[0], *block[2:]))
    assert "(a) high − low, test accuracy +0.02" in accuracy.alt
    seeds = sections.seeds_picture(
        "test_accuracy", RESULTS, lambda *block: page.Picture(block[0], *block[2:]), {"high": 0.9}
    )
    assert "high 0.9" in seeds.alt and "(n=8)" in seeds.alt and seeds.alt.endswith("reported for high 0.9000.")


def test_a_card_counts_in_the_unit_that_it_is_told():
    per_cent = {name: result_of(100 * result.metrics["test_accuracy"], SEEDS) for name, result in RESULTS.items()}
    checked = claims.check([Claim("a", "higher", "test_accuracy", "high", ">", "low", matters=0.2)], per_cent)
    (cards,) = sections.claim_cards(checked, text.Unit)
    assert cards.cards[0].facts[0][0] == "difference" and cards.cards[0].facts[0][1].startswith("+2.0")


def test_a_claim_of_equality_has_no_chance_of_being_true_of_a_pair():
    checked = claims.check([Claim("a", "the same", "test_accuracy", "high", "same", "low")], RESULTS)
    assert sections.claims_table(checked).rows[0][6] == text.MISSING


def test_only_what_is_known_to_be_a_share_is_counted_in_points():
    results = {name: result_of(40.0 + shift + np.arange(8) / 10, SEEDS) for name, shift in (("a", 0), ("b", 5))}
    results = {n: one._replace(metrics={"perplexity": one.metrics["test_accuracy"]}) for n, one in results.items()}
    (card,) = sections.claim_cards(claims.check([Claim("a", "", "perplexity", "a", "<", "b")], results))[0].cards
    assert card.facts[0] == ("difference", "−5.0000 [−5.0000, −5.0000]")
