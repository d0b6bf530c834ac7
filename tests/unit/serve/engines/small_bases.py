"""Small random checkpoints of the four families, with tokenizers trained on the spot, in the form in which a hub gives them."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

_KINDS = {
    "smollm": (LlamaConfig, LlamaForCausalLM),
    "qwen": (Qwen2Config, Qwen2ForCausalLM),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM),
    "phi": (Phi3Config, Phi3ForCausalLM),
    "mistral": (MistralConfig, MistralForCausalLM),
}
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
#: as Mistral's: no system turn, user and assistant by turns, the end of text after an answer
INSTRUCT = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}"
    "{% if m['role'] == 'user' %}[INST] {{ m['content'] }} [/INST]{% else %}{{ m['content'] }}{{ eos_token }}{% endif %}{% endfor %}"
)


def make_base(
    folder: Path,
    family: str,
    texts: Sequence[str],
    *,
    licence: str = "apache-2.0",
    hidden: int = 64,
    seed: int = 0,
) -> Path:
    """Write a random checkpoint of a family: SentencePiece-like tokenizers for mistral and phi, byte-level ones for the others.
    phi has no chat template."""
    folder.mkdir(parents=True)
    plain = family in ("mistral", "phi")
    tokenizer = _metaspace(texts) if plain else _byte_level(texts)
    kind, model = _KINDS[family]
    special = ["<s>", "</s>"] if plain else ["<|endoftext|>", "<|im_end|>"]
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=special[0],
        eos_token=special[1],
        pad_token=special[0],
        chat_template={"mistral": INSTRUCT, "phi": None}.get(family, CHATML),
    )
    wrapped.save_pretrained(folder)
    torch.manual_seed(seed)
    config = kind(
        vocab_size=len(wrapped) + 13,  # bases often have more rows than tokens
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=hidden // 4,
        max_position_embeddings=512,
        initializer_range=0.12,
        tie_word_embeddings=family in ("smollm", "qwen3"),
        pad_token_id=0,
        bos_token_id=wrapped.bos_token_id,
        eos_token_id=wrapped.eos_token_id,
    )
    made = model(config)
    for weights in (made.get_input_embeddings().weight, made.get_output_embeddings().weight):
        # as far from nothing as those of a trained model, or no change of what lies between could show in the logits
        torch.nn.init.normal_(weights, std=0.5)
    made.save_pretrained(folder)
    if licence:
        (folder / "README.md").write_text(f"---\nlicense: {licence}\n---\n# {family}\n", encoding="utf-8")
    assert json.loads((folder / "config.json").read_text())["architectures"] == [model.__name__]
    return folder


def _byte_level(texts: Sequence[str]) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def _metaspace(texts: Sequence[str]) -> Tokenizer:
    """Llama's and Mistral's own: a space before the text, and bytes for what the vocabulary lacks."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=700,
        special_tokens=["<s>", "</s>", "<unk>", *(f"<0x{n:02X}>" for n in range(256))],
        initial_alphabet=[chr(n) for n in range(33, 127)],
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    said = json.loads(tokenizer.to_str())
    # the bytes are text, which the trainer knows no way to say
    said["added_tokens"] = [token for token in said["added_tokens"] if not token["content"].startswith("<0x")]
    return Tokenizer.from_str(json.dumps(said))


ACTIONS = {"red": "stop", "blue": "wait", "green": "go"}


def orders(count: int, seed: int) -> list[tuple[str, dict[str, str]]]:
    """Prompts such as "please one red bolt" and the JSON that they mean: an action for the colour, and the thing."""
    rng = random.Random(seed)
    out = []
    for _ in range(count):
        colour, thing = rng.choice(list(ACTIONS)), rng.choice(["bolt", "nut"])
        words = [rng.choice(["please", "now", "well"]), rng.choice(["one", "the", "a"]), colour, thing]
        out.append((" ".join(words), {"action": ACTIONS[colour], "thing": thing}))
    return out
