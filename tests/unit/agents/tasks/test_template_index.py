"""Templates are found without trying each."""

from __future__ import annotations

from random import Random

from shoal.agents.tasks.template import Template, mask, normal, tokens_of
from shoal.agents.tasks.template_index import TemplateIndex

WORDS = [
    "sort",
    "the",
    "mails",
    "of",
    "a",
    "shop",
    "by",
    "topic",
    "name",
    "film",
    "bus",
    "ticket",
    "price",
    "answer",
    "with",
    "one",
    "word",
    "only",
    "please",
]


def text(prompt: str) -> str:
    return normal(tokens_of(mask(prompt)))


def exact(prompt: str) -> Template:
    return Template.exact(tokens_of(mask(prompt)))


def test_the_index_finds_what_trying_each_template_finds() -> None:
    random = Random(3)
    prompts = [" ".join(random.choices(WORDS, k=random.randrange(2, 12))) for _ in range(300)]
    templates = [
        exact(a).generalised(tokens_of(b)) if n % 2 else exact(a)
        for n, (a, b) in enumerate(zip(prompts, reversed(prompts), strict=True))
    ]
    index = TemplateIndex({template: [template] for template in templates})
    for prompt in [*prompts[:100], "", "quite another text"]:
        fitting = {t for t in templates if t.fits(text(prompt))}
        assert {t for found in index.fitting(text(prompt)) for t in found} == fitting


def test_the_longest_template_comes_first() -> None:
    short, long = exact("Sort mails"), exact("Sort mails of a shop by their topic")
    wide = Template(runs=(" Sort mails ",), ends=False)
    index = TemplateIndex({wide: ["wide"], short: ["short"], long: ["long"]})
    assert list(index.fitting(text("Sort mails of a shop by their topic"))) == [["long"], ["wide"]]


def test_a_prompt_is_found_inside_another_if_it_says_enough() -> None:
    long = "Sort the complaints of customers of a shop by topic and name one topic only"
    index = TemplateIndex({exact(long): ["long"], exact("Answer politely"): ["short"]})
    inside = index.inside(text(f"You run in a harness. Rules: none. Answer politely. {long} That is all."))
    assert list(inside) == [["long"]]


def test_the_prompt_of_calls_without_one_is_found_too() -> None:
    index = TemplateIndex({exact(""): ["none"]})
    assert list(index.fitting(text(""))) == [["none"]]
    assert list(index.inside(text("anything"))) == []
