"""Decoding of a small language model on the CPU: many drafts of many prompts in one batch.

Owns which tokens a draft may have next, and the batch while it is decoded: a prompt is read once, however many drafts it gets.
Knows nothing of values, rules or which draft is the answer.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import DynamicCache, LlamaForCausalLM

from shoal.agents.learning.micro_lm_tokens import EOS, GLUE, PAD, Vocabulary

#: added to the logit of a value that was said already
REPEAT_PENALTY = -3.0
TEMPERATURE = 0.5
#: the likeliest draft, always the same
GREEDY = -1


@dataclass(frozen=True, slots=True)
class Work:
    """A prompt to write drafts for. Drafts of equal prompts and attempts are equal.

    Attributes:
        ids: the prompt.
        values: ids that stand for its values.
        owed: values without which a sampled draft does not end.
        attempts: `GREEDY`, or the number of a sampled draft.
    """

    ids: tuple[int, ...]
    values: frozenset[int]
    owed: frozenset[int]
    attempts: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Written:
    """A draft: ids without `<eos>`, None where it does not end, and the mean log probability of its tokens."""

    ids: tuple[int, ...] | None
    score: float


class _Rows:
    """The state of a batch: what each draft may say next, has said, and still owes."""

    def __init__(self, vocabulary: Vocabulary, some: Sequence[tuple[Work, int]]) -> None:
        limit = vocabulary.bpe.get_vocab_size()
        special = vocabulary.special
        self.eos = special[EOS]
        common = [special[EOS], special[GLUE], *(n for name, n in special.items() if name.startswith("^"))]
        self.banned = torch.zeros(len(some), vocabulary.size)
        self.banned[:, limit:] = -math.inf
        self.banned[:, common] = 0.0
        for row, (work, _) in enumerate(some):
            self.banned[row, list(work.values)] = 0.0
        self.owed = [set(work.owed) for work, _ in some]
        self.values = [work.values for work, _ in some]
        self.said: list[list[int]] = [[] for _ in some]
        self.scores = [0.0] * len(some)
        self.done = [False] * len(some)
        #: one source of chance for each sampled draft, so that it does not depend on its batch
        self.chance = [
            None if attempt == GREEDY else random.Random(f"{attempt}/{work.ids}") for work, attempt in some
        ]

    def choose(self, logits: torch.Tensor, rows: Sequence[int]) -> torch.Tensor:
        """The next token of each of `rows`; shape (rows,). Logits have shape (rows, vocabulary)."""
        allowed = logits.float() + self.banned[list(rows)]
        sampled = [n for n, row in enumerate(rows) if self.chance[row] is not None]
        for n in sampled:
            if self.owed[rows[n]]:
                allowed[n, self.eos] = -math.inf
        logs = torch.log_softmax(allowed, dim=-1)
        tokens = logs.argmax(dim=-1)
        if sampled:
            drawn = torch.tensor([[chance.random()] for n in sampled if (chance := self.chance[rows[n]])])
            reached = torch.softmax(allowed[sampled] / TEMPERATURE, dim=-1).cumsum(dim=-1)
            tokens[sampled] = torch.searchsorted(reached, drawn * reached[:, -1:], right=True).squeeze(1)
        chosen = logs.gather(1, tokens.unsqueeze(1)).squeeze(1).tolist()
        for n, (row, token) in enumerate(zip(rows, tokens.tolist(), strict=True)):
            self.scores[row] += chosen[n]
            self.said[row].append(token)
            self.owed[row].discard(token)
            if token in self.values[row]:
                self._discourage(row, token)
            self.done[row] = token == self.eos
        return tokens

    def _discourage(self, row: int, token: int) -> None:
        """A value that was said does not come again before all that must be said, and hardly after that."""
        owed = bool(self.owed[row])
        again = [token] if owed else [t for t in set(self.said[row]) if t in self.values[row]]
        self.banned[row, again] = -math.inf if owed else REPEAT_PENALTY


def decode(model: LlamaForCausalLM, vocabulary: Vocabulary, some: Sequence[Work]) -> list[list[Written]]:
    """The drafts of each prompt, in the order of its attempts."""
    width = max(len(work.ids) for work in some)
    ids = torch.full((len(some), width), vocabulary.special[PAD])
    mask = torch.zeros((len(some), width), dtype=torch.long)
    for row, work in enumerate(some):
        ids[row, width - len(work.ids) :] = torch.tensor(work.ids)
        mask[row, width - len(work.ids) :] = 1
    cache = DynamicCache(config=model.config)
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    out = model(
        input_ids=ids,
        attention_mask=mask,
        position_ids=positions,
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
    )
    drafts = [(n, attempt) for n, work in enumerate(some) for attempt in work.attempts]
    of = torch.tensor([n for n, _ in drafts])
    logits, positions, mask = out.logits[of, -1], positions[of, -1:], mask[of]
    cache.batch_select_indices(of)
    rows = _Rows(vocabulary, [(some[n], attempt) for n, attempt in drafts])
    active = list(range(len(drafts)))
    for _ in range(int(1.25 * vocabulary.longest) + 8):
        tokens = rows.choose(logits, active)
        going = [n for n, row in enumerate(active) if not rows.done[row]]
        if not going:
            break
        ids, positions = tokens.unsqueeze(1), positions + 1
        if len(going) < len(active):
            kept = torch.tensor(going)
            cache.batch_select_indices(kept)
            ids, positions, mask = ids[kept], positions[kept], mask[kept]
            active = [active[n] for n in going]
        mask = torch.cat([mask, mask.new_ones(len(active), 1)], dim=1)
        out = model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        logits = out.logits[:, -1]
    written = [
        Written(tuple(said[:-1]) if done else None, score / max(1, len(said)))
        for said, done, score in zip(rows.said, rows.done, rows.scores, strict=True)
    ]
    ends = iter(written)
    return [[next(ends) for _ in work.attempts] for work in some]
