"""Which calls a version was made from, kept in its folder as digests of their ids: so that erasing a call names the versions that know it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from shoal.agents.traces.erased import Digests, id_digests
from shoal.errors import CorruptModel

_NAME = "learnt_calls.safetensors"


def write_learnt_calls(folder: Path, ids: Iterable[str]) -> None:
    """Eight bytes for each call that trained the model or chose its settings. Write before the folder is sealed."""
    save_file({"calls": id_digests(ids)}, folder / _NAME)


def read_learnt_calls(folder: Path) -> Digests:
    """(n,), ascending; empty where the version is from before this was kept. Raises CorruptModel."""
    path = folder / _NAME
    if not path.is_file():
        return np.empty(0, np.uint64)
    try:
        return np.asarray(load_file(path)["calls"], np.uint64)
    except (SafetensorError, KeyError, OSError) as error:
        raise CorruptModel(f"{path} cannot be read: {error}.", remedy="Learn again.") from error
