"""Where a pretrained base's files are, what they say, and how they are loaded.

A base is a local folder or a hub id; a hub id is looked for in the local Hugging Face cache first, then on the hub unless that is
forbidden (`HF_HUB_OFFLINE`). Only safetensors are read, and no code that comes with a base is ever run: the model's class is one of
transformers' own, named here.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import struct
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
import transformers
import yaml
from transformers import PreTrainedTokenizerFast

from shoal.agents.learning.bases import Base, check_architecture, check_licence
from shoal.agents.learning.folder import file_sha256
from shoal.errors import CorruptModel, DataError

_WANTED = ("*.safetensors", "*.json", "*.jinja", "README.md")
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_FRONT = re.compile(r"\A---\s*\n(.*?)\n---\s*\n", re.DOTALL)
#: smaller models than this lose more by bf16 than they gain
_SMALL = 20_000_000


def locate(model: str, revision: str = "") -> tuple[Path, str]:
    """The folder of a base's files, and the hub's commit (empty for a local folder).

    Raises:
        DataError: there is no such folder, or the hub id is neither in the cache nor to be had.
    """
    folder = Path(model).expanduser()
    if folder.is_dir():
        return folder.resolve(), ""
    if not _HUB_ID.fullmatch(model):
        raise DataError(
            f"Base {model}: it must be a folder or a hub id such as HuggingFaceTB/SmolLM2-135M-Instruct, and is neither.",
            remedy="Mend it under `learning.bases`.",
        )
    from huggingface_hub import snapshot_download

    reason = ""
    for local in (True, False):
        try:
            found = snapshot_download(
                model, revision=revision or None, allow_patterns=list(_WANTED), local_files_only=local
            )
        except (OSError, ValueError, RuntimeError) as error:
            reason = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
            continue
        if any(Path(found).glob("*.safetensors")) or not local:
            return Path(found), Path(found).name
    raise DataError(
        f"Base {model}: it is not in the local Hugging Face cache, and the hub gives no safetensors of it ({reason[:200]}).",
        remedy="Fetch it where the hub can be reached, or name a local folder.",
    )


def read_base(
    model: str, *, revision: str = "", declared: str = "", allowed: tuple[str, ...]
) -> tuple[Base, Path]:
    """What a base is, without loading it.

    Raises:
        DataError: it may not be used, or cannot be read; the message says why.
    """
    folder, commit = locate(model, revision)
    licence = check_licence(model, stated=_stated_licence(folder), declared=declared, allowed=allowed)
    # a version finds its base again from whatever folder a process runs in
    return describe(model if commit else str(folder), folder, commit, licence), folder


def describe(model: str, folder: Path, commit: str, licence: str) -> Base:
    """A base as its files say. Raises DataError where one is missing or is of no family that Shoal trains."""
    weights = weight_files(folder)
    needed = [folder / "config.json", folder / "tokenizer.json"]
    missing = [path.name for path in needed if not path.is_file()] + ([] if weights else ["*.safetensors"])
    if missing:
        raise DataError(
            f"Base {model}: {', '.join(missing)} must be among its files, and {folder} has none.",
            remedy="Only safetensors weights and a tokenizer.json are read; nothing is ever unpickled. Take another base.",
        )
    try:
        config: Mapping[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        architecture = check_architecture(model, config.get("architectures") or ())
        parameters = sum(_parameters(path) for path in weights)
        heads = int(config["num_attention_heads"])
        hidden, layers = int(config["hidden_size"]), int(config["num_hidden_layers"])
        head = int(config.get("head_dim") or hidden // heads)
        return Base(
            model=model,
            revision=commit,
            architecture=architecture,
            licence=licence,
            context=int(config["max_position_embeddings"]),
            parameters=parameters,
            hidden=hidden,
            layers=layers,
            kv_values=2 * layers * int(config.get("num_key_value_heads") or heads) * head,
            vocabulary=int(config["vocab_size"]),
            bytes_each=torch.finfo(dtype_for(parameters, bf16=has_bf16())).bits // 8,
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, struct.error) as error:
        raise DataError(
            f"Base {model}: its files cannot be read: {error!r}.", remedy="Fetch it again, or take another."
        ) from error


def weight_files(folder: Path) -> list[Path]:
    """The base's safetensors; of a folder that also holds consolidated weights (Mistral's own form) only the others."""
    return sorted(path for path in folder.glob("*.safetensors") if not path.name.startswith("consolidated"))


def _stated_licence(folder: Path) -> str:
    """What the model card says: `license` in the front matter of README.md."""
    try:
        front = _FRONT.match((folder / "README.md").read_text(encoding="utf-8"))
        said = yaml.safe_load(front[1]) if front else None
    except (OSError, ValueError, yaml.YAMLError):
        return ""
    licence = said.get("license") if isinstance(said, dict) else None
    if licence == "other" and isinstance(said, dict) and said.get("license_name"):
        licence = said["license_name"]
    return str(licence) if isinstance(licence, str) else ""


def _parameters(path: Path) -> int:
    """Weights in a safetensors file, counted from its header alone."""
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        if length > 100 << 20:
            raise ValueError(f"{path.name} has no header")
        header = json.loads(file.read(length))
    return sum(math.prod(entry["shape"]) for name, entry in header.items() if name != "__metadata__")


def digest_of(folder: Path) -> str:
    """SHA-256 over the digests of the base's weights, configuration and tokenizer."""
    whole = hashlib.sha256()
    for path in [*weight_files(folder), folder / "config.json", folder / "tokenizer.json"]:
        stat = path.resolve().stat()
        whole.update(f"{path.name} {_digest(path.resolve(), stat.st_size, stat.st_mtime_ns)}\n".encode())
    return whole.hexdigest()


@lru_cache(maxsize=256)
def _digest(path: Path, size: int, changed: int) -> str:
    """A file's SHA-256, read once as long as its size and time stay."""
    return file_sha256(path)


def device() -> torch.device:
    """Where models are put: the first GPU that this process may use, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def has_bf16() -> bool:
    """Whether this machine computes in bf16 by itself; elsewhere it is slower than fp32."""
    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    able = torch.cpu.get_capabilities()
    return any(bool(able.get(name)) for name in ("avx512_bf16", "amx_bf16", "bf16"))


def dtype_for(parameters: int, *, bf16: bool) -> torch.dtype:
    """bf16 where the machine has it and the model is no toy, else fp32."""
    return torch.bfloat16 if parameters >= _SMALL and bf16 else torch.float32


def load_model(folder: Path, architecture: str, dtype: torch.dtype, *, four_bit: bool = False) -> Any:
    """The model, in evaluation mode, on `device()`. `four_bit`: NF4 by bitsandbytes, which takes a GPU.

    Raises:
        CorruptModel: the files do not fit together.
        DataError: 4 bits are asked for, and cannot be had here. Nothing else is loaded instead.
    """
    if four_bit and (why := why_no_four_bit()):
        raise DataError(
            f"{folder} cannot be loaded in 4 bits: {why}.", remedy="QLoRA takes a CUDA GPU and bitsandbytes."
        )
    kind = getattr(transformers, architecture)
    transformers.utils.logging.disable_progress_bar()
    extra: dict[str, Any] = {}
    if four_bit:
        extra["quantization_config"] = transformers.BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_compute_dtype=dtype,
            bnb_4bit_use_double_quant=True,
        )
        extra["device_map"] = {"": torch.cuda.current_device()}
    try:
        model = kind.from_pretrained(
            folder,
            dtype=dtype,
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
            attn_implementation="sdpa",
            **extra,
        )
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise CorruptModel(
            f"{folder} cannot be loaded as {architecture}: {error}.", remedy="Fetch the base again."
        ) from error
    return (model if four_bit else model.to(device())).eval()


def load_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """The tokenizer, from tokenizer.json and its settings. Raises CorruptModel."""
    try:
        return PreTrainedTokenizerFast.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False, clean_up_tokenization_spaces=False
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CorruptModel(f"{folder} has no tokenizer that can be read: {error}.") from error


def why_no_four_bit() -> str:
    """Why this machine cannot hold weights in 4 bits (QLoRA); empty where it can."""
    from importlib.util import find_spec

    if not torch.cuda.is_available():
        return "there is no CUDA GPU"
    if find_spec("bitsandbytes") is None:
        return "bitsandbytes is not installed"
    return ""
