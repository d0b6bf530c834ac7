"""Replaces personal data in a trace by typed pseudonyms. Owns which parts of a trace are looked at; knows nothing of files.

Within a trace, one thing has one pseudonym (`<EMAIL_1>`), so that a copy in the answer is still a copy. Across traces it has
none: pseudonyms must not join what a person did at different times.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from pydantic_core import PydanticSerializationError, to_json

from shoal.agents.curation.recognise import Finding, may_hold_personal_data
from shoal.agents.curation.recognition import Recognition
from shoal.agents.traces.trace import Trace

RECOGNISERS = ("email", "phone", "card", "iban", "ip", "ssn")

_PSEUDONYM = re.compile(r"<(EMAIL|PHONE|CARD|IBAN|IP|SSN|PERSON|PLACE|ORGANISATION)_(\d{1,6})>")
#: parts of a request or a response that are written by programs, not by people
_SKIPPED = frozenset(
    {
        "model",
        "tools",
        "functions",
        "response_format",
        "tool_choice",
        "id",
        "tool_call_id",
        "role",
        "type",
        "object",
        "finish_reason",
        "system_fingerprint",
        "usage",
        "logprobs",
    }
)
_SMALLEST_CARD = 10**12


def scrub(
    trace: Trace, recognisers: Sequence[str] | Recognition = RECOGNISERS
) -> tuple[Trace, dict[str, int]]:
    """The trace without personal data of the given kinds, and how many pieces were replaced, by kind.

    Looks at all text of the request (but for tool schemas), of the response and of the tags. The trace itself is returned where
    there is nothing to replace; what is given is never changed.
    """
    recognition = recognisers if isinstance(recognisers, Recognition) else Recognition(kinds=recognisers)
    if not recognition.kinds_for(trace.privacy):
        return trace, {}
    if not recognition.names_model and not _may_hold(trace):
        return trace, {}
    pass_ = _Pass(trace, recognition)
    request = pass_.clean_request(trace.request)
    response = pass_.clean(trace.response)
    tags = pass_.clean(trace.tags)
    if not pass_.counts:
        return trace, {}
    return replace(trace, request=request, response=response, tags=tags), pass_.counts


def _may_hold(trace: Trace) -> bool:
    """Looks at the call's JSON at once, which costs a tenth of a walk through it; what is found may stand outside any text."""
    said = {name: value for name, value in trace.response.items() if name not in ("id", "created", "usage")}
    try:
        text = to_json([trace.request, said, trace.tags], inf_nan_mode="constants", fallback=dict)
        return may_hold_personal_data(text.decode("utf-8"))
    except (PydanticSerializationError, UnicodeError):
        return True


class _Pass:
    """One walk over one trace, with the pseudonyms given so far."""

    def __init__(self, trace: Trace, recognition: Recognition) -> None:
        self.counts: dict[str, int] = {}
        self._trace = trace
        self._recognition = recognition
        self._given: dict[tuple[str, str], str] = {}
        #: the highest number used so far, by kind; filled when the first piece is found
        self._highest: dict[str, int] | None = None

    def clean_request(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        """As `clean`; a conversation's id that holds personal data is replaced by its digest, since turns are joined by it."""
        cleaned: Mapping[str, Any] = self.clean(
            {name: v for name, v in request.items() if name != "metadata"}
        )
        metadata = request.get("metadata")
        if not isinstance(metadata, Mapping):
            return cleaned if metadata is None else {**cleaned, "metadata": metadata}
        kept = dict(self.clean({name: v for name, v in metadata.items() if name != "conversation_id"}))
        if "conversation_id" in metadata:
            conversation = metadata["conversation_id"]
            if isinstance(conversation, str) and self._find(conversation):
                conversation = (
                    "conversation-" + hashlib.sha256(conversation.encode("utf-8", "replace")).hexdigest()[:16]
                )
                self.counts["conversation_id"] = 1
            kept["conversation_id"] = conversation
        return {name: kept if name == "metadata" else cleaned[name] for name in request}

    def clean(self, value: Any) -> Any:
        """The same value where nothing is found in it."""
        kind = type(value)
        if kind is str:
            return self._clean_text(value)
        if value is None or kind is bool or kind is float:
            return value
        if isinstance(value, (dict, Mapping)):  # `dict` first: the check of an abstract class is slow
            changed = {}
            for name, part in value.items():
                if name not in _SKIPPED:
                    clean_part = self.clean(part)
                    if clean_part is not part:
                        changed[name] = clean_part
            return {**value, **changed} if changed else value
        if isinstance(value, list):
            parts: list[Any] = []
            is_changed = False
            for part in value:  # no function between: what nests deeply must not nest the stack twice as deep
                clean_part = self.clean(part)
                parts.append(clean_part)
                is_changed = is_changed or clean_part is not part
            return parts if is_changed else value
        if type(value) is int and value >= _SMALLEST_CARD:
            text = self._clean_text(str(value))
            return value if text == str(value) else text
        return value

    def _find(self, text: str) -> list[Finding]:
        return self._recognition.find(text, self._trace.privacy)

    def _clean_text(self, text: str) -> str:
        findings = self._find(text)
        if not findings:
            return text
        pieces: list[str] = []
        end = 0
        for finding in findings:
            self.counts[finding.kind] = self.counts.get(finding.kind, 0) + 1
            pseudonym = self._pseudonym(finding.kind, finding.identity)
            if _is_json_number(text, finding.start, finding.end):
                pseudonym = f'"{pseudonym}"'  # what was JSON stays JSON
            pieces += (text[end : finding.start], pseudonym)
            end = finding.end
        return "".join((*pieces, text[end:]))

    def _pseudonym(self, kind: str, identity: str) -> str:
        if self._highest is None:
            self._highest = _numbers_in_use(self._trace)
        if (kind, identity) not in self._given:
            self._highest[kind] = self._highest.get(kind, 0) + 1
            self._given[kind, identity] = f"<{kind.upper()}_{self._highest[kind]}>"
        return self._given[kind, identity]


def _numbers_in_use(trace: Trace) -> dict[str, int]:
    """The highest number of each kind of pseudonym that the trace came with: those belong to somebody else."""
    highest: dict[str, int] = {}
    waiting: list[Any] = [trace.request, trace.response, trace.tags]
    while waiting:
        part = waiting.pop()
        if isinstance(part, str):
            for kind, number in _PSEUDONYM.findall(part):
                highest[kind.lower()] = max(int(number), highest.get(kind.lower(), 0))
        elif isinstance(part, (dict, Mapping)):
            waiting.extend(part.values())
        elif isinstance(part, list):
            waiting.extend(part)
    return highest


def _is_json_number(text: str, start: int, end: int) -> bool:
    """Whether `text[start:end]` stands bare where JSON has a value: after a colon, comma or bracket and before another."""
    if text.lstrip()[:1] not in ("{", "["):
        return False
    before, after = text[:start].rstrip()[-1:], text[end:].lstrip()[:1]
    return before in (":", ",", "[") and after in (",", "}", "]") and text[start:end].isdigit()
