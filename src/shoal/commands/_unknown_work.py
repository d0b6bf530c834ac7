"""The novelty pool as `shoal tasks ls` shows it."""

from __future__ import annotations

from typing import Any

from rich.markup import escape

from shoal.agents.feedback.novelty import kinds_of
from shoal.agents.registry.novelty import SqlNovelty
from shoal.agents.registry.records import TaskId
from shoal.agents.registry.store import SqlRegistry
from shoal.commands._shared import out
from shoal.commands._stores import open_traces
from shoal.config import Config
from shoal.home import Home

#: characters of a call that are shown of a kind of unknown work
_FIRST_WORDS = 60


def unknown_work(registry: SqlRegistry, home: Home, settings: Config) -> dict[str, Any]:
    """The novelty pool: `calls`, and `kinds` of them that recur, each with how its newest call begins."""
    pool = SqlNovelty(registry.database).all()
    names = {task.id: task.name for task in registry.tasks()}
    kinds = kinds_of(pool)
    examples = {}
    if kinds:
        found = open_traces(home, settings).pick({kind.example for kind in kinds})
        examples = {
            str(trace.id): " ".join(trace.chat.last_user_text.split())[:_FIRST_WORDS] for trace in found
        }
    return {
        "calls": len(pool),
        "kinds": [
            {
                "name": kind.name,
                "calls": kind.calls,
                "near": names.get(TaskId(kind.near), ""),
                "first_words": examples.get(kind.example, ""),
            }
            for kind in kinds
        ],
    }


def tell_unknown(unknown: dict[str, Any]) -> None:
    if not unknown["calls"]:
        return
    out.print(f"Unknown work: {unknown['calls']:,} calls that no task covers.", highlight=False)
    for kind in unknown["kinds"]:
        near = f", like {kind['near']}" if kind["near"] else ""
        line = f"  {kind['calls']:,} of a recurring kind, {kind['name']}{near}: {kind['first_words']}…"
        out.print(escape(line), highlight=False)
