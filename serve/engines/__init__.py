"""Loaded specialists that answer. One module for each kind of model; `load` picks by the folder's card."""

from __future__ import annotations

from pathlib import Path

from shoal.agents.learning.folder import verify
from shoal.agents.ports import Engine
from shoal.errors import CorruptModel


def load(folder: Path, sha256: str | None = None) -> Engine:
    """Verify a model folder and load it with the engine that its card names.

    Raises:
        CorruptModel: the folder is not what its card (or `sha256`, the card's digest) says, or its kind is unknown.
    """
    kind = verify(folder, sha256)["kind"]
    # each engine is imported only when asked for: the label engine needs no torch
    if kind == "classifier":
        from shoal.serve.engines.classifier import ClassifierEngine

        return ClassifierEngine.load(folder)
    if kind == "record_classifier":
        from shoal.serve.engines.record_classifier import RecordClassifierEngine

        return RecordClassifierEngine.load(folder)
    if kind == "fields":
        from shoal.serve.engines.fields import FieldsEngine

        return FieldsEngine.load(folder)
    if kind == "tool_call":
        from shoal.serve.engines.tool_call import ToolCallEngine

        return ToolCallEngine.load(folder)
    if kind == "micro_lm":
        from shoal.serve.engines.micro_lm import MicroLmEngine

        return MicroLmEngine.load(folder)
    if kind == "lora":
        from shoal.serve.engines.lora import LoraEngine

        return LoraEngine.load(folder)
    raise CorruptModel(
        f"{folder} is of kind `{kind}`, which this version of Shoal does not know.",
        remedy="Update Shoal, or learn again.",
    )
