import numpy as np
import pytest

from shoal.agents.learning.linear_heads import area
from shoal.agents.learning.sureness import Sureness, fit_sureness, margins, word_count


def _calls(count: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Two answers; short calls are wrong three times as often as their probability says."""
    rng = np.random.default_rng(seed)
    best = rng.uniform(0.6, 1.0, count)
    words = rng.choice([2, 12], count)
    right = rng.random(count) < 1 - np.where(words == 2, 1.5, 0.5) * (1 - best)
    return np.column_stack([1 - best, best]), words, right


def test_the_margin_is_the_log_ratio_of_the_two_likeliest() -> None:
    found = margins(np.array([[0.1, 0.6, 0.3], [0.0, 1.0, 0.0]]))
    assert found[0] == pytest.approx(np.log(2), abs=1e-4)
    assert np.isfinite(found[1]) and found[1] > 13
    assert margins(np.ones((2, 1))) == pytest.approx([13.8, 13.8], abs=0.1)


def test_words_are_learnt_as_a_sign_where_short_calls_are_answered_worse() -> None:
    probabilities, words, right = _calls(2000, 0)
    fitted = fit_sureness(probabilities, words.tolist(), right)
    assert fitted is not None and fitted.words > 0 and fitted.margin > 0
    probabilities, words, right = _calls(4000, 1)
    sure = fitted.confidence(probabilities, words)
    assert area(sure, right) < 0.9 * area(probabilities.max(axis=1), right)
    # and it says how often it is right
    assert sure.mean() == pytest.approx(right.mean(), abs=0.02)


def test_too_few_mistakes_fit_nothing() -> None:
    probabilities, words, _ = _calls(200, 0)
    assert fit_sureness(probabilities, words.tolist(), np.arange(200) >= 5) is None


def test_a_margin_that_misleads_fits_nothing() -> None:
    probabilities, words, _ = _calls(500, 0)
    wrong_way = probabilities.max(axis=1) < 0.8
    assert fit_sureness(probabilities, words.tolist(), wrong_way) is None


def test_longer_calls_than_usual_are_no_surer() -> None:
    sureness = Sureness(bias=0.0, margin=1.0, words=1.0, most_words=20.0)
    probabilities = np.array([[0.2, 0.8]] * 2)
    first, second = sureness.confidence(probabilities, np.array([20, 2000]))
    assert first == second
    assert Sureness.from_dict(sureness.to_dict()) == sureness
    assert word_count(" one  two\nthree ") == 3
