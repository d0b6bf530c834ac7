"""Finds the templates that a prompt fits, or that stand inside it, without trying each of thousands.

A prompt can only fit a template all of whose words it has; so each template waits under its rarest word, and only those
under the prompt's own words are tried. Pure; what the templates stand for is the caller's.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from hashlib import blake2b
from typing import Generic, TypeVar

from shoal.agents.tasks.template import Template, content_words

Known = TypeVar("Known")

#: a template of fewer words that say something may stand in any prompt by chance
_LEAST_WORDS = 5
_MEMO_SIZE = 4096


class TemplateIndex(Generic[Known]):
    """Templates with what is known of each. The longest is found first."""

    def __init__(self, templates: Mapping[Template, Sequence[Known]]) -> None:
        ranked = sorted(templates, key=lambda template: (-template.size, template.runs))
        self._found = [list(templates[template]) for template in ranked]
        self._templates = ranked
        self._inside = [
            replace(template, starts=False, ends=False)
            if len(content_words(template.tokens)) >= _LEAST_WORDS
            else None
            for template in ranked
        ]
        #: digest of a prompt -> templates to be tried; a site's prompts recur. Forgets all when full
        self._memo: dict[bytes, list[int]] = {}
        words = [set(template.tokens) for template in ranked]
        spread = Counter(word for some in words for word in some)
        self._under: dict[str, list[int]] = defaultdict(list)
        #: without a word: that of calls without a system prompt
        self._wordless = [number for number, some in enumerate(words) if not some]
        for number, some in enumerate(words):
            if some:
                self._under[min(some, key=lambda word: (spread[word], word))].append(number)

    def fitting(self, text: str) -> Iterator[list[Known]]:
        """What is known of each template that a prompt (in normal form) fits."""
        for number in self._possible(text):
            if self._templates[number].fits(text):
                yield self._found[number]

    def inside(self, text: str) -> Iterator[list[Known]]:
        """The same of each template that stands in the prompt, with whatever before and after it."""
        for number in self._possible(text):
            template = self._inside[number]
            if template is not None and template.fits(text):
                yield self._found[number]

    def _possible(self, text: str) -> list[int]:
        key = blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
        found = self._memo.get(key)
        if found is None:
            if len(self._memo) >= _MEMO_SIZE:
                self._memo.clear()
            under = self._under
            found = [number for word in set(text.split()) if word in under for number in under[word]]
            found = self._memo[key] = sorted([*found, *self._wordless])
        return found
