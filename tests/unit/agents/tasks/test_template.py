"""Masking, alignment, and whether a prompt fits a template."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from shoal.agents.tasks.template import Template, mask, normal, tokens_of


def test_dates_numbers_and_ids_are_masked() -> None:
    text = (
        "Today is 2025-03-01 (March 1st, 2025), 14:05. User 42, ann@example.org, see https://example.org/a?b=1,"
        " run 123e4567-e89b-12d3-a456-426614174000, object 5f2a9c81d07e4b3a, price 1,299.50."
    )
    assert mask(text) == (
        "Today is <date> (<date>), <time>. User <n>, <email>, see <url> run <uuid>, object <id>, price <n>."
    )


def test_text_without_such_things_is_left_alone() -> None:
    assert mask("May I come in March?") == "May I come in March?"


def prompt(service: str, labels: str) -> list[str]:
    return tokens_of(f"You watch a conversation with {service}. Name what the user now wants done: {labels}.")


def test_what_two_prompts_share_is_their_template() -> None:
    template = Template.exact(prompt("a bus line", "FindBus, BuyTicket")).generalised(
        prompt("the dentist next door", "Book")
    )
    assert template == Template(
        runs=(" You watch a conversation with ", " . Name what the user now wants done : ", " . "),
        starts=True,
        ends=True,
    )
    assert template.shown() == "You watch a conversation with…. Name what the user now wants done:…."
    assert template.size == 15
    assert template.fits(normal(prompt("anything at all", "A, B, C")))
    assert template.fillers(normal(prompt("a bus line", "Go"))) == "a bus line Go"


def test_a_prompt_that_begins_or_ends_otherwise_does_not_fit() -> None:
    template = Template.exact(prompt("a", "B")).generalised(prompt("c d", "E"))
    assert not template.fits(normal(["Now", *prompt("a", "B")]))
    assert not template.fits(normal([*prompt("a", "B"), "Thanks"]))
    assert not template.fits(normal(tokens_of("You watch a conversation with a.")))


def test_an_exact_template_fits_its_own_prompt_only() -> None:
    template = Template.exact(["Be", "brief", "Be", "brief"])
    assert template.fits(" Be brief Be brief ")
    assert not template.fits(" Be brief and Be brief Be brief ")


_WORDS = st.lists(st.sampled_from(["a", "b", "c", "d", "e"]), max_size=14)


@given(_WORDS, _WORDS, _WORDS)
def test_whatever_was_generalised_from_fits(one: list[str], two: list[str], three: list[str]) -> None:
    template = Template.exact(one).generalised(two)
    if template.runs:
        assert template.fits(normal(one))
        assert template.fits(normal(two))
    wider = template.generalised(three)
    if wider.runs:
        assert all(wider.fits(normal(words)) for words in (one, two, three))


def test_plain_data_and_back() -> None:
    template = Template(runs=(" a b c ", " d "), starts=False, ends=True)
    assert Template.from_dict(template.to_dict()) == template


def test_long_prompts_are_aligned_at_both_ends() -> None:
    start, end = [f"s{n}" for n in range(50)], [f"e{n}" for n in range(50)]
    one = [*start, *(f"x{n}" for n in range(3000)), *end]
    two = [*start, *(f"y{n}" for n in range(4000)), *end]
    template = Template.exact(one).generalised(two)
    assert template.size == 100
    assert template.fits(normal(one))
    assert template.fits(normal(two))
