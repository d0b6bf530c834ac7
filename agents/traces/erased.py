"""Which calls were erased: digests of their ids, so that specialists that learnt from them can be told. Knows nothing of models.

A digest is the first 8 bytes of the id's SHA-256; nothing else of an erased call is kept. Among a million erased calls and a million
learnt ones two different ids meet with a chance of 5 in 100 million.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Digests = NDArray[np.uint64]

_NAME = "erased-ids"


def id_digests(ids: Iterable[str]) -> Digests:
    """(n,), ascending, without repeats."""
    return np.unique(_digests(ids))


def _digests(ids: Iterable[str]) -> Digests:
    raw = b"".join(hashlib.sha256(i.encode("utf-8", "surrogatepass")).digest()[:8] for i in ids)
    return np.frombuffer(raw, dtype="<u8").astype(np.uint64)


def read_erased(folder: Path) -> Digests:
    """The digests of all calls that were erased from a trace folder."""
    try:
        raw = (folder / _NAME).read_bytes()
    except FileNotFoundError:
        raw = b""
    return np.frombuffer(raw[: len(raw) // 8 * 8], dtype="<u8").astype(np.uint64)


def among_erased(ids: Sequence[str], erased: Digests) -> set[str]:
    """Which of the ids were erased."""
    if not len(erased):
        return set()
    return {ids[int(place)] for place in np.flatnonzero(np.isin(_digests(ids), erased))}


def note_erased(folder: Path, ids: Iterable[str]) -> None:
    """Remember ids as erased; the caller holds the folder's lock."""
    _write(folder, np.union1d(read_erased(folder), id_digests(ids)))


def note_returned(folder: Path, ids: Iterable[str]) -> None:
    """Forget that ids were erased: their owner has imported them again. The caller holds the folder's lock."""
    known = read_erased(folder)
    left = np.setdiff1d(known, id_digests(ids), assume_unique=True)
    if len(left) < len(known):
        _write(folder, left)


def count_erased(learnt: Digests, erased: Digests) -> int:
    return int(np.intersect1d(learnt, erased, assume_unique=True).size)


def _write(folder: Path, digests: Digests) -> None:
    """Whole or not at all."""
    draft = folder / f".erased-{secrets.token_hex(4)}"
    try:
        with draft.open("wb") as file:
            file.write(digests.astype("<u8").tobytes())
            file.flush()
            os.fsync(file.fileno())
        draft.chmod(0o600)
        draft.rename(folder / _NAME)
    finally:
        draft.unlink(missing_ok=True)
