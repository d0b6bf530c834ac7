"""The contract, measured: is at most alpha wrong, how much is answered, what happens to work that was never seen.

Each part is a module `_contract_<part>.py` beside this one with `measure(bench, data)`: it adds its figures, or says with
`bench.skip` why it could not. `--only synthetic,splits` measures some parts alone. Data: `traces/mixed_log.jsonl.gz` and
`mixed_eval.jsonl.gz` (BANKING77, CC-BY-4.0; E2E NLG and Schema-Guided Dialogue, CC-BY-SA-4.0), `routing/routellm_gsm8k_responses.csv.gz`
(RouteLLM, Apache-2.0).
"""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path

from _bench import Bench, main

PARTS = ("synthetic", "splits", "router", "audit", "routellm")


def parts_of(bench: Bench) -> list[str]:
    asked = [part for part in bench.arguments.only.split(",") if part]
    if unknown := set(asked) - set(PARTS):
        sys.exit(f"There is no part {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}.")
    return asked or list(PARTS)


def run(bench: Bench) -> None:
    for part in parts_of(bench):
        name = f"_contract_{part}"
        if not Path(__file__).with_name(f"{name}.py").is_file():
            continue
        importlib.import_module(name).measure(bench, bench.arguments.data)


def more(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--only", default="", help=f"parts to measure, by comma: {', '.join(PARTS)}")
    parser.add_argument(
        "--home", type=Path, default=None, help="a site that has learnt mixed_log; else one is learnt"
    )
    parser.add_argument(
        "--predictions",
        type=Path,
        default=None,
        help="what `shoal eval mixed_eval --out` of that site wrote; made if it is not there",
    )


if __name__ == "__main__":
    main("contract", "The contract: its bound, its coverage, and what it does not cover.", run, more)
