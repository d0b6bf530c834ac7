"""Specialists trained on a log of several kinds of work, beside published figures: one `shoal learn`, then forced answers.

Data: `traces/mixed_log.jsonl.gz` and `mixed_eval.jsonl.gz` with their `.labels.csv` (id,call_site), made from BANKING77 (CC-BY-4.0),
E2E NLG (CC-BY-SA-4.0) and Schema-Guided Dialogue (CC-BY-SA-4.0); `traces/airline_gpt4o_log.jsonl.gz` and `airline_gpt4o_eval.jsonl.gz`
(tau-bench, MIT). The labels score; learning never sees them. A forced answer is the specialist's own, however unsure; where it
has none it counts as wrong.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from _bench import Bench, learnt_site, main
from _calls import call_figures, known_tools
from _tasks import ari, read_sites, read_tasks, rows_of, stripped, worst_purity_completeness
from _texts import RESTAURANT, action_figures, forced, gold_of, key_of, restaurant_figures
from loop import shoal

from shoal.agents.contract.loss import canonical_tool_calls, normal_label

TIME_LIMIT_MIN = 30
QUICK_LIMIT_MIN = 6
Row = Mapping[str, Any]


def text_of(row: Row) -> str:
    return str(row["response"]["choices"][0]["message"].get("content") or "")


def accuracy(gold: Sequence[Row], said: Mapping[str, Row]) -> float:
    """Share of the calls whose forced answer is the recorded label."""
    raw = [(said[row["id"]].get("raw") or {}).get("content") for row in gold]
    right = [
        text is not None and normal_label(text) == normal_label(text_of(row))
        for row, text in zip(gold, raw, strict=True)
    ]
    return sum(right) / len(right)


def prompt_of(row: Row) -> str:
    return "\n".join(str(m["content"]) for m in row["request"]["messages"] if m["role"] == "system")


def measure_mixed(bench: Bench, log: Path, held_out: Path) -> None:
    limit = QUICK_LIMIT_MIN if bench.arguments.quick else TIME_LIMIT_MIN
    learnt, gold = list(rows_of(log)), list(rows_of(held_out))
    sites, truth = read_sites(held_out), read_sites(log)
    with tempfile.TemporaryDirectory(prefix="shoal-bench-") as folder:
        home = bench.arguments.home or Path(folder) / "home"
        if bench.arguments.home is None:
            shoal("traces", "import", str(log), "--json", home=home)
            learn = f"shoal learn --time-limit {limit}"
            _, seconds = shoal("learn", "--time-limit", str(limit), "--json", home=home)
            bench.figure("learn_seconds", seconds, "s", at_most=60 * limit, command=learn)
        tasks = Path(folder) / "tasks.csv"
        shoal("tasks", "export", "--out", str(tasks), home=home)
        bench.figure("ari", ari(truth, read_tasks(tasks)), "", at_least=0.98, command="shoal tasks export")
        predictions = bench.arguments.predictions or Path(folder) / "predictions.jsonl"
        if not predictions.is_file():
            shoal("eval", str(held_out), "--out", str(predictions), "--json", home=home)
        said = {
            row["id"]: row for row in map(json.loads, predictions.read_text(encoding="utf-8").splitlines())
        }
    of = {site: [row for row in gold if sites[row["id"]] == site] for site in set(sites.values())}
    labels(bench, of, said, learnt)
    texts(bench, of, said, learnt)
    calls(bench, of["service_call"], said, learnt)


def labels(bench: Bench, of: Mapping[str, list[Row]], said: Mapping[str, Row], learnt: Sequence[Row]) -> None:
    bench.figure(
        "bank_intent_accuracy", accuracy(of["bank_intent"], said), "share right, forced", at_least=0.91
    )
    known = {prompt_of(row) for row in learnt}
    own = [row for row in of["dialogue_intent"] if prompt_of(row) in known]
    bench.figure(
        "dialogue_intent_accuracy",
        accuracy(own, said),
        "share right, forced, services of the log",
        at_least=0.96,
    )


def texts(bench: Bench, of: Mapping[str, list[Row]], said: Mapping[str, Row], learnt: Sequence[Row]) -> None:
    def predictions(own: Iterable[Row]) -> dict[str, str | None]:
        keys = {row["id"]: key_of(row) for row in own}
        return forced([said[row_id] for row_id in keys], keys)

    gold = gold_of(of[RESTAURANT], learnt)
    found = restaurant_figures(gold, predictions(of[RESTAURANT]))
    bench.figure(
        "restaurant_text_bleu", found["bleu"].value, "BLEU, all references, lower-cased", at_least=60
    )
    bench.figure("restaurant_text_bleu_cased", found["bleu_cased"].value, "BLEU, as written")
    bench.figure("restaurant_text_chrf", found["chrf"].value, "chrF")
    bench.figure("restaurant_text_slot_error", found["slot_error"].value, "share of inputs", at_most=0.03)
    gold = gold_of(of["say_actions"], learnt)
    found = action_figures(gold, predictions(of["say_actions"]))
    bench.figure("say_actions_slot_error", found["slot_error"].value, "share of unseen inputs", at_most=0.04)
    bench.figure("say_actions_bleu", found["bleu"].value, "BLEU, unseen inputs")
    seen = action_figures(gold, predictions(of["say_actions"]), seen=True)
    bench.figure(
        "say_actions_seen_slot_error", seen["slot_error"].value, "share of inputs that the log has too"
    )


def calls(bench: Bench, gold: Sequence[Row], said: Mapping[str, Row], learnt: Sequence[Row]) -> None:
    found = call_figures(said.values(), gold, known_tools(learnt))
    bench.figure(
        "service_call_call_or_wait",
        found["call_or_wait"]["value"],
        "share right, services of the log",
        at_least=0.88,
    )
    bench.figure(
        "service_call_function", found["function"]["value"], "share right where both call", at_least=0.95
    )
    bench.figure("service_call_exact", found["exact"]["value"], "share with function and all arguments right")


def measure_stripped(bench: Bench, log: Path) -> None:
    from shoal.agents.tasks.finder import find_tasks
    from shoal.agents.traces.trace import Trace

    traces = [Trace.from_dict(stripped(row)) for row in rows_of(log)]
    found = find_tasks(traces, known=(), seed=0, now=0.0, use_answers=False)
    purity, completeness = worst_purity_completeness(read_sites(log), found.assignment)
    unit = "worst call-site; one prompt, no tools, client or metadata, answers not looked at"
    bench.figure("stripped_purity", purity, unit, at_least=0.90)
    bench.figure("stripped_completeness", completeness, unit, at_least=0.90)


def measure_agent(bench: Bench, log: Path, held_out: Path) -> None:
    """An agent whose turns all have one prompt and one set of tools."""
    limit = 3 if bench.arguments.quick else 10
    gold = list(rows_of(held_out))
    with tempfile.TemporaryDirectory(prefix="shoal-bench-") as folder:
        home = Path(folder) / "home"
        shoal("traces", "import", str(log), "--json", home=home)
        shoal("learn", "--time-limit", str(limit), "--json", home=home)
        predictions = Path(folder) / "predictions.jsonl"
        shoal("eval", str(held_out), "--out", str(predictions), "--json", home=home)
        said = {
            row["id"]: row for row in map(json.loads, predictions.read_text(encoding="utf-8").splitlines())
        }
    answered = [row for row in gold if said[row["id"]]["answer"] is not None]
    wrong = sum(
        not same_turn(row["response"]["choices"][0]["message"], said[row["id"]]["answer"]) for row in answered
    )
    command = f"shoal learn --time-limit {limit}; shoal eval {held_out.name}"
    bench.figure(
        "agent_turns_moved",
        len(answered) / len(gold),
        "share of turns answered by specialists",
        command=command,
    )
    if answered:
        bench.figure(
            "agent_turns_wrong", wrong / len(answered), "share of those that differ from the recorded turn"
        )


def same_turn(wanted: Mapping[str, Any], given: Mapping[str, Any]) -> bool:
    if wanted.get("tool_calls") or given.get("tool_calls"):
        return canonical_tool_calls(wanted.get("tool_calls") or ()) == canonical_tool_calls(
            given.get("tool_calls") or ()
        )
    return normal_label(str(wanted.get("content") or "")) == normal_label(str(given.get("content") or ""))


def run(bench: Bench) -> None:
    traces = bench.arguments.data / "traces"
    log, held_out = traces / "mixed_log.jsonl.gz", traces / "mixed_eval.jsonl.gz"
    if log.is_file() and held_out.is_file():
        measure_stripped(bench, log)
        measure_mixed(bench, log, held_out)
    else:
        bench.skip(
            ["ari", "bank_intent_accuracy"], f"no {log} or {held_out.name}; name the folder with --data"
        )
    if bench.arguments.home is not None:
        bench.skip(["agent_turns_moved"], "--home is of another log")
        bench.skip(["million_curate_s"], "measured by bench/million.py")
        return
    log, held_out = traces / "airline_gpt4o_log.jsonl.gz", traces / "airline_gpt4o_eval.jsonl.gz"
    if log.is_file() and held_out.is_file():
        measure_agent(bench, log, held_out)
    else:
        bench.skip(["agent_turns_moved"], f"no {log} or {held_out.name}; name the folder with --data")
    bench.skip(["million_curate_s"], "measured by bench/million.py")


if __name__ == "__main__":
    main("learning", "Specialists trained on a log, beside published figures.", run, learnt_site)
