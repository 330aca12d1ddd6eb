import numpy as np
import pytest

from mnistlab.analysis import claims
from mnistlab.analysis.claims import Claim
from mnistlab.analysis.looks import FURTHEST, foreseen, looks, questions
from mnistlab.analysis.sequential import expected_num_pairs, sequential_p
from mnistlab.report import sections

NOISE = np.array([0.01, -0.02, 0.015, 0.005, -0.01, 0.02, -0.005, 0.01, -0.015, 0.0])
CLAIMS = [
    Claim("a", "clear", "test_accuracy", "wide", ">", "narrow"),
    Claim("b", "open", "test_loss", "wide", "<", 0.0),
    Claim("c", "absent", "test_loss", "deep", "<", 0.0),
]
SIDES = [(0.5 + NOISE, NOISE[::-1]), (NOISE - 0.005, np.zeros(10)), None]


def test_an_open_claim_says_what_it_needs_and_how_many_more():
    answered, still_open = questions(claims.check_sides(CLAIMS, SIDES), SIDES)
    assert answered[:4] == ("a", ("wide", "narrow"), 10, 0) and answered.evidence.startswith("holds, p = ")
    expected = expected_num_pairs(NOISE - 0.005, 0.0, 0.05, 256, "<").median - 10
    assert still_open[:4] == ("b", ("wide",), 10, expected) and expected > 0


def test_one_pair_promises_nothing_though_another_diverged_and_as_many_again_are_asked_for():
    one = [(np.array([0.9, np.nan]), np.array([0.8, 0.7]))]
    (item,) = questions(claims.check_sides(CLAIMS[:1], one), one)
    assert (item.num_pairs, item.num_more) == (2, 2)


def test_of_a_variant_that_always_diverges_nothing_is_foreseen():
    lost = [(np.full(6, np.nan), np.full(6, 0.8))]
    (item,) = questions(claims.check_sides(CLAIMS[:1], lost), lost)
    assert (item.num_pairs, item.outlook) == (6, "in each of which a network diverged")


def test_from_where_it_is_looked_no_further_no_number_is_promised():
    assert foreseen(FURTHEST - 10, 4) == "about 4 more would probably answer it"
    assert foreseen(FURTHEST - 10, 10) == "over 9 more would probably answer it"
    assert foreseen(FURTHEST, 1) == "no end to be foreseen"


def test_looks_are_the_evidence_and_the_interval_of_the_verdict():
    found = looks(SIDES[0], num_claims=2)
    (item, _) = claims.check_sides(CLAIMS[:2], SIDES[:2])
    assert 1 / found.evidence == pytest.approx(sequential_p(SIDES[0][0] - SIDES[0][1]))
    assert (found.low[-1], found.high[-1]) == item.comparison.interval and found.decides == 40
    assert np.isnan(looks(SIDES[0], 2, "=").decides)  # evidence of a difference settles no claim of equality


def test_the_picture_has_a_row_of_two_panels_for_each_claim_with_two_pairs():
    drawn = []
    sections.looks_picture(claims.check_sides(CLAIMS, SIDES), SIDES, lambda figure, *words: drawn.append(figure))
    panels = drawn[0].axes
    assert len(panels) == 4
    steps, evidence = panels[0].lines[0], looks(SIDES[0], 2).evidence
    assert list(steps.get_ydata()) == [*evidence, evidence[-1]]
    assert list(steps.get_xdata()) == [n + 0.5 for n in range(len(evidence) + 1)]  # the last is seen as the others are
    assert sections.looks_picture([], [], lambda *words: pytest.fail("drawn")) == []
