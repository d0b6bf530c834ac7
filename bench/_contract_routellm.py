"""A router between a weak and a strong model, learnt from which of them was right: RouteLLM's GSM8K.

Data: `routing/routellm_gsm8k_responses.csv.gz`, the evaluation responses that RouteLLM publishes (github.com/lm-sys/RouteLLM, Apache-2.0; per
prompt of GSM8K's test set: was Mixtral-8x7B right, was GPT-4 right). Published for GSM8K by Ong et al. 2024 (arXiv 2406.18665): random 0.497,
best router 0.622. Five folds; the router's settings are chosen inside the training folds; the prompts alone are read. As a program:

    python bench/_contract_routellm.py --json
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from _bench import Bench, main, sha256

from shoal.commands._weak_strong import run_weak_strong

FILE = "routellm_gsm8k_responses.csv.gz"
SHA256 = "c685b294d68ccc66866e2b1a6fc3a7afd359807b7917133fb910efe0f8680408"
#: seeds of the folds; the first is the figure, the others say how much it depends on the folds
SEEDS = (0, 1, 2, 3, 4)
_NAMES = [
    "gsm8k_apgr",
    "gsm8k_cpt50",
    "gsm8k_cpt80",
    "gain_over_tfidf_low",
    "gain_over_length_low",
]


def measure(bench: Bench, data: Path) -> None:
    """See the module."""
    file = data / "routing" / FILE
    if not file.is_file():
        bench.skip(_NAMES, f"no {file}; name the folder with --data")
        return
    if sha256(file) != SHA256:
        bench.say(f"{file} is not the file that the published figures are of (SHA-256)")
    found = run_weak_strong(file, prompt="prompt", weak=None, strong=None, seed=SEEDS[0])
    command = f"shoal eval {FILE} --weak-strong"
    routers, gains = found["routers"], found["gains"]
    own = routers["shoal"]
    bench.figure("gsm8k_apgr", own["apgr"], "APGR, five folds", at_least=0.6, command=command)
    bench.figure("gsm8k_cpt50", own["cpt50"], "share of strong calls at half the gap")
    bench.figure("gsm8k_cpt80", own["cpt80"], "share of strong calls at 80% of the gap")
    for rival in ("tfidf", "length"):
        gain = gains[rival]
        bench.figure(f"gain_over_{rival}", gain["value"], f"APGR above {rival}")
        bench.figure(f"gain_over_{rival}_low", gain["low"], "lower bound, paired bootstrap, 95%")
    for floor in ("tfidf", "length", "random", "oracle"):
        bench.figure(f"gsm8k_apgr_{floor}", routers[floor]["apgr"], "APGR")
    if not bench.arguments.quick:
        others = [run_weak_strong(file, prompt="prompt", weak=None, strong=None, seed=s) for s in SEEDS[1:]]
        apgr = [_apgr(r) for r in (found, *others)]
        bench.figure("gsm8k_apgr_lowest", min(apgr), f"APGR, lowest of {len(apgr)} divisions into folds")
        bench.figure("gsm8k_apgr_highest", max(apgr), "APGR, highest of them")


def _apgr(found: dict[str, Any]) -> float:
    return float(found["routers"]["shoal"]["apgr"])


if __name__ == "__main__":
    main(
        "_contract_routellm",
        "A router between a weak and a strong model, on RouteLLM's GSM8K responses.",
        lambda bench: measure(bench, bench.arguments.data),
    )
