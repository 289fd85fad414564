"""The answer's sentences follow from verdicts, and name the command where nothing was measured."""

import numpy as np
import polars as pl
import pytest

from experiments.kit.findings import Finding
from experiments.questions import questions
from experiments.report import answer, page
from experiments.report.answer import EXPLAINED, HEADLINES, PAIRS
from tests.kit.fixed import fixed
from tests.report.pages import CONTROL, Page, asked, missing

SIMPLE, TABLE = f"H=6, simple gold reward: {PAIRS}", f"H=6, full table gold reward: {PAIRS}"
SHARE = f"share of the {EXPLAINED}, over what replicates leave"
POOR = fixed(2, 3, seeds=4)


def sentence_of(number, estimate, claim, bound=1.0, direction="above", unit="times", controls=(), **more):
    """What the sentence of a headline says of a finding."""
    headline = HEADLINES[number]
    finding = Finding(claim, estimate, unit, bound, direction, margin=1.25, **more)
    evidence = asked(headline.name, headline.backend, (finding, *controls))
    return answer.sentence(headline, evidence)


@pytest.mark.parametrize(
    ("number", "estimate", "finding", "said"),
    [
        (0, fixed(1e-8, 2e-8), ("", 1e-4, "below", "nats"), "as Theorem 2.2 says: they are <b>1.50·10⁻⁸ nats"),
        (0, fixed(1, 2), ("", 1e-4, "below", "nats"), "different policies, against Theorem 2.2: they are <b>1.50 nats"),
        (0, fixed(0, 2), ("", 1e-4, "below", "nats"), "is undecided: they are <b>1.00 nats</b> (0.00 to 2.00) apart."),
        (1, fixed(19, 27), (SIMPLE,), "RLHF wins: DPO needs <b>23.0 times</b> (19.0 to 27.0) as many"),
        (1, fixed(0.1, 0.3), (SIMPLE,), "RLHF loses, against the hypothesis: DPO needs <b>0.200 times</b>"),
        (1, fixed(0.5, 1.5), (SIMPLE,), "it is undecided whether RLHF needs fewer pairs"),
        (1, POOR, (SIMPLE,), "whether RLHF needs fewer pairs: DPO needs <b>2.50 times</b> (2.00 to 3.00) as many "
                             "labelled pairs for the same regret (4 seeds, a verdict needs 16)."),
        (2, fixed(0.9, 1.1), (TABLE, 1.0, "at"), "the advantage is gone: DPO needs <b>1.00 times"),
        (2, fixed(0.5, 0.7), (TABLE, 1.0, "at"), "the advantage is gone, and RLHF even loses"),
        (2, fixed(2.0, 3.0), (TABLE, 1.0, "at"), "an advantage remains, against the hypothesis"),
        (2, fixed(0.7, 1.1), (TABLE, 1.0, "at"), "it is undecided whether the methods are level"),
        (3, fixed(0.98, 1.0), (SHARE, 0.97, "above", ""), "predicts regret as well as a repetition of the experiment "
                              "would: it explains a share of <b>0.990</b> (0.980 to 1.00) of the variance"),
        (3, fixed(0.8, 0.86), (SHARE, 0.97, "above", ""), "predicts regret worse than a repetition of the experiment"),
        (3, fixed(0.8, 1.0), (SHARE, 0.97, "above", ""), "would is undecided: it explains a share of <b>0.900</b>"),
        (4, fixed(4, 11), (SIMPLE,), "The same holds of small transformers and a simple gold reward: DPO needs <b>7.5"),
        (4, fixed(0.2, 0.9), (SIMPLE,), "It does not hold of small transformers"),
        (4, fixed(0.2, 1.9), (SIMPLE,), "Whether it holds of small transformers is undecided"),
    ],
    ids=[str(number) for number in range(17)],
)  # fmt: skip
def test_a_sentence_follows_from_the_verdict(number, estimate, finding, said):
    claim, *rest = finding
    assert said in sentence_of(number, estimate, claim, *rest)


def test_every_verdict_of_a_headline_has_its_sentence():
    """Those that its direction can have, and none that it cannot."""
    at = {"equal", "different: above", "different: below", "undecided"}
    assert [set(each.says) for each in HEADLINES] == [
        at if "full table gold reward" in each.parts else {"supported", "contradicted", "undecided"}
        for each in HEADLINES
    ]


def test_a_control_that_does_not_pass_is_said_in_the_sentence():
    failing = CONTROL._replace(estimate=fixed(5, 6))
    assert "regret (1 of the 2 controls did not pass)." in sentence_of(
        1, fixed(2, 3), SIMPLE, controls=(CONTROL, failing)
    )
    assert "did not pass" not in sentence_of(1, fixed(2, 3), SIMPLE, controls=(CONTROL,))
    elsewhere = CONTROL._replace(estimate=fixed(-9, 9), point="reference of s.d. 1.5")
    assert "did not pass" not in sentence_of(1, fixed(2, 3), SIMPLE, controls=(CONTROL, elsewhere))


def test_where_nothing_was_measured_the_answer_is_five_commands():
    found = answer.answer(missing())
    assert (len(found.sentences), found.numbers, found.picture) == (5, [], None)
    for headline, said in zip(HEADLINES, found.sentences, strict=True):
        option = "" if headline.backend == "tree" else " --backend transformer"
        assert f"is not measured yet: <code>python -m experiments run {headline.name}{option}" in said


def test_records_that_lack_the_points_of_a_headline_say_so():
    said = answer.sentence(HEADLINES[1], asked("sample_complexity"))
    assert "is not in the records of preset quick: <code>python -m experiments run sample_complexity</code>" in said


def test_an_answer_has_three_numbers_and_speaks_of_nothing_that_is_not_there():
    table = Finding(TABLE, fixed(1, 2), "times", 1.0, "at", margin=1.25)
    both = asked("sample_complexity", findings=(table, Finding(SIMPLE, fixed(3, 4), "times", 1.0, "above")), pictures=0)
    share = asked("few_pairs", findings=(Finding(SHARE, fixed(0.8, 0.9), "", 0.97, "above"),))
    found = answer.answer([both, share])
    assert [each.finding.claim for each in found.numbers] == [SIMPLE, TABLE, SHARE]
    assert len(found.sentences) == 3
    assert answer.answer([asked("main_table")]) == ([], [], None, "")


def test_headlines_find_their_findings_among_those_of_the_questions():
    """The claims of ``sample_complexity`` are made here of records of both kinds of gold reward."""
    tables = records(horizons=(2, 6))
    claims = [each.claim for each in questions()["sample_complexity"].findings(tables)]
    for headline in HEADLINES:
        if headline.name == "sample_complexity":
            first = next(claim for claim in claims if all(part in claim for part in headline.parts))
            assert first.startswith("H=6, ")
            assert "the same ratio" not in first


def records(horizons):
    """Records of ``sample_complexity`` whose regrets are made up."""
    fits, dimensions = [], []
    for horizon in horizons:
        for gold in {2: (1, 2), 6: (2, 4, 6)}[horizon]:
            orders = [("DPO", horizon), ("restricted MLE", gold), *(("RLHF", order) for order in range(1, horizon + 1))]
            same = {"horizon": horizon, "gold_order": gold, "beta": 1.0, "status": "ok"}
            for seed in range(3):
                for order in {gold, horizon}:
                    dimensions.append(same | {"order": order, "seed": seed, "effective_dimension": 3.0**order})
                for pairs in (64, 512):
                    fits += [
                        same | {"arm": arm, "order": order, "seed": seed, "pairs": pairs, "penalty": 1.0,
                                "regret": (3.0**order + seed) / pairs, "held_out_loss": float(order)}
                        for arm, order in orders
                    ]  # fmt: skip
    return {"fits": pl.DataFrame(fits), "dimensions": pl.DataFrame(dimensions)}


def test_the_figure_beside_the_answer_is_that_of_the_longest_responses():
    evidence = asked("sample_complexity")
    title = "sample_complexity"
    evidence = evidence._replace(pictures=[evidence.pictures[0]._replace(title=title)], records=records((2, 6)))
    alone = evidence._replace(records=records((6,)))
    drawn, expected = answer.picture(evidence), answer.picture(alone)
    assert drawn is not None
    assert drawn.png == expected.png != evidence.pictures[0].png


def test_of_several_references_it_is_the_figure_of_the_first():
    """Figures of several points have names that say which point they are of."""
    uniform, skewed = (
        {table: frame.with_columns(reference_scale=pl.lit(scale)) for table, frame in records((6,)).items()}
        for scale in (0.0, 1.5)
    )
    skewed = skewed | {"fits": skewed["fits"].with_columns(pl.col("regret") * 3)}
    both = {table: pl.concat([uniform[table], skewed[table]]) for table in uniform}
    evidence = asked("sample_complexity")
    named = [evidence.pictures[0]._replace(title=f"sample_complexity_reference_scale{scale}") for scale in ("0", "1.5")]
    drawn = answer.picture(evidence._replace(pictures=named, records=both))
    plain = evidence.pictures[0]._replace(title="sample_complexity")
    alone = answer.picture(evidence._replace(pictures=[plain], records=uniform))
    assert drawn is not None
    assert drawn.png == alone.png


def test_theory_stands_beside_the_ratio_of_pairs():
    simple, *_ = questions()["sample_complexity"].findings(records((6,)))
    assert simple.predicted == pytest.approx(3.0**6 / 3.0**2)
    assert np.isnan(CONTROL.predicted)
    assert "theory says 81 times" in simple.theory
    shown = Page(page.page([asked("main_table", findings=(simple,))]))
    assert "81.0 times, and measured" in shown.cards["main_table"]
