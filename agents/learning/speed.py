"""How fast this machine trains: what turns a time limit into steps. Measured once, by a LoRA step over a slice of a small base.

The figure becomes part of what a run is a function of: it is kept in the data folder, so that a run that was killed reckons alike, and
written into the run's manifest and on the version's card.
"""

from __future__ import annotations

import json
import math
import platform
import time
from collections.abc import Mapping
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from shoal.agents.learning.base_files import device, has_bf16
from shoal.agents.learning.lora_job import FLOPS_EACH, LoraSettings
from shoal.agents.learning.lora_run import AnswerLoss, lora_config, with_adapter

#: SmolLM2-135M's shape, a fifth as deep, with a vocabulary that takes no time
_SLICE = LlamaConfig(
    vocab_size=512,
    hidden_size=576,
    intermediate_size=1_536,
    num_hidden_layers=6,
    num_attention_heads=9,
    num_key_value_heads=3,
    tie_word_embeddings=True,
)
_ROWS, _TOKENS, _ROWS_ON_GPU = 2, 128, 128
_TIMES = 3
#: a figure is rounded down to a power of this: the noise of two measurements rarely makes two budgets
_GRID = 2**0.25


def speed_of_this_machine(known: Mapping[str, float]) -> tuple[str, float]:
    """(what was measured, operations per second in training): a name of the device, its precision and its threads, and its figure, which
    is taken from `known` where it stands there. Takes some seconds of one core where it does not."""
    gpu = device().type == "cuda"
    name = (
        torch.cuda.get_device_name()
        if gpu
        else str(torch.cpu.get_capabilities().get("cpu_name") or platform.machine())
    )
    precision = "bf16" if has_bf16() else "fp32"
    key = f"{name}, {precision}, threads {torch.get_num_threads()}, torch {torch.__version__}"
    return key, known[key] if key in known else _rounded(_measure())


def known_speeds(path: Path) -> dict[str, float]:
    """What was measured before; empty where nothing was, or the file is damaged."""
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
        return {str(key): float(value) for key, value in said.items() if float(value) > 0}
    except (OSError, ValueError, AttributeError, TypeError):
        return {}


def remember_speed(path: Path, key: str, flops: float) -> None:
    """Keep a figure beside those that are there."""
    known = known_speeds(path)
    if known.get(key) == flops:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".draft")
    draft.write_text(json.dumps({**known, key: flops}, indent=1), encoding="utf-8")
    draft.replace(path)


def _rounded(flops: float) -> float:
    return float(round(_GRID ** math.floor(math.log(flops, _GRID))))


def _measure() -> float:
    """By the processor's time on a CPU, so that other work on the machine does not count; by the clock on a GPU."""
    gpu = device().type == "cuda"
    rows = _ROWS_ON_GPU if gpu else _ROWS
    # nothing that is drawn here may change what is drawn for training
    with torch.random.fork_rng():
        base = LlamaForCausalLM(_SLICE).to(
            device=device(), dtype=torch.bfloat16 if has_bf16() else torch.float32
        )
        parameters = sum(weight.numel() for weight in base.parameters())
        model = with_adapter(base, lora_config(LoraSettings()), "default").train()
        loss = AnswerLoss(model.get_base_model())
        tokens = torch.randint(0, _SLICE.vocab_size, (rows, _TOKENS), device=device())
        spans = []
        for _ in range(_TIMES + 1):
            began = _seconds(gpu)
            loss(tokens, tokens).backward()
            spans.append(_seconds(gpu) - began)
    return float(parameters * FLOPS_EACH * rows * _TOKENS / min(spans[1:]))


def _seconds(gpu: bool) -> float:
    if gpu:
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time() / torch.get_num_threads()
