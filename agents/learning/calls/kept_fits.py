"""Weights that a training of function calls has fitted, kept as files until its version is registered: a run that is killed goes on after them.

A fit is a function of its calls and its settings, so one that is taken up again gives the same bytes. Knows nothing of what is fitted.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

Weights = NDArray[np.float32]


class KeptFits:
    """`made_from`: a digest of all that the fits depend on; files of another one are not looked at."""

    def __init__(self, folder: Path, made_from: str) -> None:
        self._folder = folder
        self._made_from = made_from

    def get(self, name: str, fit: Callable[[], Weights]) -> Weights:
        """The weights of this name: those kept, else what `fit` gives, which is then kept."""
        path = self._folder / f"{name}.safetensors"
        kept = self._read(path)
        if kept is not None:
            return kept
        weights = fit()
        self._folder.mkdir(parents=True, exist_ok=True)
        draft = self._folder / f".{name}-{secrets.token_hex(4)}"
        try:
            places = np.flatnonzero(weights)
            tensors: dict[str, Any] = {
                "places": places.astype(np.int32),
                "weights": weights[places],
                "size": np.array([len(weights)], dtype=np.int64),
            }
            save_file(tensors, draft, metadata={"made_from": self._made_from})
            with draft.open("rb") as file:
                os.fsync(file.fileno())
            draft.rename(path)
        finally:
            draft.unlink(missing_ok=True)
        return weights

    def _read(self, path: Path) -> Weights | None:
        """None where there is no whole file of these calls and settings."""
        if not path.is_file():
            return None
        try:
            with safe_open(path, framework="np") as file:
                if (file.metadata() or {}).get("made_from") != self._made_from:
                    return None
                weights = np.zeros(int(file.get_tensor("size")[0]), dtype=np.float32)
                weights[file.get_tensor("places")] = file.get_tensor("weights")
        except (SafetensorError, OSError, IndexError):
            return None
        return weights
