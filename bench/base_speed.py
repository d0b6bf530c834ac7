"""How fast a base of SmolLM2-135M's shape is on this machine, with random weights: reading, and a LoRA step, in each precision.

What a base says does not matter to its speed, so nothing is fetched. One figure for each precision and number of threads.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from _bench import Bench, main

#: HuggingFaceTB/SmolLM2-135M's config.json
SHAPE = {
    "vocab_size": 49_152,
    "hidden_size": 576,
    "intermediate_size": 1_536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "max_position_embeddings": 8_192,
    "rope_theta": 100_000.0,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": True,
}
#: rows, tokens of each, and how many of those are the answer's
ROWS, TOKENS, ANSWER = 4, 128, 32


def fastest(step: Callable[[], Any], times: int) -> float:
    """Seconds of wall clock, of the quickest of so many, after one that warms up."""
    step()
    spans = []
    for _ in range(times):
        began = time.perf_counter()
        step()
        spans.append(time.perf_counter() - began)
    return min(spans)


def measure(bench: Bench, name: str, threads: int, times: int) -> None:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from shoal.agents.learning.lora_job import FLOPS_EACH, LoraSettings
    from shoal.agents.learning.lora_run import AnswerLoss, lora_config, with_adapter

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    base = LlamaForCausalLM(LlamaConfig(**SHAPE)).to(getattr(torch, name))
    parameters = sum(weight.numel() for weight in base.parameters())
    inputs = torch.randint(0, SHAPE["vocab_size"], (ROWS, TOKENS))
    labels = inputs.clone()
    labels[:, : TOKENS - ANSWER] = -100
    tokens = ROWS * TOKENS
    label = f"{name}_{threads}thread"

    def read() -> None:
        with torch.inference_mode():
            base.model(input_ids=inputs, use_cache=False)

    bench.figure(f"{label}_read", tokens / fastest(read, times), "tokens/s")
    model = with_adapter(base, lora_config(LoraSettings()), "default")
    loss = AnswerLoss(model.get_base_model())
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    optimiser = torch.optim.AdamW(trained)

    def train() -> None:
        optimiser.zero_grad(set_to_none=True)
        (loss(inputs, labels) / (ROWS * ANSWER)).backward()
        optimiser.step()

    model.train()
    speed = tokens / fastest(train, times)
    bench.figure(f"{label}_lora_step", speed, "tokens/s")
    bench.figure(f"{label}_lora_flops", speed * parameters * FLOPS_EACH / 1e9, "GFLOP/s")


def run(bench: Bench) -> None:
    import os

    from shoal.agents.learning.base_files import has_bf16
    from shoal.agents.learning.speed import speed_of_this_machine

    times = 1 if bench.arguments.quick else 3
    for name in ("float32", "bfloat16"):
        for threads in (1, os.cpu_count() or 1):
            measure(bench, name, threads, times)
    import torch

    torch.set_num_threads(1)
    bench.figure("float32_reckoned_flops", speed_of_this_machine({})[1] / 1e9, "GFLOP/s")
    bench.figure("bf16_by_itself", float(has_bf16()), "yes or no")


if __name__ == "__main__":
    main("base_speed", "A base of SmolLM2-135M's shape: reading and LoRA steps.", run)
