"""What a planner is told, and what is read out of its answer. Pure."""

from __future__ import annotations

import json
from typing import Any

from shoal.agents.contract.loss import unfenced
from shoal.agents.plans.catalogue import Catalogue
from shoal.agents.plans.plan import BODY_SCHEMA, Plan

#: the built-in plan for questions that no named plan is for
BUILT_IN = "planner"

_RULES = """You are the planner of an agent. Answer with a plan as one JSON object and nothing else.
A plan is {"steps": [...], "result": ...}. A step is {"id", "use", "input"}, and "each" where it is done once for each element of a list.
"use" names what performs it: "tool/<name>", "skill/<name>", "specialist/<name>", "auto" or "generalist" (a language model; its "input" is all that it is told).
References carry data: "$step.field" is another step's output, "$input.question" the question, "$item" the element within "each", "$index" its position. A text may hold "${step.field}".
Use only what is listed here. Keep to as few steps as the question needs. "result" is what the user gets."""


def built_in_plan() -> Plan:
    """Writes a plan for a question from all that the site offers, and runs it."""
    from shoal.agents.plans.plan import Step

    return Plan(
        name=BUILT_IN,
        description="Writes a plan for the question and runs it.",
        input={"type": "object", "required": ["question"], "properties": {"question": {"type": "string"}}},
        steps=(Step(id="plan", use="planner", input="$input.question"),),
        result="$plan",
    )


def planner_prompt(plan: Plan, catalogue: Catalogue) -> str:
    """The system message of a planner step: the plan's own, else rules, catalogue and schema."""
    if plan.planner:
        return plan.planner
    offered = catalogue.only(plan.tools)
    lines = [_RULES, "", "Tools:"]
    for name, tool in sorted(offered.tools.items()):
        lines.append(
            f"- tool/{name}: {tool.description} Input: {_json(tool.input)}. Output: {_json(tool.output)}."
        )
    lines += [] if offered.tools else ["- none"]
    if plan.skills:
        lines.append("Skills:")
        for name, skill in sorted(plan.skills.items()):
            gives = f" Output: {_json(skill.output)}." if skill.output else " Output: a text."
            lines.append(f"- skill/{name}: {skill.description}{gives}")
    if offered.specialists:
        lines.append("Specialists:")
        lines += [f"- specialist/{name}: {text}" for name, text in sorted(offered.specialists.items())]
    lines += ["", f"JSON Schema of a plan: {_json(BODY_SCHEMA)}"]
    return "\n".join(lines)


def read_json_answer(text: str) -> tuple[Any, str]:
    """(the JSON value of an answer, why there is none): a Markdown fence around it is allowed."""
    try:
        return json.loads(unfenced(text)), ""
    except (ValueError, RecursionError) as error:
        return None, f"the answer is no JSON: {error}"


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
