"""A plan or a run drawn for people, in lines of at most 80 columns: the tree of steps, what each waits for, who did it, where. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from shoal.agents.plans.plan import PLANNER, Plan

WIDTH = 80
_SIGNS = {"done": "+", "failed": "x", "skipped": "-", "cancelled": "-", "running": ">", "waiting": "."}


def draw_plan(plan: Plan, width: int = WIDTH) -> str:
    """A plan before it runs: each step with what performs it, its tier, and what it waits for."""
    rows = [
        [
            f"{_branch(number, len(plan.steps))}{step.id}{' (each)' if step.each else ''}",
            step.use,
            _tier(plan, step.use, step.tier),
            _waits(step.needs),
        ]
        for number, step in enumerate(plan.steps)
    ]
    lines = _wrapped(f"{plan.name}: {plan.description}" if plan.description else plan.name, width)
    lines += _columns([["STEP", "USES", "TIER", "WAITS FOR"], *rows], (28, 26, 6, 20), width)
    lines.append(f"result: {_short(str(plan.result), width - 8)}")
    if any(step.use == PLANNER for step in plan.steps):
        offered = [f"tool/{name}" for name in plan.tools or ()]
        offered += [f"skill/{name} ({skill.tier or 'any'})" for name, skill in plan.skills.items()]
        lines += _wrapped(f"a planner may use: {', '.join(offered) or 'all that the site offers'}", width)
    return "\n".join(line[:width].rstrip() for line in lines)


def draw_run(view: Mapping[str, Any], width: int = WIDTH) -> str:
    """A run: each step with how it stands, who performed it, where, how long it took, and what it waited for."""
    steps: Sequence[Mapping[str, Any]] = view["steps"]
    children: dict[str, list[Mapping[str, Any]]] = {}
    for step in steps:
        children.setdefault(step["id"].rpartition(".")[0], []).append(step)
    rows = [["STEP", "BY", "NODE", "MS", "WAITED FOR"]]

    def walk(parent: str, indent: str) -> None:
        level = children.get(parent, [])
        for number, step in enumerate(level):
            last = number == len(level) - 1
            rows.append(_run_row(step, f"{indent}{'└─' if last else '├─'}"))
            walk(step["id"], indent + ("  " if last else "│ "))

    walk("", "")
    # what costs nothing, or next to it, is not worth its place
    cost = view.get("cost_usd") or 0.0
    spent = f", {cost:.6f} USD" if cost >= 5e-7 else ""
    took = "" if not view.get("ended_at") else f" after {view['ended_at'] - view['created_at']:.2f} s"
    lines = [f"run {view['id']} of {view['plan']}: {view['status']}{took}{spent}, label {view['label']}"]
    lines += _columns(rows, (22, 28, 8, 7, 15), width)
    reasons = {
        step["id"]: step["error"]["message"] for step in steps if step["error"] and step["status"] == "failed"
    }
    lines += [f"{name} failed: {reason}" for name, reason in reasons.items()]
    # a run mostly fails for a step's reason, which stands there already
    if view.get("error") and not any(r in view["error"]["message"] for r in reasons.values()):
        lines.append(f"error: {view['error']['message']}")
    out = []
    for line in lines:
        out += _wrapped(line.rstrip(), width)
    return "\n".join(out)


def _run_row(step: Mapping[str, Any], branch: str) -> list[str]:
    parts = step["parts"]
    count = f" x{len(parts)}" if step["each"] else ""
    name = step["id"].rpartition(".")[2]
    took = ""
    if step["ended_at"] and step["started_at"]:
        took = f"{1000 * (step['ended_at'] - step['started_at']):.0f}"
    by = step["performer"] or f"({step['use']})"
    if step["use"] == "planner" and step["performer"]:
        by = step["performer"]
    sign = _SIGNS.get(step["status"], "?")
    needs = [need.rpartition(".")[2] for need in step["needs"]]
    return [f"{branch}{sign} {name}{count}", by, step["node"], took, _waits(needs)]


def _branch(number: int, count: int) -> str:
    return "└─ " if number == count - 1 else "├─ "


def _tier(plan: Plan, use: str, own: str) -> str:
    kind, _, name = use.partition("/")
    return own or (plan.skills[name].tier if kind == "skill" and name in plan.skills else "") or "any"


def _waits(needs: Sequence[str]) -> str:
    return ", ".join(needs)


def _columns(rows: Sequence[Sequence[str]], widest: Sequence[int], width: int) -> list[str]:
    """Columns as wide as what is in them, up to `widest`, with two spaces between."""
    sizes = [min(most, max(len(row[n]) for row in rows)) for n, most in enumerate(widest)]
    sizes[-1] = max(0, min(sizes[-1], width - sum(sizes[:-1]) - 2 * (len(sizes) - 1)))
    return [
        "  ".join(_middle(cell, size).ljust(size) for cell, size in zip(row, sizes, strict=True)).rstrip()
        for row in rows
    ]


def _middle(text: str, size: int) -> str:
    """Shortened in its middle, so that a version's number at its end stays."""
    if len(text) <= size:
        return text
    if size < 5:
        return text[:size]
    tail = (size - 1) // 3
    return text[: size - 1 - tail] + "…" + text[len(text) - tail :]


def _short(text: str, size: int) -> str:
    return text if len(text) <= size else text[: size - 1] + "…"


def _wrapped(line: str, width: int) -> list[str]:
    lines = []
    while len(line) > width:
        cut = line.rfind(" ", 20, width + 1)
        cut = width if cut < 0 else cut
        lines.append(line[:cut].rstrip())
        line = "    " + line[cut:].lstrip()
    return [*lines, line]
