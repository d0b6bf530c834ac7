"""Whether a specialist's answer is wrong where the generalist said something else: the task's loss, as its version was calibrated by.

Owns the reading of a version's slot rules, which say what a text must carry over from its prompt. Without them no loss is
defined for a text, and it is counted neither for nor against its version. A version that a judge model calibrated is judged by that
model, or not at all.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from shoal.agents.contract.loss import NO_LOSS, Judgement, judge
from shoal.agents.curation.recognition import Recognition
from shoal.agents.curation.scrub import RECOGNISERS, scrub
from shoal.agents.learning.folder import CARD, file_sha256
from shoal.agents.learning.judge_loss import judge_pair
from shoal.agents.learning.second_opinions import Adviser
from shoal.agents.learning.slots import SlotRules
from shoal.agents.registry.records import OutputKind
from shoal.agents.traces.chat import Answer, ChatRequest, Usage
from shoal.agents.traces.trace import Trace, TraceId
from shoal.errors import CorruptModel

log = logging.getLogger("shoal.serve")

SLOTS = "slots.json"


def judge_plainly(
    version_key: str,
    kind: OutputKind,
    request: ChatRequest,
    said: str,
    reference: Answer,
    *,
    calls: Sequence[Mapping[str, Any]] = (),
    private: bool = False,
) -> Judgement:
    """The task's loss without slots: undefined for texts."""
    return judge(
        kind,
        request,
        said,
        reference.content or "",
        expected_tool_calls=reference.tool_calls,
        given_tool_calls=calls,
    )


class SlotJudge:
    """The task's loss, with the slot rules in the version's folder; each folder is read once.

    Args:
        folder_of: the folder of a version, by its key; None where it is not on this machine.
        model: the judge model, for versions that it calibrated; None where there is none.
        recognition: the personal data that is replaced in what the judge model reads.
        used: takes a version's key and what each answer of the judge model took.
    """

    def __init__(
        self,
        folder_of: Callable[[str], Path | None],
        model: Adviser | None = None,
        *,
        recognition: Recognition | None = None,
        used: Callable[[str, Sequence[Usage]], None] = lambda version_key, usages: None,
    ) -> None:
        self._folder_of = folder_of
        self._model = model
        self._recognition = recognition or Recognition(kinds=RECOGNISERS)
        self._used = used
        self._rules: dict[str, SlotRules | None] = {}
        self._judged: dict[str, bool] = {}

    def __call__(
        self,
        version_key: str,
        kind: OutputKind,
        request: ChatRequest,
        said: str,
        reference: Answer,
        *,
        calls: Sequence[Mapping[str, Any]] = (),
        private: bool = False,
    ) -> Judgement | Awaitable[Judgement]:
        if not calls and not reference.tool_calls and self._is_judged(version_key):
            if self._model is None or not self._model.may_see(private):
                return Judgement(wrong=False, reasons=(NO_LOSS,), defined=False)
            return self._ask(self._model, version_key, request, said, reference.content or "", private)
        slots = self._rules_of(version_key) if kind is OutputKind.TEXT else None
        expected = reference.content or ""
        return judge(
            kind,
            request,
            said,
            expected,
            expected_tool_calls=reference.tool_calls,
            given_tool_calls=calls,
            slots=slots,
        )

    async def _ask(
        self, model: Adviser, version_key: str, request: ChatRequest, said: str, expected: str, private: bool
    ) -> Judgement:
        async with model.open() as opened:
            return await judge_pair(
                opened,
                request,
                said,
                expected,
                clean=partial(self._clean, "local-only" if private else "internal"),
                used=partial(self._used, version_key),
            )

    def _clean(self, privacy: str, asked: ChatRequest) -> ChatRequest:
        """As a trace is cleaned before it can be read: the judge model is somebody else than the generalist."""
        whole = Trace(id=TraceId(""), request=asked.body, response={}, timestamp=0.0, privacy=privacy)
        return scrub(whole, self._recognition)[0].chat

    def _is_judged(self, version_key: str) -> bool:
        if version_key not in self._judged:
            folder = self._folder_of(version_key)
            try:
                card = {} if folder is None else json.loads((folder / CARD).read_text(encoding="utf-8"))
                self._judged[version_key] = bool(card.get("evidence", {}).get("judged"))
            except (OSError, ValueError, AttributeError) as error:
                log.warning("the card of %s cannot be read: %s", version_key, error)
                self._judged[version_key] = False
        return self._judged[version_key]

    def _rules_of(self, version_key: str) -> SlotRules | None:
        if version_key not in self._rules:
            try:
                self._rules[version_key] = read_slot_rules(self._folder_of(version_key))
            except CorruptModel as error:
                log.warning("texts of %s are not judged: %s", version_key, error)
                self._rules[version_key] = None
        return self._rules[version_key]


def read_slot_rules(folder: Path | None) -> SlotRules | None:
    """The slot rules of a model folder; None where it has none. Raises CorruptModel where they are not what its card says."""
    if folder is None or not (folder / SLOTS).is_file():
        return None
    try:
        card = json.loads((folder / CARD).read_text(encoding="utf-8"))
        if card["files"][SLOTS] != file_sha256(folder / SLOTS):
            raise CorruptModel(f"{folder / SLOTS} was altered (SHA-256 differs from its card).")
        return SlotRules.from_dict(json.loads((folder / SLOTS).read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CorruptModel(f"{folder / SLOTS} cannot be used: {error!r}.", remedy="Learn again.") from None
