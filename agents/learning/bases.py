"""Pretrained bases: which of those that the owner lists may be used, and which of them suits a task. Pure.

Licence, family, context window, footprint and the nodes there are decide; every base that is refused is refused with its reason.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeAlias

from shoal.errors import DataError

#: architecture, as a base's config.json names it -> family
FAMILIES = {
    "LlamaForCausalLM": "SmolLM",
    "Qwen2ForCausalLM": "Qwen",
    "Qwen3ForCausalLM": "Qwen",
    "Phi3ForCausalLM": "Phi",
    "MistralForCausalLM": "Mistral",
}
#: of a node's memory, what one specialist may fill
_ROOM = 0.8
#: MiB that a process holds beside the weights: Python, torch, transformers
_PROCESS_MB = 400.0
#: rows that are answered together
SERVED_ROWS = 16
#: of one weight in 4 bits, with its scale
_FOUR_BIT_BYTES = 0.6
_MIB = 1 << 20
#: whether a base's weights are held in 4 bits while it is trained
FourBit: TypeAlias = Literal["auto", "always", "never"]
_ALIASES = {"apache2": "apache-2.0", "apache-2": "apache-2.0", "apache": "apache-2.0", "bsd": "bsd-3-clause"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Base:
    """A pretrained model, as its files say.

    Attributes:
        model: hub id or folder, as the owner wrote it.
        revision: the hub's commit; empty for a folder.
        licence: SPDX id in lower case; empty where it says none.
        context: tokens that it can read and write together.
        parameters: counted from the weights' own headers.
        bytes_each: of one weight in memory on this machine.
        kv_values: values that one token adds to the cache.
        sha256: over the digests of its weights, configuration and tokenizer; empty until it is about to be trained.
    """

    model: str
    revision: str
    architecture: str
    licence: str
    context: int
    parameters: int
    hidden: int
    layers: int
    kv_values: int
    vocabulary: int
    bytes_each: int
    sha256: str = ""

    @property
    def family(self) -> str:
        return FAMILIES[self.architecture]

    @property
    def weights_mb(self) -> float:
        return self.parameters * self.bytes_each / _MIB

    def serving_mb(self, tokens: int) -> float:
        """MiB of a process that answers `SERVED_ROWS` requests of so many tokens (read and written) at once."""
        cache = self.kv_values * self.bytes_each * tokens * SERVED_ROWS / _MIB
        logits = self.vocabulary * 4 * SERVED_ROWS / _MIB
        return _PROCESS_MB + self.weights_mb + cache + logits

    def activations_mb(self, tokens: int, *, checkpointing: bool) -> float:
        """MiB that a training step over so many tokens keeps: about 34 values per token, layer and hidden unit (Korthikanti et al.
        2022, section 4, without attention's square part), or one per layer where the rest is computed again."""
        kept = self.layers + 34 if checkpointing else 34 * self.layers
        return tokens * self.hidden * kept * self.bytes_each / _MIB

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "family": self.family}


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeRoom:
    """A node that could hold a specialist: MiB of host memory, and of GPU memory that one specialist may use (0 without)."""

    name: str
    tier: str
    memory_mb: float
    gpu_mb: float = 0.0


def normal_licence(text: str) -> str:
    """An SPDX id in lower case: `Apache 2.0` and `apache-2.0` are one."""
    words = re.sub(r"[\s_]+", "-", text.strip().lower()).removesuffix("-license").removesuffix("-licence")
    return _ALIASES.get(words, words)


def check_licence(model: str, *, stated: str, declared: str, allowed: Sequence[str]) -> str:
    """The licence of a base, if it may be used.

    Args:
        stated: what the base's own model card says; empty where it says nothing.
        declared: what the owner wrote in shoal.yaml; empty where nothing.

    Raises:
        DataError: unknown, contradictory, or not among `allowed`.
    """
    own, said = normal_licence(stated), normal_licence(declared)
    if own and said and own != said:
        raise DataError(
            f"Base {model}: its model card says licence `{own}`, and shoal.yaml `{said}`.",
            remedy="Write the licence that it has under `learning.bases`.",
        )
    licence = own or said
    if not licence or licence in ("other", "unknown"):
        raise DataError(
            f"Base {model}: its licence must be known, and neither its model card nor shoal.yaml names one"
            + (f" (it says `{licence}`)." if licence else "."),
            remedy="Read it, then write for example {model: ..., licence: apache-2.0} under `learning.bases`.",
        )
    if licence not in {normal_licence(a) for a in allowed}:
        raise DataError(
            f"Base {model}: its licence `{licence}` is not among `learning.licences` ({', '.join(allowed)}).",
            remedy="Add it there if you may use it, or take another base.",
        )
    return licence


def check_architecture(model: str, architectures: Sequence[str]) -> str:
    """The one architecture that a base has, if it is of a family that Shoal trains. Raises DataError."""
    found = next((a for a in architectures if a in FAMILIES), None)
    if found is None:
        raise DataError(
            f"Base {model}: its architecture must be one of {', '.join(FAMILIES)}, got {', '.join(architectures) or 'none'}.",
            remedy="Take a base of the SmolLM, Qwen, Phi or Mistral family.",
        )
    return found


def check_fit(
    base: Base, *, prompt_tokens: int, answer_tokens: int, nodes: Sequence[NodeRoom], tier: str, private: bool
) -> NodeRoom:
    """A node that could serve the task with this base: of the tier wished for if one can, the smallest that has the room.

    Args:
        prompt_tokens: of the task's prompts, the 99th percentile.
        answer_tokens: most that an answer may have.

    Raises:
        DataError: its context window is too small, or no node has the room.
    """
    tokens = prompt_tokens + answer_tokens
    if tokens > base.context:
        raise DataError(
            f"Base {base.model}: its context window is {base.context} tokens, and the task's calls need {tokens} "
            f"({prompt_tokens} for the 99th percentile of prompts, {answer_tokens} for the answer).",
            remedy="Take a base with a larger one.",
        )
    needed = base.serving_mb(tokens)
    able = [n for n in nodes if not (private and n.tier == "cloud")]
    fitting = [n for n in able if needed <= _ROOM * n.memory_mb or needed - _PROCESS_MB <= _ROOM * n.gpu_mb]
    if not fitting:
        rooms = ", ".join(f"{n.name} {n.memory_mb:.0f} MiB + GPU {n.gpu_mb:.0f} MiB" for n in able) or "none"
        raise DataError(
            f"Base {base.model}: it needs {needed:.0f} MiB to serve this task, and no node may give so much ({rooms}; "
            f"a specialist may fill {_ROOM:.0%} of one).",
            remedy="Take a smaller base, or join a larger node.",
        )
    return min(fitting, key=lambda n: (n.tier != tier, n.memory_mb, n.name))


def cheapest_first(bases: Sequence[Base]) -> list[Base]:
    """By parameters, then by name."""
    return sorted(bases, key=lambda b: (b.parameters, b.model))


@dataclass(frozen=True, slots=True)
class Fit:
    """How a training step fits into memory: rows that go through the model at once, and whether activations are computed again."""

    rows: int
    checkpointing: bool


def fit_training(
    base: Base,
    *,
    rows: int,
    tokens: int,
    free_mb: float,
    four_bit: FourBit = "auto",
    no_four_bit: str = "there is no CUDA GPU",
) -> tuple[Fit, bool]:
    """The largest part of a batch of `rows` times `tokens` that fits beside the weights, without computing activations twice if possible,
    and whether the weights are to be held in 4 bits (QLoRA).

    Args:
        four_bit: `auto` takes 4 bits where the weights would fill half of what is free, and 4 bits can be had.
        no_four_bit: why 4 bits cannot be had; empty where they can.

    Raises:
        DataError: not even one row fits, or 4 bits are asked for and cannot be had.
    """
    if four_bit == "always" and no_four_bit:
        raise DataError(
            f"Base {base.model}: `learning.four_bit` is `always`, and its weights cannot be held in 4 bits here: {no_four_bit}.",
            remedy="QLoRA takes a CUDA GPU and bitsandbytes; write `learning: {four_bit: auto}` to train without.",
        )
    large = base.weights_mb > 0.5 * free_mb
    small = four_bit == "always" or (four_bit == "auto" and large and not no_four_bit)
    weights_mb = base.parameters * _FOUR_BIT_BYTES / _MIB if small else base.weights_mb
    left = _ROOM * free_mb - _PROCESS_MB - weights_mb * 1.1
    for checkpointing in (False, True):
        part = rows
        while part >= (max(1, rows // 4) if not checkpointing else 1):
            logits = part * min(tokens, 512) * base.vocabulary * 8 / _MIB
            if base.activations_mb(part * tokens, checkpointing=checkpointing) + logits <= left:
                return Fit(part, checkpointing), small
            part //= 2
    also = (
        f" Its weights could not be held in 4 bits instead: {no_four_bit}." if large and no_four_bit else ""
    )
    raise DataError(
        f"Base {base.model}: training it on calls of {tokens} tokens needs more memory than the {free_mb:.0f} MiB here.{also}",
        remedy="Take a smaller base, or learn on a larger machine.",
    )


def card_of(base: Base, *, merged: bool) -> Mapping[str, Any]:
    """What a version's card says of the base that it was made from."""
    keys = ("model", "revision", "architecture", "licence", "parameters", "sha256")
    said = base.to_dict()
    return {**{key: said[key] for key in (*keys, "family")}, "merged": merged}
