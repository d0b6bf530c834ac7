"""The engine of adapted pretrained bases: greedy decoding in batches, under the rule that each request sets.

Versions with low-rank weights of their own share one base in memory, by the base's SHA-256. Owns that sharing, decoding and the
confidence; knows nothing of training.
"""

from __future__ import annotations

import gc
import itertools
import json
import math
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import GenerationConfig, LogitsProcessorList

from shoal.agents.learning.answer_forms import AnswerForm
from shoal.agents.learning.base_files import load_model, load_tokenizer
from shoal.agents.learning.bases import FAMILIES, SERVED_ROWS
from shoal.agents.learning.lora import FACTS, attach, find_base
from shoal.agents.learning.lora_prompts import Prompter
from shoal.agents.learning.slots import SlotRules
from shoal.agents.ports import SpecialistAnswer
from shoal.agents.traces.chat import ChatRequest
from shoal.errors import CorruptModel, DataError
from shoal.serve.engines.ruled_decoding import Grammars, RuledLogits, Unruly

#: tokens that an answer may have beyond the most that it should, while it is brought to its end
_CLOSING = 256


class SharedBase:
    """One base in memory with the low-rank weights of any number of versions. Versions take turns."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._turn = threading.Lock()
        #: adapters whose version is gone. Only noted where that is found out: it may be in the middle of another's turn
        self._gone: deque[str] = deque()

    @property
    def adapters(self) -> tuple[str, ...]:
        return tuple(name for name in getattr(self._model, "peft_config", ()) if name not in self._gone)

    def add(self, folder: Path, name: str) -> None:
        """Put a version's low-rank weights beside those that are there."""
        with self._turn:
            self._model = attach(self._model, folder, name)
            self._model.set_adapter(name)
            self._tidy()

    def leave(self, name: str) -> None:
        """The version is gone; its weights go with the next turn."""
        self._gone.append(name)

    @contextmanager
    def turn(self, name: str) -> Iterator[Any]:
        """The model, with the version's weights in use; with its own where `name` is empty."""
        with self._turn:
            if name:
                self._model.set_adapter(name)
            self._tidy()
            yield self._model

    def _tidy(self) -> None:
        while self._gone:
            self._model.delete_adapter(self._gone.popleft())


class BaseCache:
    """Bases that some loaded version needs, by SHA-256 and precision; one that none needs any more is let go."""

    def __init__(self) -> None:
        self._bases: weakref.WeakValueDictionary[tuple[str, str], SharedBase] = weakref.WeakValueDictionary()
        self._loading = threading.Lock()
        self._names = itertools.count()

    def get(self, sha256: str, dtype: str, load: Callable[[], Any]) -> SharedBase:
        with self._loading:
            shared = self._bases.get((sha256, dtype))
            if shared is None:
                shared = SharedBase(load())
                self._bases[(sha256, dtype)] = shared
            return shared

    def name(self) -> str:
        """A name that no other adapter of this process has."""
        return f"version{next(self._names)}"

    def __len__(self) -> int:
        gc.collect()
        return len(self._bases)


#: of this process: sharing is the point
BASES = BaseCache()


@dataclass(slots=True)
class _Row:
    """One request on its way: where it stands among the asked, its tokens, its matcher (None where anything may be written)."""

    place: int
    request: ChatRequest
    ids: list[int]
    matcher: Any = None


@dataclass(slots=True, weakref_slot=True)
class LoraEngine:
    """One loaded version. May be called from several threads; they take turns. The same request gets the same answer up to rounding.

    Attributes:
        adapter: the name of its low-rank weights on the shared base; empty where weights are merged.
        rules: the checker of texts.
    """

    shared: SharedBase
    adapter: str
    prompter: Prompter
    form: AnswerForm
    max_new: int
    context: int
    rules: SlotRules | None = None
    _grammars: Grammars | None = field(default=None)

    @property
    def on_gpu(self) -> bool:
        """Whether its time is a GPU's; see `serve/metering.py`."""
        return torch.cuda.is_available()

    @classmethod
    def load(cls, folder: Path, bases: BaseCache = BASES) -> LoraEngine:
        """Load a verified folder.

        Raises:
            CorruptModel: the files do not fit together, or the base that they are for is not the one that is here.
        """
        remedy = "Learn again; the task stays with the generalist meanwhile."
        try:
            facts = json.loads((folder / FACTS).read_text(encoding="utf-8"))
            base, dtype = facts["base"], getattr(torch, facts["dtype"])
            form = AnswerForm.from_dict(facts["form"])
            if base["architecture"] not in FAMILIES:
                raise ValueError(f"no family has the architecture {base['architecture']}")
            slots = folder / "slots.json"
            rules = (
                SlotRules.from_dict(json.loads(slots.read_text(encoding="utf-8")))
                if slots.is_file()
                else None
            )
            prompter = Prompter.of(load_tokenizer(folder))
            name = ""
            if base["merged"]:
                shared = SharedBase(load_model(folder, base["architecture"], dtype))
            else:
                place = find_base(facts)
                shared = bases.get(
                    base["sha256"], facts["dtype"], lambda: load_model(place, base["architecture"], dtype)
                )
                name = bases.name()
                shared.add(folder, name)
        except CorruptModel:
            raise
        except DataError as error:
            raise CorruptModel(error.message, remedy=error.remedy or remedy) from error
        except (
            OSError,
            ValueError,
            KeyError,
            TypeError,
            RuntimeError,
            AttributeError,
            SafetensorError,
        ) as error:
            raise CorruptModel(f"{folder} is no adapted base: {error!r}.", remedy=remedy) from error
        engine = cls(shared, name, prompter, form, int(facts["max_new_tokens"]), int(facts["context"]), rules)
        if name:
            weakref.finalize(engine, shared.leave, name)
        return engine

    def answer(self, requests: Sequence[ChatRequest]) -> list[SpecialistAnswer]:
        """Answers in the order of the requests."""
        answers: list[SpecialistAnswer | None] = [None] * len(requests)
        rows: list[_Row] = []
        with self.shared.turn(self.adapter) as model:
            for place, request in enumerate(requests):
                row = _Row(place, request, self.prompter.prompt(request))
                if len(row.ids) + self.max_new > self.context:
                    answers[place] = _none("the prompt is longer than the base can read")
                    continue
                try:
                    row.matcher = self._start(request, int(model.config.vocab_size))
                except Unruly as error:
                    answers[place] = _none(f"no answer can be written under the schema asked for: {error}")
                    continue
                rows.append(row)
            # of like length together: less padding
            rows.sort(key=lambda row: (len(row.ids), row.place))
            for at in range(0, len(rows), SERVED_ROWS):
                some = rows[at : at + SERVED_ROWS]
                for row, said in zip(some, self._write(model, some), strict=True):
                    answers[row.place] = said
        return [answer or _none("no answer was written") for answer in answers]

    def _start(self, request: ChatRequest, rows: int) -> Any:
        rule = self.form.rule(request)
        if rule.choices is None and rule.schema is None:
            return None
        if self._grammars is None:
            self._grammars = Grammars(self.prompter.tokenizer, rows, self.prompter.ends)
        return self._grammars.start(rule)

    def _write(self, model: Any, rows: Sequence[_Row]) -> list[SpecialistAnswer]:
        width = max(len(row.ids) for row in rows)
        ids = torch.full((len(rows), width), self.prompter.pad)
        mask = torch.zeros((len(rows), width), dtype=torch.long)
        for n, row in enumerate(rows):
            ids[n, width - len(row.ids) :] = torch.tensor(row.ids)
            mask[n, width - len(row.ids) :] = 1
        ruled = RuledLogits([row.matcher for row in rows], self._grammars, width, self.max_new)
        closing = _CLOSING if any(row.matcher is not None for row in rows) else 0
        most = min(self.max_new + closing, self.context - width)
        config = GenerationConfig(
            max_new_tokens=most,
            do_sample=False,
            num_beams=1,
            eos_token_id=self.prompter.ends,
            pad_token_id=self.prompter.pad,
            use_cache=True,
        )
        with torch.inference_mode():
            out = model.generate(
                input_ids=ids.to(model.device),
                attention_mask=mask.to(model.device),
                generation_config=config,
                logits_processor=LogitsProcessorList([ruled]),
            )[:, width:].tolist()
        return [
            self._read(row, said, logs)
            for row, said, logs in zip(rows, out, ruled.log_probabilities, strict=True)
        ]

    def _read(self, row: _Row, ids: list[int], logs: list[float]) -> SpecialistAnswer:
        end = next((n for n, token in enumerate(ids) if token in self.prompter.ends), None)
        if end is None:
            return _none("the answer does not end")
        written = self.form.read(self.prompter.text(ids[:end]), row.request)
        if written.reason:
            return _none(written.reason)
        text = written.content
        errors = [] if self.rules is None or text is None else self.rules.errors(row.request, text)
        if errors:
            return _none("; ".join(errors[:3]))
        return SpecialistAnswer(
            content=written.content, confidence=confidence(logs[: end + 1]), tool_calls=written.tool_calls
        )


def confidence(logs: Sequence[float]) -> float:
    """In [0, 1], from the log probabilities of an answer's tokens: the geometric mean of the mean token's probability and the least
    likely one's, because one doubtful token makes an answer wrong. The contract finds what it is worth."""
    if not logs:
        return 0.0
    return min(1.0, math.exp((sum(logs) / len(logs) + min(logs)) / 2))


def _none(reason: str) -> SpecialistAnswer:
    return SpecialistAnswer(content=None, confidence=0.0, reason=reason)
