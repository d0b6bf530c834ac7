"""The contract, measured: is at most alpha wrong, how much is answered, what happens to work that was never seen.

Each part is a module `_contract_<part>.py` beside this one with `measure(bench, data)`: it adds its figures, or says with
`bench.skip` why it could not. `--only synthetic,splits` measures some parts alone. Data: `traces/mixed_log.jsonl.gz` and
`mixed_eval.jsonl.gz` (BANKING77, CC-BY-4.0; E2E NLG and Schema-Guided Dialogue, CC-BY-SA-4.0), `routing/routellm_gsm8k_responses.csv.gz`
(RouteLLM, Apache-2.0).
"""

from __future__ import annotations

import argparse
import sys

import _contract_audit
import _contract_routellm
import _contract_router
import _contract_splits
import _contract_synthetic
from _bench import Bench, learnt_site, main

PARTS = {
    "synthetic": _contract_synthetic.measure,
    "splits": _contract_splits.measure,
    "router": _contract_router.measure,
    "audit": _contract_audit.measure,
    "routellm": _contract_routellm.measure,
}


def run(bench: Bench) -> None:
    asked = [part for part in bench.arguments.only.split(",") if part] or list(PARTS)
    if unknown := set(asked) - set(PARTS):
        sys.exit(f"There is no part {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}.")
    for part in asked:
        PARTS[part](bench, bench.arguments.data)


def more(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--only", default="", help=f"parts to measure, by comma: {', '.join(PARTS)}")
    learnt_site(parser)


if __name__ == "__main__":
    main("contract", "The contract: its bound, its coverage, and what it does not cover.", run, more)
