"""The engine of text specialists: a small causal language model that writes with slots, and a check of what it wrote.

Owns which of several drafts is the answer. Every value that the task's answers carry is in the answer by construction, and
none is made up: a draft that breaks a rule is no answer, and where all do, there is none. Of the others that one is taken which
the drafts agree on most (`consensus.py`). Knows nothing of training.
"""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM

from shoal.agents.learning.consensus import agreements
from shoal.agents.learning.delex import relexicalise
from shoal.agents.learning.micro_lm_tokens import Encoded, Vocabulary
from shoal.agents.learning.slots import Prompt, Slot, SlotRules
from shoal.agents.ports import SpecialistAnswer
from shoal.agents.traces.chat import ChatRequest
from shoal.errors import CorruptModel
from shoal.serve.engines.micro_lm_decode import GREEDY, Work, Written, decode

#: drafts that are written together, at most
BATCH = 96
#: times that one value may stand in an answer
MAX_REPEATS = 3
#: sampled drafts beside the likeliest one, from which the answer is chosen
DRAFTS = 16
#: with fewer faultless drafts than this, `MORE_DRAFTS` more are sampled
ENOUGH = 4
MORE_DRAFTS = 32
#: a clean likeliest draft whose tokens have this probability in the mean is the answer, without others
SURE = 0.93
#: weight of a draft's mean log probability beside its agreement with the others
LIKELIHOOD = 0.1
#: answers to prompts without their values that are kept
REMEMBERED = 20_000
#: each thing in the prompt that training never had multiplies the confidence by this
STRANGE_FACTOR = 0.5
#: so does a likeliest draft that broke a rule or did not heed a value
AGAIN_FACTOR = 0.8


@dataclass(frozen=True, slots=True)
class _Job:
    request: ChatRequest
    prompt: Prompt
    slots: Sequence[Slot]
    encoded: Encoded

    def work(self, attempts: Sequence[int]) -> Work:
        owed = frozenset(token for token, slot in self.encoded.tokens.items() if slot.required)
        return Work(tuple(self.encoded.ids), frozenset(self.encoded.tokens), owed, tuple(attempts))


@dataclass(frozen=True, slots=True)
class _Draft:
    text: str
    #: mean log probability of the tokens
    score: float
    errors: tuple[str, ...]
    #: values that should steer the wording and seem not to
    unheeded: int = 0

    @property
    def faultless(self) -> bool:
        return not self.errors and not self.unheeded

    @property
    def sure(self) -> bool:
        return self.faultless and math.exp(self.score) >= SURE


@dataclass(slots=True)
class MicroLmEngine:
    """One loaded text specialist. May be called from several threads; they take turns."""

    model: LlamaForCausalLM
    vocabulary: Vocabulary
    rules: SlotRules
    _turn: threading.Lock = field(default_factory=threading.Lock)
    #: share of the last jobs whose likeliest draft was not sure
    _unsure: float = 1.0
    #: drafts of prompts that were seen before, for at most `REMEMBERED` prompts
    _written: dict[Work, list[Written]] = field(default_factory=dict)

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
                jobs.append((index, _Job(request, prompt, slots, encoded)))
        with self._turn, torch.inference_mode():
            drafts = self._drafts([job for _, job in jobs])
        for (index, job), (first, more) in zip(jobs, drafts, strict=True):
            answers[index] = _judge(job, first, more)
        return [answer or _none("no answer was written") for answer in answers]

    def _drafts(self, jobs: Sequence[_Job]) -> list[tuple[_Draft, Sequence[_Draft]]]:
        """For each job its likeliest draft, and others unless that one is sure.

        Where most jobs so far needed others, all are written in one go; what is written is the same.
        """
        attempts = (GREEDY, *range(DRAFTS))
        if self._unsure > 0.5:
            out: list[tuple[_Draft, Sequence[_Draft]]] = [
                (d[0], () if d[0].sure else d[1:]) for d in self._write(jobs, attempts)
            ]
        else:
            first = [drafts[0] for drafts in self._write(jobs, (GREEDY,))]
            more = iter(self._write([j for j, d in zip(jobs, first, strict=True) if not d.sure], attempts))
            out = [(draft, () if draft.sure else next(more)[1:]) for draft in first]
        short = [
            n
            for n, (draft, more) in enumerate(out)
            if not draft.sure and sum(d.faultless for d in (draft, *more)) < ENOUGH
        ]
        further = self._write([jobs[n] for n in short], tuple(range(DRAFTS, DRAFTS + MORE_DRAFTS)))
        for n, drafts in zip(short, further, strict=True):
            out[n] = (out[n][0], [*out[n][1], *drafts])
        for draft, _ in out:
            self._unsure += 0.05 * ((not draft.sure) - self._unsure)
        return out

    def _write(self, jobs: Sequence[_Job], attempts: Sequence[int]) -> list[list[_Draft]]:
        """For each job a draft for each attempt.

        Prompts that differ in their values only are the same to the model, so what it wrote for one is kept and given the next
        one's values.
        """
        works = [job.work(attempts) for job in jobs]
        todo = sorted({w for w in works if w not in self._written}, key=lambda w: (len(w.ids), w.ids))
        fresh: dict[Work, list[Written]] = {}
        together = max(1, BATCH // max(1, len(attempts)))
        for at in range(0, len(todo), together):
            some = todo[at : at + together]
            fresh.update(zip(some, decode(self.model, self.vocabulary, some), strict=True))
        known = [fresh[work] if work in fresh else self._written[work] for work in works]
        if len(self._written) + len(fresh) > REMEMBERED:
            self._written.clear()
        self._written.update(fresh)
        return [[self._draft(job, w) for w in some] for job, some in zip(jobs, known, strict=True)]

    def _draft(self, job: _Job, written: Written) -> _Draft:
        ids, score = written.ids, written.score
        if ids is None:
            return _Draft("", score, ("the answer does not end",))
        text = relexicalise(self.vocabulary.decode_answer(ids, job.encoded), job.slots).strip()
        errors = self.rules.errors(job.request, text)
        again = [token for token in job.encoded.tokens if ids.count(token) > MAX_REPEATS]
        errors += [f"{job.encoded.tokens[token].leaf.path} again and again" for token in again]
        unheeded = len(self.rules.unheeded(job.prompt, text))
        return _Draft(text, score, tuple(errors if text else ["the answer is empty"]), unheeded)


def _judge(job: _Job, draft: _Draft, more: Sequence[_Draft]) -> SpecialistAnswer:
    """Of the drafts that keep the rules, and heed most values, the one that the others agree with most."""
    strange = job.encoded.strange
    reason = f"never seen: {', '.join(strange[:3])}" if strange else ""
    clean = [d for d in (draft, *more) if not d.errors]
    if not clean:
        return _none("; ".join([*draft.errors, reason] if reason else draft.errors))
    fewest = min(d.unheeded for d in clean)
    heeding = [d for d in clean if d.unheeded == fewest]
    texts = [d.text for d in heeding]
    agreed = agreements(texts, texts)
    best = max(range(len(heeding)), key=lambda n: agreed[n] + LIKELIHOOD * heeding[n].score)
    factor = 1.0 if draft.faultless else AGAIN_FACTOR
    sure = draft if draft.faultless else heeding[best]
    confidence = math.exp(sure.score) * factor * STRANGE_FACTOR ** len(strange)
    if job.encoded.foreign:
        confidence = 0.0
    return SpecialistAnswer(content=texts[best], confidence=min(1.0, confidence), reason=reason)


def _none(reason: str) -> SpecialistAnswer:
    return SpecialistAnswer(content=None, confidence=0.0, reason=reason)
