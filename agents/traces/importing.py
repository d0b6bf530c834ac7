"""Imports logs: every line becomes a trace or a named reason why not. Owns checking, ids and times; knows nothing of how traces are stored."""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol, get_args

from shoal.agents.ports import TraceStore
from shoal.agents.traces.calls import BadRecord, Call
from shoal.agents.traces.chat import Answer, Json, Privacy, parse_chat_request
from shoal.agents.traces.formats import FORMATS, calls_in, detect
from shoal.agents.traces.lines import Fault, Parsed, read_records
from shoal.agents.traces.trace import Trace, TraceId
from shoal.errors import DataError, InvalidRequest, UsageError

#: reasons that a report spells out; the rest are only counted
MAX_NAMED = 100
_DETECT_RECORDS = 50
_LONGEST_REASON = 200
#: seconds since 1970; a later time is a mistake
_LATEST = 95_617_584_000.0
_PRIVACY_LABELS = get_args(Privacy)


class ImportStore(TraceStore, Protocol):
    """A trace store that can say which ids it holds."""

    def known(self, ids: Collection[str]) -> set[str]: ...


@dataclass(slots=True)
class ImportReport:
    """What an import did.

    Attributes:
        kept: calls that were stored.
        duplicates: of these, how many replaced a call with the same id.
        skipped: the first 100 as (file, line, reason).
        skipped_count: all of them.
        formats: the format of each file, as found or told.
    """

    kept: int = 0
    duplicates: int = 0
    skipped: list[tuple[str, int, str]] = field(default_factory=list)
    skipped_count: int = 0
    formats: dict[str, str] = field(default_factory=dict)

    def skip(self, path: Path, line: int, reason: str) -> None:
        self.skipped_count += 1
        if len(self.skipped) < MAX_NAMED:
            short = reason if len(reason) <= _LONGEST_REASON else reason[: _LONGEST_REASON - 3] + "..."
            self.skipped.append((str(path), line, short))


def import_files(
    paths: Sequence[Path],
    *,
    store: ImportStore,
    format: str = "auto",
    strict: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> ImportReport:
    """Read logs and store their calls.

    Args:
        format: one of `FORMATS`, or `auto` to tell it file by file.
        strict: stop at the first fault, before anything of its file is stored.
        progress: told (bytes read, bytes in all), of the files as they lie on the disk.

    Raises:
        UsageError: an unknown format, a missing file, or a folder.
        DataError: a fault, if `strict`; its message names file, line and reason.
        StorageFull: no room; what was stored before stays.
    """
    if format != "auto" and format not in FORMATS:
        raise UsageError(
            f"--format must be auto or one of {', '.join(FORMATS)}, got {format!r}.",
            remedy="Leave it out for auto.",
        )
    for path in paths:
        if not path.is_file():
            what = "is a folder" if path.is_dir() else "is not there"
            raise UsageError(f"{path} {what}.", remedy="Name the log files themselves.")
    report = ImportReport()
    formats = {path: detect_format(path) if format == "auto" else format for path in paths}
    total = sum(path.stat().st_size for path in paths)
    before = 0
    batches = _BatchPairs()
    for path in paths:
        report.formats[str(path)] = formats[path]
        if strict:
            for _ in _traces(path, formats[path], _Strict(path), _BatchPairs(), None):
                pass
        start = before

        def on_bytes(done: int, start: int = start) -> None:
            if progress is not None:
                progress(start + done, total)

        _store(_traces(path, formats[path], report.skip, batches, on_bytes), store, report)
        before += path.stat().st_size
    on_unmatched = _Strict() if strict else report.skip
    batches.report_unmatched(on_unmatched)
    _store(batches.traces(on_unmatched), store, report)
    if progress is not None:
        progress(total, total)
    return report


def detect_format(path: Path) -> str:
    """The format of a file by its first records; Shoal's own where they tell nothing, so that each is named with its fault."""
    seen = 0
    for item in read_records(path):
        if isinstance(item, Parsed):
            name = detect(item.record)
            if name is not None:
                return name
            seen += 1
            if seen >= _DETECT_RECORDS:
                break
    return "shoal"


_OnFault = Callable[[Path, int, str], None]


class _Strict:
    """Turns the first fault into an error."""

    def __init__(self, path: Path | None = None) -> None:
        self._path = path

    def __call__(self, path: Path, line: int, reason: str) -> None:
        raise DataError(
            f"{path}, line {line}: {reason}.",
            remedy="Mend the line, or leave out --strict to skip it. Nothing of this file was stored.",
        )


class _BatchPairs:
    """Joins the two halves of OpenAI batch calls, which stand in different files."""

    def __init__(self) -> None:
        self._requests: dict[str, tuple[Call, Path, int]] = {}
        self._responses: dict[str, tuple[Call, Path, int]] = {}

    def take(self, call: Call, path: Path, line: int) -> None:
        side = self._requests if call.side == "request" else self._responses
        side[str(call.id)] = (call, path, line)

    def report_unmatched(self, on_fault: _OnFault) -> None:
        for own, other, what in (
            (
                self._requests,
                self._responses,
                "answer: import the batch's output file together with this one",
            ),
            (
                self._responses,
                self._requests,
                "request: import the batch's input file together with this one",
            ),
        ):
            for name, (_, path, line) in own.items():
                if name not in other:
                    on_fault(path, line, f"the batch call {name!r} has no {what}")

    def traces(self, on_fault: _OnFault) -> Iterator[Trace]:
        for name, (call, path, line) in self._requests.items():
            if name not in self._responses:
                continue
            response = self._responses[name][0].response
            # a custom id is unique in its batch only
            identity = response.get("id") if isinstance(response, Mapping) else None
            whole = replace(call, response=response, side="both", id=identity or name)
            try:
                _require_unicode([whole.id, whole.request, whole.response])
                yield _trace(whole, default_time=path.stat().st_mtime, repeats=Counter())
            except BadRecord as error:
                on_fault(path, line, str(error))


def _store(traces: Iterator[Trace], store: ImportStore, report: ImportReport) -> None:
    """Store in batches that fit in memory, and count what was there already."""
    while True:
        batch = [trace for _, trace in zip(range(_BATCH_CALLS), traces, strict=False)]
        if not batch:
            return
        ids = [trace.id for trace in batch]
        known = store.known(ids)
        fresh = len(set(ids) - known)
        store.add(batch)
        report.kept += len(batch)
        report.duplicates += len(batch) - fresh


_BATCH_CALLS = 20_000


def _traces(
    path: Path,
    format_name: str,
    on_fault: _OnFault,
    batches: _BatchPairs,
    on_bytes: Callable[[int], None] | None,
) -> Iterator[Trace]:
    """The traces of one file; what is none goes to `on_fault`, halves of batch calls to `batches`."""
    modified = path.stat().st_mtime
    repeats: Counter[str] = Counter()
    calls = records = 0
    for item in read_records(path, on_bytes=on_bytes):
        if isinstance(item, Fault):
            on_fault(path, item.line, item.reason)
            calls += 1
            continue
        records += 1
        try:
            for call in calls_in(item.record, format_name):
                calls += 1
                if call.side == "both":
                    if item.may_break:
                        _require_unicode([call.id, call.client_id, call.tags, call.request, call.response])
                    yield _trace(call, default_time=modified + item.line * 1e-3, repeats=repeats)
                else:
                    batches.take(call, path, item.line)
        except (ValueError, LookupError, AttributeError, TypeError) as error:
            calls += 1
            on_fault(
                path,
                item.line,
                str(error)
                if isinstance(error, BadRecord)
                else f"its fields are not of the kind that {format_name} has",
            )
    if records and not calls:
        on_fault(path, records, f"no chat call is in the {records} records of this file")


def _trace(call: Call, *, default_time: float, repeats: Counter[str]) -> Trace:
    """Check a call. Raises BadRecord."""
    try:
        request = parse_chat_request(call.request).body
    except InvalidRequest as error:
        raise BadRecord(f"request: {error.message}") from None
    if not isinstance(call.response, Mapping):
        raise BadRecord(f"response: it must be a JSON object, not {type(call.response).__name__}")
    try:
        Answer.from_openai(call.response)
    except (InvalidRequest, TypeError, ValueError, AttributeError) as error:
        raise BadRecord(f"response: {getattr(error, 'message', 'it is no chat completion')}") from None
    if call.privacy is not None and call.privacy not in _PRIVACY_LABELS:
        raise BadRecord(f"privacy must be one of {', '.join(_PRIVACY_LABELS)}, got {call.privacy!r}")
    return Trace(
        id=TraceId(_identity(call, repeats)),
        request=request,
        response=call.response,
        timestamp=_time(call, default_time),
        client_id="" if call.client_id is None else str(call.client_id),
        tags=_tags(call.tags),
        served_by=str(call.served_by) if call.served_by else "",
        latency_ms=_number(call.latency_ms, "latency_ms"),
        first_token_ms=_number(call.first_token_ms, "first_token_ms"),
        cost_usd=_number(call.cost_usd, "cost_usd"),
        privacy=call.privacy or "internal",
    )


def _require_unicode(value: Json) -> None:
    """JSON can spell half a character (`\\ud800`), which no file or network can carry. Raises BadRecord."""
    if isinstance(value, str):
        if not value.isascii():
            try:
                value.encode("utf-8")
            except UnicodeEncodeError:
                raise BadRecord("a text in it has half a character (a lone surrogate)") from None
    elif isinstance(value, Mapping):
        for key, item in value.items():
            _require_unicode(key)
            _require_unicode(item)
    elif isinstance(value, list):
        for item in value:
            _require_unicode(item)


def _identity(call: Call, repeats: Counter[str]) -> str:
    """The call's own id, or one made of its content, so that importing a file again replaces and does not double.

    The same content twice in one file is two calls: the second has another number.
    """
    if isinstance(call.id, (str, int)) and not isinstance(call.id, bool) and str(call.id):
        return str(call.id)
    if call.id is not None and call.id != "":
        raise BadRecord(f"id must be a text or a whole number, got {type(call.id).__name__}")
    content = json.dumps([call.timestamp, call.request, call.response], sort_keys=True, separators=(",", ":"))
    digest = hashlib.sha256(content.encode("ascii")).hexdigest()[:24]
    repeats[digest] += 1
    return f"import-{digest}" if repeats[digest] == 1 else f"import-{digest}-{repeats[digest]}"


def _time(call: Call, default: float) -> float:
    """Seconds since the epoch: the log's time, else the completion's, else the file's."""
    value = call.timestamp
    if value is None or value == "":
        created = call.response.get("created")
        return float(created) if isinstance(created, int) and created > 0 else default
    if isinstance(value, str):
        try:
            moment = datetime.fromisoformat(value)
        except ValueError:
            try:
                value = float(value)
            except ValueError:
                raise BadRecord(
                    f"timestamp must be seconds since 1970 or ISO 8601, got {value[:40]!r}"
                ) from None
        else:
            return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    if (
        isinstance(value, bool)
        or not isinstance(value, (int, float))
        or not math.isfinite(value)
        or value < 0
    ):
        raise BadRecord(f"timestamp must be seconds since 1970 or ISO 8601, got {str(value)[:40]}")
    seconds = float(value)
    for limit, unit in ((1e17, 1e9), (1e14, 1e6), (1e11, 1e3)):  # nano-, micro- and milliseconds
        if seconds >= limit:
            seconds /= unit
            break
    if seconds >= _LATEST:
        raise BadRecord(f"timestamp lies beyond the year 5000, got {str(value)[:40]}")
    return seconds


def _tags(tags: Any) -> Mapping[str, Any]:
    if tags is None:
        return {}
    if isinstance(tags, Mapping):
        return tags
    if isinstance(tags, list) and all(isinstance(tag, str) for tag in tags):
        return {tag: True for tag in tags}
    raise BadRecord(f"tags must be a JSON object, got {type(tags).__name__}")


def _number(value: Any, name: str) -> float | None:
    if value is None or (
        isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    ):
        return None if value is None else float(value)
    raise BadRecord(f"{name} must be a number, got {type(value).__name__}")
