"""Training of a pretrained base for one task, by LoRA: the costliest rung of the ladder.

Owns the order of the work: form of the answers, tokens, fit, run, files. What is kept is the low-rank weights with a reference to the
base (its hub id or folder, commit and SHA-256), or the merged weights. Knows nothing of serving.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, set_peft_model_state_dict
from safetensors.torch import load_file, save_file

from shoal.agents.learning.answer_forms import AnswerForm
from shoal.agents.learning.base_files import (
    digest_of,
    dtype_for,
    has_bf16,
    load_model,
    load_tokenizer,
    locate,
)
from shoal.agents.learning.bases import Base, FourBit, NodeRoom, card_of, check_fit, fit_training
from shoal.agents.learning.candidates import LORA
from shoal.agents.learning.lora_executors import InProcess
from shoal.agents.learning.lora_job import LoraExecutor, LoraJob, LoraSettings, Pair, Trained, plan_steps
from shoal.agents.learning.lora_prompts import Prompter
from shoal.agents.learning.lora_run import with_adapter
from shoal.agents.learning.slots import SlotRules, learn_slot_rules
from shoal.agents.learning.training import Example, TrainContext, TrainReport
from shoal.errors import DataError

FACTS = "lora.json"
ADAPTER, MERGED = "adapter_model.safetensors", "model.safetensors"
#: calls of `choose` by which the best weights are told
WATCHED = 256
#: texts that keep their task's rules are learnt from alone if they are this share of all
_FAITHFUL_SHARE = 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class Rung:
    """A base that may be tried for a task.

    Attributes:
        nodes: where it could serve.
        tier, private: of the task's calls, see `Material`.
        merge: keep merged weights instead of low-rank ones.
        four_bit: whether the base's weights are held in 4 bits while it is trained.
        executor: who carries the run out.
    """

    base: Base
    folder: Path
    nodes: tuple[NodeRoom, ...]
    tier: str = ""
    private: bool = False
    merge: bool = False
    four_bit: FourBit = "auto"
    settings: LoraSettings = field(default_factory=LoraSettings)
    executor: LoraExecutor = field(default_factory=InProcess)


@dataclass(frozen=True, slots=True)
class _Read:
    """The examples as tokens. `prompt`: 99th percentile of the prompts' tokens; `answer`: the longest answer's, with its end."""

    pairs: list[Pair]
    prompt: int
    answer: int


def train_lora(
    train: Sequence[Example], choose: Sequence[Example], folder: Path, context: TrainContext, *, rung: Rung
) -> TrainReport:
    """Train the rung's base on `train`; see `Trainer`. Raises DataError where the base does not suit the task, with the reason."""
    if not train:
        raise DataError("Training needs calls, got none.", remedy="Import more traces.")
    base = replace(rung.base, sha256=digest_of(rung.folder))
    form = AnswerForm.fit(train)
    rules = learn_slot_rules(train) if form.kind == "text" else None
    prompter = Prompter.of(load_tokenizer(rung.folder))
    context.progress(0.0, f"reading calls for {base.model}")
    taught = _faithful(train, rules)
    read = _read(taught, form, prompter)
    if not read.pairs:
        raise DataError("None of the answers can be taught.", remedy="The task stays with the generalist.")
    # an answer may be a little longer than any that was logged
    most = int(1.25 * read.answer) + 8
    node = check_fit(
        base,
        prompt_tokens=read.prompt,
        answer_tokens=most,
        nodes=rung.nodes,
        tier=rung.tier,
        private=rung.private,
    )
    pairs = [p for p in read.pairs if len(p.ids) <= base.context]
    watched = [p for p in _read(choose, form, prompter).pairs if len(p.ids) <= base.context][:WATCHED]
    watched = watched or pairs[: max(1, len(pairs) // 10)]
    hardware = rung.executor.hardware()
    dtype = dtype_for(base.parameters, bf16=hardware.bf16)
    fit, four_bit = fit_training(
        replace(base, bytes_each=torch.finfo(dtype).bits // 8),
        rows=rung.settings.batch,
        tokens=max(len(p.ids) for p in pairs),
        free_mb=hardware.free_mb,
        four_bit=rung.four_bit,
        no_four_bit=hardware.no_four_bit,
    )
    plan = plan_steps(
        pairs, context.seconds, base.parameters, rung.settings, hardware, twice=fit.checkpointing
    )
    job = LoraJob(
        base=base,
        dtype=_name_of(dtype),
        four_bit=four_bit,
        pairs=tuple(pairs),
        watched=tuple(watched),
        plan=plan,
        fit=fit,
        settings=rung.settings,
        seed=context.seed,
        seconds=context.seconds,
        pad=prompter.pad,
        private=rung.private,
    )
    run = rung.executor.run(job, context)
    folder.mkdir(parents=True, exist_ok=True)
    facts = {
        "base": card_of(base, merged=rung.merge),
        "dtype": _name_of(dtype_for(base.parameters, bf16=has_bf16())),
        "form": form.to_dict(),
        "max_new_tokens": most,
        "context": base.context,
    }
    _save(folder, run, prompter, rules, facts)
    if rung.merge:
        # rounding once, from full precision, is what keeps merged answers those of the low-rank weights
        merge(folder, rung.folder, folder)
        (folder / ADAPTER).unlink()
        (folder / "adapter_config.json").unlink()
    context.progress(1.0, "done")
    parent = {"model": base.model, "revision": base.revision, "sha256": base.sha256}
    return TrainReport(
        kind=LORA,
        steps=run.step,
        cut_by_clock=run.cut,
        details={
            "base": facts["base"],
            "parents": [parent],
            "form": form.kind,
            "pairs": len(pairs),
            "pairs_left_out": len(train) - len(pairs),
            "planned_steps": plan.steps,
            "stopped_early": run.stopped_early,
            "choose_loss": run.best_loss,
            "trained_parameters": sum(w.numel() for w in run.weights.values()),
            "prompt_tokens": read.prompt,
            "answer_tokens": most,
            "dtype": facts["dtype"],
            "trained_in": job.dtype,
            "on_gpu": hardware.gpu,
            "four_bit": four_bit,
            "workers": hardware.workers,
            "flops": hardware.flops,
            "rows_at_once": fit.rows,
            "checkpointing": fit.checkpointing,
            "fits": node.name,
            "loaded_mb": round(run.loaded_mb, 1),
            "memory_mb": round(
                base.serving_mb(read.prompt + most) + max(0.0, run.loaded_mb - base.weights_mb), 1
            ),
            # versions with the same share one base in memory
            "shares": "" if rung.merge else f"{base.sha256[:12]}-{facts['dtype']}",
            "device": "cuda" if hardware.gpu else "cpu",
        },
    )


def _read(examples: Sequence[Example], form: AnswerForm, prompter: Prompter) -> _Read:
    pairs, prompts, longest = [], [], 1
    for example in examples:
        answer = form.teach(example)
        if answer is None:
            continue
        prompt, ids = prompter.prompt(example.request), prompter.answer(answer)
        prompts.append(len(prompt))
        longest = max(longest, len(ids))
        pairs.append(Pair((*prompt, *ids), len(prompt)))
    at = math.ceil(0.99 * len(prompts)) - 1
    return _Read(pairs, sorted(prompts)[at] if prompts else 0, longest)


def _faithful(examples: Sequence[Example], rules: SlotRules | None) -> Sequence[Example]:
    """The texts that keep their task's rules, where they are enough to learn from."""
    if rules is None:
        return examples
    kept = [e for e in examples if not rules.errors(e.request, e.content)]
    return kept if len(kept) >= _FAITHFUL_SHARE * len(examples) else examples


def _name_of(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _save(
    folder: Path, run: Trained, prompter: Prompter, rules: SlotRules | None, facts: Mapping[str, Any]
) -> None:
    run.adapter.save_pretrained(str(folder))
    save_file(dict(run.weights), folder / ADAPTER, metadata={"format": "pt"})
    prompter.tokenizer.save_pretrained(folder)
    if rules is not None:
        (folder / "slots.json").write_text(json.dumps(rules.to_dict(), ensure_ascii=False), encoding="utf-8")
    (folder / FACTS).write_text(json.dumps(facts, ensure_ascii=False, indent=1), encoding="utf-8")


def attach(model: Any, folder: Path, name: str) -> PeftModel:
    """Put a version's low-rank weights beside those of a loaded base, or beside other versions' on the same base."""
    config = LoraConfig.from_pretrained(str(folder))
    config.inference_mode = True
    if isinstance(model, PeftModel):
        model.add_adapter(name, config)
    else:
        model = with_adapter(model, config, name)
    set_peft_model_state_dict(model, load_file(folder / ADAPTER), adapter_name=name)
    return model.eval()


def merge(folder: Path, base_folder: Path, out: Path) -> None:
    """Write the base's weights with a version's low-rank ones added in, in the precision that it serves in."""
    facts = json.loads((folder / FACTS).read_text(encoding="utf-8"))
    model = attach(load_model(base_folder, facts["base"]["architecture"], torch.float32), folder, "default")
    merged = model.merge_and_unload().to(getattr(torch, facts["dtype"]))
    state = {name: weight.cpu().contiguous() for name, weight in merged.state_dict().items()}
    if merged.config.tie_word_embeddings:
        # safetensors refuses to write one tensor under two names
        state.pop("lm_head.weight", None)
    out.mkdir(parents=True, exist_ok=True)
    merged.config.save_pretrained(out)
    save_file(state, out / MERGED, metadata={"format": "pt"})
    facts["base"]["merged"] = True
    (out / FACTS).write_text(json.dumps(facts, ensure_ascii=False, indent=1), encoding="utf-8")


def find_base(facts: Mapping[str, Any]) -> Path:
    """The folder of the base that a version was made from.

    Raises:
        DataError: it is not to be had, or its files are not those that the version was trained on.
    """
    base = facts["base"]
    folder, _ = locate(base["model"], base["revision"])
    if digest_of(folder) != base["sha256"]:
        raise DataError(
            f"Base {base['model']}: its files in {folder} are not those that the version was trained on (SHA-256 differs).",
            remedy="Bring them back, or learn again.",
        )
    return folder
