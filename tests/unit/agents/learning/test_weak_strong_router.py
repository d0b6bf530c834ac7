from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from shoal.agents.contract.weak_strong import Outcomes, curve
from shoal.agents.learning import weak_strong_router
from shoal.agents.learning.weak_strong_router import (
    SETTINGS,
    Choice,
    Scale,
    Setting,
    WeakStrongRouter,
    cross_validate,
    prompt_marks,
)

SUMS = ("apples", "trains", "coins", "pages")


def _world(count: int, *, seed: int) -> tuple[list[str], Outcomes]:
    """Sums; the weak model mostly fails at those that say "half"."""
    draw = random.Random(seed)
    prompts, weak, strong = [], [], []
    for _ in range(count):
        hard = draw.random() < 0.4
        numbers = ", ".join(str(draw.randint(1, 90)) for _ in range(draw.randint(2, 6)))
        prompts.append(f"Of {numbers} {draw.choice(SUMS)} {'half' if hard else 'all'} go. How many are left?")
        fails = draw.random() < (0.85 if hard else 0.1)
        weak.append(not fails)
        strong.append(draw.random() < 0.95)
    return prompts, Outcomes.of(weak, strong)


def test_what_foretells_failure_is_learnt_and_length_is_no_match_for_it() -> None:
    prompts, outcomes = _world(200, seed=1)
    found = cross_validate(prompts, outcomes)
    own = curve(outcomes, found.router).apgr
    assert own > 0.65
    assert own > curve(outcomes, found.length).apgr + 0.1
    assert len(found.chosen) == 5


def test_a_scored_prompt_had_no_part_in_training_or_choosing(monkeypatch: pytest.MonkeyPatch) -> None:
    prompts, outcomes = _world(80, seed=3)
    seen: list[set[str]] = []
    scored: list[set[str]] = []
    train, score = WeakStrongRouter.train, WeakStrongRouter.score

    def noted_choose(prompts: Sequence[str], outcomes: Outcomes, *, seed: int) -> Choice:
        seen.append(set(prompts))
        return Choice(setting=SETTINGS[0], marks=Scale(0.4, 0.1), text=Scale(0.4, 0.1))

    def noted_train(prompts: Sequence[str], weak: Any, choice: Choice) -> WeakStrongRouter:
        seen[-1] |= set(prompts)
        return train(prompts, weak, choice)

    def noted_score(router: WeakStrongRouter, prompts: Sequence[str]) -> Any:
        scored.append(set(prompts))
        return score(router, prompts)

    monkeypatch.setattr(weak_strong_router, "choose", noted_choose)
    monkeypatch.setattr(WeakStrongRouter, "train", staticmethod(noted_train))
    monkeypatch.setattr(WeakStrongRouter, "score", noted_score)
    cross_validate(prompts, outcomes)
    assert len(scored) == 5
    assert set().union(*scored) == set(prompts)
    assert all(not known & asked for known, asked in zip(seen, scored, strict=True))


def test_the_same_seed_gives_the_same_scores() -> None:
    prompts, outcomes = _world(60, seed=2)
    assert (
        cross_validate(prompts, outcomes).router.tolist() == cross_validate(prompts, outcomes).router.tolist()
    )


def test_a_prompt_is_scored_by_itself() -> None:
    prompts, outcomes = _world(120, seed=4)
    choice = Choice(
        setting=Setting(marks_c=0.01, text_share=0.5), marks=Scale(0.4, 0.1), text=Scale(0.4, 0.2)
    )
    router = WeakStrongRouter.train(prompts, outcomes.weak, choice)
    one_by_one = [float(router.score([p])[0]) for p in prompts[:5]]
    assert one_by_one == pytest.approx(router.score(prompts)[:5].tolist())


@pytest.mark.parametrize("prompt", ["", "...", "9" * 400, "1,2,3", "½ of 3% of $4/5", "\ud800 and 7.5"])
def test_marks_of_any_text_are_finite(prompt: str) -> None:
    marks = prompt_marks(prompt)
    assert len(marks) == len(prompt_marks("How many are left?"))
    assert np.isfinite(marks).all()


def test_simple_settings_come_first_and_too_few_prompts_are_refused() -> None:
    assert SETTINGS[0].text_share == 0
    prompts, outcomes = _world(12, seed=0)
    with pytest.raises(ValueError, match="at least 10 prompts"):
        cross_validate(prompts, outcomes)
