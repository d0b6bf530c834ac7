import numpy as np
import pytest
from sklearn.metrics import f1_score

from shoal.agents.contract.label_evidence import accuracy, confusions, macro_f1, paired, wilson


def test_accuracy_counts_no_answer_as_wrong() -> None:
    figure = accuracy(["a", None, "b", "b"], ["a", "a", "b", "a"])
    assert (figure.value, figure.count) == (0.5, 4)
    assert figure.low < 0.5 < figure.high


def test_wilsons_interval_is_the_published_one() -> None:
    # Newcombe 1998, table I: 81 of 263
    figure = wilson(81, 263)
    assert (round(figure.low, 4), round(figure.high, 4)) == (0.2553, 0.3662)
    nothing = wilson(0, 0)
    assert (nothing.low, nothing.high) == (0.0, 1.0)


def test_macro_f1_is_sklearns_and_its_interval_holds_the_truth() -> None:
    random = np.random.default_rng(0)

    def sample(count: int) -> tuple[list[str], list[str]]:
        wanted = random.choice(["a", "b", "c"], p=[0.7, 0.2, 0.1], size=count)
        given = np.where(random.random(count) < 0.8, wanted, random.choice(["a", "b", "c"], size=count))
        return given.tolist(), wanted.tolist()

    given, wanted = sample(200_000)
    truth = f1_score(wanted, given, average="macro")
    assert macro_f1(given, wanted, draws=10).value == pytest.approx(truth)
    held = 0
    for seed in range(60):
        figure = macro_f1(*sample(300), seed=seed, draws=300)
        held += figure.low <= truth <= figure.high
    # 95% of 60 is 57; fewer than 51 would happen once in 1,000 times
    assert held >= 51


def test_an_answer_outside_the_labels_costs_only_the_label_that_was_wanted() -> None:
    figure = macro_f1(["a", "z", None, "b"], ["a", "a", "b", "b"])
    assert figure.value == pytest.approx(
        f1_score(["a", "a", "b", "b"], ["a", "z", "", "b"], labels=["a", "b"], average="macro")
    )
    assert figure == macro_f1(["a", "z", None, "b"], ["a", "a", "b", "b"])


def test_mcnemars_test_looks_only_at_calls_that_one_of_both_gets_right() -> None:
    first = [True] * 90 + [False] * 8 + [True] * 2
    second = [True] * 90 + [True] * 8 + [False] * 2
    result = paired(first, second)
    assert (result.only_first, result.only_second, result.count) == (2, 8, 100)
    # of ten tosses at most two: (1 + 10 + 45) / 1024
    assert result.p_first_below == pytest.approx(56 / 1024)
    assert result.p_differs == pytest.approx(112 / 1024)
    assert paired(first, first).p_differs == 1.0
    with pytest.raises(ValueError, match="same calls"):
        paired([True], [True, False])


def test_confusions_come_with_how_often_the_label_was_wanted() -> None:
    found = confusions(["b", "b", "a", None, "a"], ["a", "a", "b", "a", "a"], most=2)
    assert [(c.wanted, c.given, c.count, c.of) for c in found] == [("a", "b", 2, 4), ("a", "", 1, 4)]
