"""`shoal traces`: import, list, export and delete calls. Calls that wait in the spool are made readable first."""

from __future__ import annotations

import gzip
import json
import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Annotated, Any, cast

import typer
from rich.markup import escape
from rich.table import Table

from shoal.agents.feedback.erasure import after_erasure
from shoal.agents.traces.chat import text_of
from shoal.agents.traces.formats import FORMATS
from shoal.agents.traces.importing import ImportReport, import_files
from shoal.agents.traces.store import ParquetTraceStore
from shoal.agents.traces.trace import Trace, TraceId
from shoal.commands._shared import (
    ConfigOption,
    HomeOption,
    JsonOption,
    err,
    existing_home,
    moment,
    open_home,
    out,
    print_json,
    progress_bar,
    read_config,
)
from shoal.commands._stores import open_registry, open_traces, trained_on_erased
from shoal.errors import NotFound, UsageError

app = typer.Typer(help="Import, list, export and delete calls.", no_args_is_help=True)

_SHOWN_FAULTS = 20


@app.command("import")
def import_(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Logs, plain or gzipped.")],
    format_: Annotated[
        str, typer.Option("--format", metavar="NAME", help=f"auto, or one of {', '.join(FORMATS)}.")
    ] = "auto",
    strict: Annotated[
        bool, typer.Option("--strict", help="Stop at the first broken line; nothing of its file is stored.")
    ] = False,
    home: HomeOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Read logs. A broken line is named and skipped, the rest is kept."""
    place = open_home(home)
    store = open_traces(place, read_config(place, config))
    with progress_bar() as progress:
        task = progress.add_task("importing, kB", total=None)

        def tell(done: int, total: int) -> None:
            progress.update(task, completed=done >> 10, total=max(1, total >> 10))

        report = import_files(files, store=store, format=format_, strict=strict, progress=tell)
    if as_json:
        print_json(_report_as_dict(report, store))
    else:
        _print_report(report, store)
    if report.skipped_count and not report.kept:
        err.print("[bold red]error:[/] none of the records could be used")
        err.print("  [dim]->[/] See the reasons; perhaps the files are in another --format.")
        raise typer.Exit(1)


def _report_as_dict(report: ImportReport, store: ParquetTraceStore) -> dict[str, Any]:
    return {
        "kept": report.kept,
        "duplicates": report.duplicates,
        "skipped": report.skipped_count,
        "faults": [{"file": file, "line": line, "reason": reason} for file, line, reason in report.skipped],
        "formats": report.formats,
        "pseudonymised": store.scrubbed,
        "calls": store.count(),
    }


def _print_report(report: ImportReport, store: ParquetTraceStore) -> None:
    for file, line, reason in report.skipped[:_SHOWN_FAULTS]:
        err.print(f"{escape(file)}:{line}: {escape(reason)}", highlight=False, soft_wrap=True)
    if report.skipped_count > _SHOWN_FAULTS:
        err.print(f"... and {report.skipped_count - _SHOWN_FAULTS:,} more (--json names the first 100)")
    replaced = f" ({report.duplicates:,} were there already and are replaced)" if report.duplicates else ""
    out.print(f"{report.kept:,} calls imported{replaced}, {report.skipped_count:,} skipped", highlight=False)
    if store.scrubbed:
        found = ", ".join(f"{count:,} {kind}" for kind, count in sorted(store.scrubbed.items()))
        out.print(f"personal data replaced by pseudonyms: {found}", highlight=False)
    if report.kept:
        out.print(f"{store.count():,} calls in all. Next: shoal learn", highlight=False)


@app.command("export")
def export(
    to: Annotated[
        Path,
        typer.Option(
            "--out", metavar="FILE", help="JSON Lines; gzipped if it ends in .gz; - for standard output."
        ),
    ],
    home: HomeOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write all calls in Shoal's own format, oldest first."""
    place = existing_home(home)
    store = open_traces(place, read_config(place, config))
    count = 0
    with _destination(to) as file, progress_bar() as progress:
        for trace in progress.track(store.scan(), total=store.count(), description="exporting"):
            file.write(
                json.dumps(_line_of(trace), ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"
            )
            count += 1
    if as_json and str(to) != "-":
        print_json({"calls": count, "file": str(to)})
    else:
        err.print(f"{count:,} calls exported", highlight=False)


def _line_of(trace: Trace) -> dict[str, Any]:
    """A trace as a line of Shoal's format: what it does not say is left out."""
    return {name: value for name, value in trace.to_dict().items() if value not in ("", None, {})}


@contextmanager
def _destination(to: Path) -> Iterator[IO[bytes]]:
    """Standard output, or a file that appears whole or not at all."""
    if str(to) == "-":
        yield sys.stdout.buffer
        return
    draft = to.with_name(f".{to.name}.{secrets.token_hex(4)}")
    try:
        with draft.open("wb") as raw:
            if to.suffix == ".gz":
                with gzip.GzipFile(fileobj=raw, mode="wb", compresslevel=6, mtime=0) as packed:
                    yield cast(IO[bytes], packed)
            else:
                yield raw
        draft.replace(to)
    except FileNotFoundError as error:
        raise UsageError(
            f"The folder of {to} is not there.", remedy="Make it, or name another --out."
        ) from error
    except (PermissionError, IsADirectoryError) as error:
        raise UsageError(
            f"{to} cannot be written: {error.strerror}.", remedy="Name another --out."
        ) from error
    finally:
        if draft.parent.is_dir():
            draft.unlink(missing_ok=True)


@app.command("ls")
def ls(
    limit: Annotated[int, typer.Option("--limit", metavar="N", min=1, help="How many.")] = 20,
    client: Annotated[str | None, typer.Option("--client", help="Only this client's.")] = None,
    home: HomeOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """The newest calls."""
    place = existing_home(home)
    heads = open_traces(place, read_config(place, config)).heads(client=client, limit=limit)
    if as_json:
        print_json({"traces": [asdict(head) for head in heads]})
        return
    if not heads:
        out.print("No calls yet. Import a log: shoal traces import FILE")
        return
    table = Table(box=None, pad_edge=False)
    table.add_column("time", no_wrap=True)
    table.add_column("id", no_wrap=True)  # whole, to be copied
    for heading in ("client", "answered by"):
        table.add_column(heading, overflow="fold")
    table.add_column("ms", justify="right", no_wrap=True)
    for head in heads:
        latency = "" if head.latency_ms is None else f"{head.latency_ms:.0f}"
        table.add_row(
            _time(head.timestamp),
            escape(head.id),
            escape(head.client_id),
            escape(head.served_by or head.model),
            latency,
        )
    out.print(table)


@app.command("show")
def show(
    trace_id: Annotated[str, typer.Argument(metavar="ID")],
    home: HomeOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """One call: its messages and its answer."""
    place = existing_home(home)
    trace = open_traces(place, read_config(place, config)).get(TraceId(trace_id))
    if trace is None:
        raise NotFound(f"There is no trace {trace_id!r}.", remedy="shoal traces ls names the newest ones.")
    if as_json:
        print_json(trace.to_dict())
        return
    facts = [_time(trace.timestamp), trace.client_id, trace.served_by or trace.chat.model, trace.privacy]
    if trace.latency_ms is not None:
        facts.append(f"{trace.latency_ms:.0f} ms")
    if trace.first_token_ms is not None:
        facts.append(f"first token after {trace.first_token_ms:.0f} ms")
    if trace.cost_usd is not None:
        facts.append(f"{trace.cost_usd:.6f} USD")
    out.print(
        f"[bold]{escape(trace.id)}[/]  {escape(', '.join(fact for fact in facts if fact))}", highlight=False
    )
    answer = {**trace.answer.message, "reasoning": trace.reasoning}
    for message in (*trace.chat.messages, answer):
        out.print(f"\n[bold]{escape(str(message.get('role')))}[/]", highlight=False)
        if message.get("reasoning"):
            out.print(str(message["reasoning"]), style="dim", markup=False, highlight=False)
        if text_of(message):
            out.print(text_of(message), markup=False, highlight=False)
        for call in message.get("tool_calls") or ():
            function = call.get("function") or {}
            out.print(
                f"-> {function.get('name')}({function.get('arguments')})", markup=False, highlight=False
            )


@app.command("stats")
def stats(home: HomeOption = None, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """How many calls there are, of whom, answered by whom."""
    place = existing_home(home)
    figures = open_traces(place, read_config(place, config)).stats()
    if as_json:
        print_json(asdict(figures))
        return
    span = ""
    if figures.first_timestamp is not None and figures.last_timestamp is not None:
        span = f", {_time(figures.first_timestamp)} to {_time(figures.last_timestamp)}"
    out.print(
        f"{figures.calls:,} calls in {figures.conversations:,} known conversations{span}", highlight=False
    )
    out.print(f"{figures.files:,} files, {figures.size_bytes / 1e6:.1f} MB", highlight=False)
    for heading, counts in (
        ("client", figures.clients),
        ("model asked", figures.models),
        ("answered by", figures.served_by),
    ):
        if not any(counts):
            continue
        table = Table(box=None, pad_edge=False)
        table.add_column(heading, overflow="fold", min_width=30)
        table.add_column("calls", justify="right")
        for name, count in list(counts.items())[:10]:
            table.add_row(escape(name) or "[dim]not said[/]", f"{count:,}")
        out.print(table)
    for file, reason in figures.unreadable.items():
        err.print(f"[bold red]left out:[/] {escape(file)}: {escape(reason)}", highlight=False, soft_wrap=True)


@app.command("delete")
def delete(
    id_: Annotated[
        list[str] | None, typer.Option("--id", metavar="ID", help="This call; may be repeated.")
    ] = None,
    client: Annotated[str | None, typer.Option("--client", help="All calls of this client.")] = None,
    before: Annotated[
        str | None,
        typer.Option("--before", metavar="WHEN", help="All calls before this day or time (ISO 8601, UTC)."),
    ] = None,
    home: HomeOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Erase calls for good. Several conditions: whatever any of them names."""
    if not id_ and client is None and before is None:
        raise UsageError("Nothing was named to delete.", remedy="Give --id, --client or --before.")
    place = existing_home(home)
    store = open_traces(place, read_config(place, config))
    until = None if before is None else moment("--before", before)
    gone = store.erase(ids=id_ or (), client=client, before=until)
    if id_ and not gone:
        raise NotFound("None of the named calls is there.", remedy="shoal traces ls names the newest ones.")
    registry = open_registry(place)
    after_erasure(place, registry, gone)
    knowing = trained_on_erased(place, registry)
    if as_json:
        said = {"deleted": len(gone), "calls": store.count()}
        print_json({**said, "to_learn_again": knowing} if knowing else said)
        return
    out.print(f"{len(gone):,} calls deleted, {store.count():,} left", highlight=False)
    for name, count in knowing.items():
        out.print(f"{escape(name)} was trained on {count:,} erased calls: shoal learn", highlight=False)


def _time(timestamp: float) -> str:
    """UTC, to the minute."""
    try:
        return datetime.fromtimestamp(timestamp, tz=UTC).strftime("%Y-%m-%d %H:%M")
    except (ValueError, OverflowError, OSError):
        return f"{timestamp:.0f}"
