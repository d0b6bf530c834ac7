"""The sales-report agent: its plan, read from `sales-report.yaml`, and the configuration that a site needs to run it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import yaml

from shoal.agents.plans.plan import Plan, parse_plan

NAME: Final = "sales-report"
FILE: Final = Path(__file__).with_name("sales-report.yaml")
#: the tool's place, as `tools` in shoal.yaml names it
TOOL: Final = "shoal.examples.sales_report.tools:sales_figures"
#: what performs each of the agent's steps, in order
STEPS: Final = {
    "plan": "planner",
    "query": "tool/sales_figures",
    "analyse": "skill/analyse",
    "write": "skill/write",
}


def sales_report() -> Plan:
    """The agent's plan."""
    return parse_plan(yaml.safe_load(FILE.read_text(encoding="utf-8")), source=FILE.name)


def site_settings(database: Path) -> dict[str, Any]:
    """`tools` and `plans` of a site's configuration."""
    return {
        "tools": {"sales_figures": {"python": TOOL, "options": {"database": str(database)}}},
        "plans": [str(FILE)],
    }
