"""Training of a small causal language model from nothing, for tasks whose answers are text.

Owns the order of the work: rules, pairs, vocabulary, run, files. Values are carried over by slots (`slots.py`,
`delex.py`); how text becomes tokens is `micro_lm_tokens.py`, the run is `micro_lm_run.py`. Knows nothing of serving.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch

from shoal.agents.learning.micro_lm_pairs import faithful, make_pairs, weigh
from shoal.agents.learning.micro_lm_run import KIND, Run
from shoal.agents.learning.micro_lm_tokens import build_vocabulary
from shoal.agents.learning.slots import learn_slot_rules
from shoal.agents.learning.training import Example, TrainContext, TrainReport
from shoal.errors import DataError

#: pieces of text that the vocabulary may have
PIECES = 3000
#: calls of `choose` by which the best weights are told
WATCHED = 512


def train_micro_lm(
    train: Sequence[Example], choose: Sequence[Example], folder: Path, context: TrainContext
) -> TrainReport:
    """Train on `train`, keep the weights that do best on `choose`, and write the model's files into `folder`.

    Files: `config.json`, `model.safetensors`, `tokenizer.json`, `vocabulary.json`, `slots.json`.

    Raises:
        DataError: the answers cannot be written from their prompts alone.
        KeyboardInterrupt: `context.stopped` said so; the checkpoint in `context.work` is complete.
    """
    if not train:
        raise DataError("A language model needs calls to learn from, got none.", remedy="Log more calls.")
    start = context.monotonic()
    context.progress(0.0, "finding the values that answers carry")
    rules = learn_slot_rules(train)
    if rules.unsourced_share > 0.5:
        raise DataError(
            f"{rules.unsourced_share:.0%} of the answers write numbers that their prompts do not have.",
            remedy="Such answers need knowledge or arithmetic; the task stays with the generalist.",
        )
    every = make_pairs(train, rules, None)
    pairs = faithful(every, rules)
    if not pairs:
        raise DataError(
            "No answer carries the values that answers to such prompts usually carry.",
            remedy="The task stays with the generalist.",
        )
    vocabulary = build_vocabulary([(p.prompt, p.slots, p.answer) for p in pairs], rules, PIECES)
    watched = faithful(make_pairs(choose, rules, None), rules)[:WATCHED] or pairs[: max(1, len(pairs) // 10)]
    run = Run(weigh(pairs, pairs), weigh(watched, pairs), vocabulary, context, start)
    run.go()
    folder.mkdir(parents=True, exist_ok=True)
    run.save(folder)
    vocabulary.save(folder)
    (folder / "slots.json").write_text(json.dumps(rules.to_dict(), ensure_ascii=False), encoding="utf-8")
    context.progress(1.0, "done")
    return TrainReport(
        kind=KIND,
        steps=run.step,
        cut_by_clock=run.cut,
        details={
            "pairs": len(pairs),
            "pairs_left_out": len(every) - len(pairs),
            "parameters": run.parameters,
            "vocabulary": vocabulary.size,
            "planned_steps": run.plan.steps,
            "choose_loss": run.best_loss,
            "seen_tokens": run.seen_tokens,
            "threads": torch.get_num_threads(),
        },
    )
