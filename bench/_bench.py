"""What all benchmarks share: the machine, the figures with their targets, the table and the JSON object."""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import platform
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table


@dataclass
class Bench:
    """Collects figures and prints them: a table for people, with `--json` one object."""

    name: str
    arguments: argparse.Namespace
    figures: dict[str, dict[str, Any]] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)

    def figure(
        self,
        name: str,
        value: float,
        unit: str,
        *,
        at_least: float | None = None,
        at_most: float | None = None,
        command: str = "",
    ) -> None:
        """Add a figure. `met` is None where it has no target."""
        target = f">= {at_least}" if at_least is not None else f"<= {at_most}" if at_most is not None else ""
        met: bool | None = None
        if at_least is not None:
            met = value >= at_least
        elif at_most is not None:
            met = value <= at_most
        row = {"value": round(float(value), 4), "unit": unit, "target": target, "met": met}
        self.figures[name] = {**row, "command": command} if command else row
        self.say(f"{name}: {row['value']} {unit}")

    def skip(self, names: list[str], reason: str) -> None:
        for name in names:
            self.skipped[name] = reason

    def say(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    def finish(self) -> int:
        """Print; exit code 1 where a target was missed."""
        if self.arguments.json:
            print(json.dumps({"machine": machine(), "figures": self.figures, "skipped": self.skipped}))
        else:
            table = Table(title=f"bench/{self.name}.py")
            for heading in ("figure", "value", "unit", "target", "met"):
                table.add_column(heading)
            for name, row in self.figures.items():
                met = {True: "yes", False: "NO", None: "-"}[row["met"]]
                table.add_row(name, str(row["value"]), row["unit"], row["target"], met)
            for name, reason in self.skipped.items():
                table.add_row(name, "-", "", "", f"skipped: {reason}")
            Console().print(table)
        return int(any(row["met"] is False for row in self.figures.values()))


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    model = ""
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "")
    return {
        "cpu": model or platform.processor(),
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "platform": platform.platform(),
        "python": platform.python_version(),
    }


def main(
    name: str,
    description: str,
    run: Callable[[Bench], None],
    more: Callable[[argparse.ArgumentParser], object] = lambda parser: None,
) -> None:
    """Parse `--json`, `--quick`, `--data` and what `more` adds, run, print, exit."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    parser.add_argument("--quick", action="store_true", help="smaller data and fewer repetitions")
    parser.add_argument(
        "--data",
        type=Path,
        default=Path(os.environ.get("SHOAL_BENCH_DATA", Path(__file__).parents[2] / "shared" / "data")),
        help="folder with the public data sets (else SHOAL_BENCH_DATA)",
    )
    more(parser)
    bench = Bench(name, parser.parse_args())
    run(bench)
    sys.exit(bench.finish())


def learnt_site(parser: argparse.ArgumentParser) -> None:
    """Options by which benches share one site that has learnt `mixed_log`, and what it says to `mixed_eval`."""
    parser.add_argument(
        "--home", type=Path, default=None, help="a site that has learnt mixed_log; else one is learnt"
    )
    parser.add_argument(
        "--predictions",
        type=Path,
        default=None,
        help="what `shoal eval mixed_eval --out` of that site wrote; made if it is not there",
    )


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
