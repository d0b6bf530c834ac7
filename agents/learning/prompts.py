"""Which system prompts a task has: one, a few that recur (one for each service, say), or ever new ones.

Where they recur, a prompt that training never saw may ask for something else, so it must be recognised as new. Pure.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from shoal.agents.traces.chat import ChatRequest

#: a prompt counts as known from this many training calls on
MIN_CALLS_PER_PROMPT = 5
_MIN_RECURRING_SHARE = 0.9
_MAX_PROMPTS = 256
_DIGITS = re.compile(r"\d+")

NEVER_SEEN = "its system prompt was never seen in training"


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptSet:
    """The known system prompts.

    Attributes:
        recurring: False where prompts are ever new; then any prompt is taken.
        fold_digits: numbers in prompts (dates, counters) are not told apart.
        keys: digest of each known prompt, most frequent first.
    """

    recurring: bool
    fold_digits: bool = False
    keys: tuple[str, ...] = ()

    @classmethod
    def fit(cls, requests: Sequence[ChatRequest]) -> PromptSet:
        texts = [request.system_text for request in requests]
        for fold in (False, True):
            counts = Counter(_digest(text, fold) for text in texts)
            known = [(k, n) for k, n in counts.items() if n >= min(MIN_CALLS_PER_PROMPT, len(texts))]
            covered = sum(n for _, n in known)
            if covered >= _MIN_RECURRING_SHARE * len(texts) and len(known) <= _MAX_PROMPTS:
                known.sort(key=lambda item: (-item[1], item[0]))
                return cls(recurring=True, fold_digits=fold, keys=tuple(k for k, _ in known))
        return cls(recurring=False)

    def index(self, request: ChatRequest) -> int:
        """The place of the request's prompt among the known ones; -1 for a new one, 0 where prompts do not recur."""
        if not self.recurring:
            return 0
        try:
            return self.keys.index(_digest(request.system_text, self.fold_digits))
        except ValueError:
            return -1

    @property
    def several(self) -> bool:
        return self.recurring and len(self.keys) > 1

    def to_json(self) -> str:
        return json.dumps({"recurring": self.recurring, "fold_digits": self.fold_digits, "keys": self.keys})

    @classmethod
    def from_json(cls, text: str) -> PromptSet:
        data = json.loads(text)
        return cls(
            recurring=bool(data["recurring"]),
            fold_digits=bool(data["fold_digits"]),
            keys=tuple(data["keys"]),
        )


def _digest(text: str, fold_digits: bool) -> str:
    folded = " ".join((_DIGITS.sub("0", text) if fold_digits else text).split())
    return hashlib.blake2b(folded.encode(), digest_size=12).hexdigest()
