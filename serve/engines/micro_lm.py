"""The engine of text specialists: a small causal language model that writes with slots, and a check of what it wrote.

Owns decoding on the CPU. Every value that the task's answers carry is in the answer by construction, and none is made
up: an answer that breaks a rule is written again, and if it still does, there is none. Knows nothing of training.
"""

from __future__ import annotations

import json
import math
import random
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM

from shoal.agents.learning.delex import relexicalise
from shoal.agents.learning.micro_lm_tokens import EOS, GLUE, PAD, Encoded, Vocabulary
from shoal.agents.learning.slots import Slot, SlotRules
from shoal.agents.ports import SpecialistAnswer
from shoal.agents.traces.chat import ChatRequest
from shoal.errors import CorruptModel

#: rows that are decoded together; a multiple of `TRIES`
BATCH = 36
#: times that one value may stand in an answer
MAX_REPEATS = 3
#: added to the logit of a value that was said already
REPEAT_PENALTY = -3.0
#: further tries for an answer that breaks a rule
TRIES = 4
TEMPERATURE = 0.8
#: answers to prompts without their values that are kept
REMEMBERED = 20_000
#: each thing in the prompt that training never had multiplies the confidence by this
STRANGE_FACTOR = 0.5
#: so does a first draft that broke a rule or did not heed a value
AGAIN_FACTOR = 0.8


@dataclass(frozen=True, slots=True)
class _Job:
    request: ChatRequest
    slots: Sequence[Slot]
    encoded: Encoded


@dataclass(frozen=True, slots=True)
class _Draft:
    text: str
    #: mean log probability of the tokens
    score: float
    errors: tuple[str, ...]
    #: values that should steer the wording and seem not to
    unheeded: int = 0


@dataclass(frozen=True, slots=True)
class _Key:
    """All that what the model writes depends on. `attempt`: which sampled try; None for the greedy draft."""

    ids: tuple[int, ...]
    owed: frozenset[int]
    attempt: int | None


def _key(job: _Job, attempt: int | None) -> _Key:
    owed = frozenset(token for token, slot in job.encoded.tokens.items() if slot.required)
    return _Key(tuple(job.encoded.ids), owed, attempt)


@dataclass(slots=True)
class MicroLmEngine:
    """One loaded text specialist. May be called from several threads; they take turns."""

    model: LlamaForCausalLM
    vocabulary: Vocabulary
    rules: SlotRules
    _turn: threading.Lock = field(default_factory=threading.Lock)
    #: what was written before, as ids and their mean log probability; at most `REMEMBERED`
    _written: dict[_Key, tuple[list[int] | None, float]] = field(default_factory=dict)

    @classmethod
    def load(cls, folder: Path, threads: int | None = None) -> MicroLmEngine:
        """Load a verified folder; `threads` sets torch's threads for the whole process, None leaves them.

        Raises:
            CorruptModel: the files do not fit together.
        """
        if threads is not None:
            torch.set_num_threads(threads)
        try:
            vocabulary = Vocabulary.load(folder)
            rules = SlotRules.from_dict(json.loads((folder / "slots.json").read_text(encoding="utf-8")))
            config = LlamaConfig.from_json_file(folder / "config.json")
            weights = load_file(folder / "model.safetensors")
            if config.vocab_size != vocabulary.size:
                raise ValueError(f"{config.vocab_size} embeddings for a vocabulary of {vocabulary.size}")
            model = LlamaForCausalLM(config)
            weights["lm_head.weight"] = weights["model.embed_tokens.weight"]
            model.load_state_dict(weights)
        except (OSError, ValueError, KeyError, TypeError, IndexError, RuntimeError, SafetensorError) as error:
            raise CorruptModel(
                f"{folder} is not a language model of Shoal's: {error}.",
                remedy="Learn again; the task stays with the generalist meanwhile.",
            ) from error
        return cls(model.eval(), vocabulary, rules)

    def answer(self, requests: Sequence[ChatRequest]) -> list[SpecialistAnswer]:
        """Answers in the order of the requests. The same request gets the same answer."""
        answers: list[SpecialistAnswer | None] = []
        jobs: list[tuple[int, _Job]] = []
        longest = int(self.model.config.max_position_embeddings) - self.vocabulary.longest
        for index, request in enumerate(requests):
            prompt = self.rules.prompt(request)
            slots = self.rules.slots(prompt)
            encoded = self.vocabulary.encode_prompt(prompt, slots)
            answers.append(None)
            if len(encoded.ids) > longest or len(encoded.tokens) < len(slots):
                answers[index] = _none("the prompt is longer than any that training had")
            else:
                jobs.append((index, _Job(request, slots, encoded)))
        with self._turn, torch.inference_mode():
            drafts = self._write([job for _, job in jobs], sampled=False)
            again = [
                job for (_, job), draft in zip(jobs, drafts, strict=True) if draft.errors or draft.unheeded
            ]
            tries = iter(self._write([job for job in again for _ in range(TRIES)], sampled=True))
            for (index, job), draft in zip(jobs, drafts, strict=True):
                more = [next(tries) for _ in range(TRIES)] if draft.errors or draft.unheeded else []
                answers[index] = _judge(job, draft, more)
        return [answer or _none("no answer was written") for answer in answers]

    def _write(self, jobs: Sequence[_Job], *, sampled: bool) -> list[_Draft]:
        """Greedy drafts, or sampled ones that do not end before all required values are there.

        Sampled jobs come in runs of `TRIES`. Prompts that differ in their values only are the same to the model, so what it
        wrote for one is kept and given the next one's values.
        """
        keys = [_key(job, n % TRIES if sampled else None) for n, job in enumerate(jobs)]
        missing = {key: job for key, job in zip(keys, jobs, strict=True) if key not in self._written}
        todo = sorted(missing.items(), key=lambda item: len(item[0].ids))
        fresh: dict[_Key, tuple[list[int] | None, float]] = {}
        for at in range(0, len(todo), BATCH):
            some = todo[at : at + BATCH]
            written = _decode(self.model, self.vocabulary, some, sampled=sampled)
            fresh.update(zip([key for key, _ in some], written, strict=True))
        drafts = []
        for key, job in zip(keys, jobs, strict=True):
            ids, score = fresh[key] if key in fresh else self._written[key]
            drafts.append(self._draft(job, ids, score))
        if len(self._written) + len(fresh) > REMEMBERED:
            self._written.clear()
        self._written.update(fresh)
        return drafts

    def _draft(self, job: _Job, ids: list[int] | None, score: float) -> _Draft:
        if ids is None:
            return _Draft("", score, ("the answer does not end",))
        text = relexicalise(self.vocabulary.decode_answer(ids, job.encoded), job.slots).strip()
        errors = self.rules.errors(job.request, text)
        again = [token for token in job.encoded.tokens if ids.count(token) > MAX_REPEATS]
        errors += [f"{job.encoded.tokens[token].leaf.path} again and again" for token in again]
        unheeded = len(self.rules.unheeded(self.rules.prompt(job.request), text))
        return _Draft(text, score, tuple(errors if text else ["the answer is empty"]), unheeded)


def _judge(job: _Job, draft: _Draft, more: Sequence[_Draft]) -> SpecialistAnswer:
    """The first draft if it keeps the rules, else the best of the further tries."""
    strange = job.encoded.strange
    reason = f"never seen: {', '.join(strange[:3])}" if strange else ""
    factor = AGAIN_FACTOR if more else 1.0
    clean = [d for d in (draft, *more) if not d.errors]
    if not clean:
        return _none("; ".join([*draft.errors, reason] if reason else draft.errors))
    best = min(clean, key=lambda d: (d.unheeded, -d.score))
    confidence = math.exp(best.score) * factor * STRANGE_FACTOR ** len(strange)
    return SpecialistAnswer(content=best.text, confidence=min(1.0, confidence), reason=reason)


def _none(reason: str) -> SpecialistAnswer:
    return SpecialistAnswer(content=None, confidence=0.0, reason=reason)


class _Rows:
    """The state of a batch while it is decoded: what each row may say next, has said, and still owes."""

    def __init__(self, vocabulary: Vocabulary, some: Sequence[tuple[_Key, _Job]], *, sampled: bool) -> None:
        jobs = [job for _, job in some]
        limit = vocabulary.bpe.get_vocab_size()
        special = vocabulary.special
        self.eos = special[EOS]
        common = [special[EOS], special[GLUE], *(n for name, n in special.items() if name.startswith("^"))]
        self.banned = torch.zeros(len(jobs), vocabulary.size)
        self.banned[:, limit:] = -math.inf
        self.banned[:, common] = 0.0
        for row, job in enumerate(jobs):
            self.banned[row, list(job.encoded.tokens)] = 0.0
        self.owed = [set(key.owed) for key, _ in some]
        self.values = [frozenset(job.encoded.tokens) for job in jobs]
        self.said: list[list[int]] = [[] for _ in jobs]
        self.scores = [0.0] * len(jobs)
        self.done = [False] * len(jobs)
        #: one source of chance for each row, so that a row's answer does not depend on its batch
        self.chance = [random.Random(f"{key.attempt}/{key.ids}") for key, _ in some] if sampled else []

    def choose(self, logits: torch.Tensor, rows: Sequence[int]) -> torch.Tensor:
        """The next token of each of `rows`; shape (rows,). Logits have shape (rows, vocabulary)."""
        allowed = logits + self.banned[list(rows)]
        if self.chance:
            for n, row in enumerate(rows):
                if self.owed[row]:
                    allowed[n, self.eos] = -math.inf
        logs = torch.log_softmax(allowed, dim=-1)
        if self.chance:
            drawn = torch.tensor([[self.chance[row].random()] for row in rows])
            reached = torch.softmax(allowed / TEMPERATURE, dim=-1).cumsum(dim=-1)
            tokens = torch.searchsorted(reached, drawn * reached[:, -1:], right=True).squeeze(1)
        else:
            tokens = logs.argmax(dim=-1)
        for n, row in enumerate(rows):
            token = int(tokens[n])
            self.scores[row] += float(logs[n, token])
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


def _decode(
    model: LlamaForCausalLM, vocabulary: Vocabulary, some: Sequence[tuple[_Key, _Job]], *, sampled: bool
) -> list[tuple[list[int] | None, float]]:
    """Ids without `<eos>` and their mean log probability for each job; None where the answer does not end."""
    jobs = [job for _, job in some]
    width = max(len(job.encoded.ids) for job in jobs)
    ids = torch.full((len(jobs), width), vocabulary.special[PAD])
    mask = torch.zeros((len(jobs), width), dtype=torch.long)
    for row, job in enumerate(jobs):
        ids[row, width - len(job.encoded.ids) :] = torch.tensor(job.encoded.ids)
        mask[row, width - len(job.encoded.ids) :] = 1
    rows = _Rows(vocabulary, some, sampled=sampled)
    active = list(range(len(jobs)))
    cache = DynamicCache(config=model.config)
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    for _ in range(int(1.25 * vocabulary.longest) + 8):
        out = model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        tokens = rows.choose(out.logits[:, -1], active)
        going = [n for n, row in enumerate(active) if not rows.done[row]]
        if not going:
            break
        ids, positions = tokens.unsqueeze(1), positions[:, -1:] + 1
        if len(going) < len(active):
            kept = torch.tensor(going)
            cache.batch_select_indices(kept)
            ids, positions, mask = ids[kept], positions[kept], mask[kept]
            active = [active[n] for n in going]
        mask = torch.cat([mask, mask.new_ones(len(active), 1)], dim=1)
    return [
        (said[:-1] if done else None, score / max(1, len(said)))
        for said, done, score in zip(rows.said, rows.done, rows.scores, strict=True)
    ]
