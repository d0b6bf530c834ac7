"""Decoding under a rule: what a model writes is one of a closed set, or JSON under a schema, whatever its weights say.

Thin over llguidance, which says after each token which tokens may come next. Owns the way to an end: a model that would go on for ever
is made to close what it has open. Knows neither requests nor how a model is loaded.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import torch
from transformers import LogitsProcessor, PreTrainedTokenizerFast

from shoal.agents.learning.answer_forms import Rule

#: as `agents/learning/json_schema.py` writes JSON
_STYLE = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
#: annotations that no value can break here, or that the library does not know in every wording
_LOOSE = frozenset({"format", "pattern", "contentEncoding", "contentMediaType"})
#: how an answer is brought to its end: in this order whichever may come next
_CLOSERS = ('"}', '"]', '"', "}", "]", '",', ",", "null", "0")


class Unruly(Exception):
    """A rule that cannot be decoded under; the message says why."""


class Grammars:
    """Compiles rules for one tokenizer. Rules recur, so what was compiled is kept."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, rows: int, ends: Sequence[int]) -> None:
        """`rows`: size of the model's vocabulary; bases often have more rows than tokens."""
        from llguidance.hf import from_tokenizer

        self._tokenizer = from_tokenizer(tokenizer, n_vocab=rows, eos_token=list(ends))
        self.ends = list(ends)
        vocabulary = tokenizer.get_vocab()
        #: tokens that close something, the most closing first; also in SentencePiece's own spelling
        self.closers = [vocabulary[c] for c in _CLOSERS if c in vocabulary]
        #: tokens that open something on their way: they would pass a place where it could have been closed
        self.openers = torch.tensor(
            [n for text, n in vocabulary.items() if len(text) > 1 and ("{" in text or "[" in text)],
            dtype=torch.long,
        )
        self._compile = lru_cache(maxsize=256)(self._compiled)

    def start(self, rule: Rule) -> Any:
        """A matcher at its beginning; None where anything may be written. Raises Unruly."""
        if rule.choices is None and rule.schema is None:
            return None
        if rule.choices is not None:
            return self._compile("", tuple(rule.choices)).deep_copy()
        return self._compile(json.dumps(rule.schema), ()).deep_copy()

    def _compiled(self, schema: str, choices: tuple[str, ...]) -> Any:
        from llguidance import LLMatcher

        why = ""
        for loose in (False, True):
            if choices:
                said = " | ".join(json.dumps(choice, ensure_ascii=False) for choice in choices)
                grammar = LLMatcher.grammar_from_lark(f"start: {said}")
            else:
                raw = json.loads(schema)
                grammar = LLMatcher.grammar_from_json_schema(
                    _loosened(raw) if loose else raw, overrides=_STYLE
                )
            matcher = LLMatcher(self._tokenizer, grammar, log_level=0)
            if not matcher.is_error():
                return matcher
            why = matcher.get_error()
            if choices:
                break
        raise Unruly(why)


def _loosened(schema: Any) -> Any:
    if isinstance(schema, Mapping):
        # a property may be called `format`; as a keyword it is a string
        return {
            key: _loosened(inner)
            for key, inner in schema.items()
            if not (key in _LOOSE and isinstance(inner, str))
        }
    return [_loosened(inner) for inner in schema] if isinstance(schema, list) else schema


class RuledLogits(LogitsProcessor):  # type: ignore[misc]
    """Greedy decoding of a batch, each row under its own matcher; notes how sure the model was of each token.

    Attributes:
        log_probabilities: of each row's tokens, under the model's own distribution before any rule.
    """

    def __init__(
        self, matchers: Sequence[Any], grammars: Grammars | None, prompt: int, hurry_after: int
    ) -> None:
        """`prompt`: tokens of the padded prompts; `hurry_after`: tokens after which a ruled answer is brought to its end."""
        self._matchers = list(matchers)
        self._grammars = grammars
        self._prompt = prompt
        self._hurry_after = hurry_after
        self.log_probabilities: list[list[float]] = [[] for _ in matchers]

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        written = int(input_ids.shape[1]) - self._prompt
        allowed: torch.Tensor = scores.float()
        logs = torch.log_softmax(allowed, dim=-1)
        for row, matcher in enumerate(self._matchers):
            if matcher is None:
                continue
            if written and not matcher.is_stopped():
                matcher.consume_token(int(input_ids[row, -1]))
            allowed[row] = self._ruled(matcher, allowed[row], hurry=written >= self._hurry_after)
        best = allowed.argmax(dim=-1)
        for row, token in enumerate(best.tolist()):
            self.log_probabilities[row].append(float(logs[row, token]))
        return allowed  # type: ignore[return-value]

    def _ruled(self, matcher: Any, scores: torch.Tensor, *, hurry: bool) -> torch.Tensor:
        assert self._grammars is not None
        if matcher.is_stopped() or matcher.is_error():
            only = self._grammars.ends[:1]
        else:
            # one byte for each token: 0 where it may not come, 200 where it may
            may = torch.frombuffer(bytearray(matcher.compute_logit_bias()), dtype=torch.uint8)[: len(scores)]
            closing = [*self._grammars.ends, *self._grammars.closers] if hurry else []
            only = [token for token in closing if token < len(may) and may[token]][:1]
            if not only:
                blocked = torch.ones(len(scores), dtype=torch.bool)
                blocked[: len(may)] = may == 0
                if hurry:
                    calm = blocked.clone()
                    calm[self._grammars.openers] = True
                    blocked = blocked if calm.all() else calm
                return scores.masked_fill(blocked.to(scores.device), -torch.inf)
        out = torch.full_like(scores, -torch.inf)
        out[only] = scores[only].clamp(min=torch.finfo(scores.dtype).min / 2)
        return out
