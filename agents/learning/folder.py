"""A model folder: immutable, hashed, and refused if altered.

`card.json` names the kind of specialist, what it was made from and the SHA-256 of every other file; the card's own
SHA-256 stands in the registry. Knows nothing of what the files mean.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from shoal.errors import CorruptModel

CARD = "card.json"


def file_sha256(path: Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def seal(folder: Path, card: Mapping[str, Any]) -> str:
    """Write the card with the digest of each file; returns the card's own SHA-256.

    `card` must have `kind`, the engine's name.
    """
    files = {
        str(path.relative_to(folder)): file_sha256(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path != folder / CARD
    }
    text = json.dumps({**card, "files": files}, indent=1, sort_keys=True, ensure_ascii=False)
    (folder / CARD).write_text(text, encoding="utf-8")
    return file_sha256(folder / CARD)


def freeze(folder: Path) -> None:
    """Make every file read-only: a version never changes. Who may write to the folder may still remove it."""
    for path in folder.rglob("*"):
        if path.is_file():
            path.chmod(0o444)


def size_mb(folder: Path) -> float:
    """What its files take, in MiB."""
    return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file()) / 2**20


def verify(folder: Path, sha256: str | None = None) -> dict[str, Any]:
    """Check every file against the card, and the card against `sha256` if given; returns the card.

    Raises:
        CorruptModel: a file is missing, altered or not on the card; it is named.
    """
    remedy = "Learn again, or restore the folder from a backup; the task stays with the generalist meanwhile."
    path = folder / CARD
    if path.is_symlink() or not path.is_file():
        raise CorruptModel(f"The model folder {folder} has no {CARD}.", remedy=remedy)
    if sha256 is not None and file_sha256(path) != sha256:
        raise CorruptModel(f"{path} is not the card that was registered (SHA-256 differs).", remedy=remedy)
    try:
        card: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        files: dict[str, str] = card["files"]
        card["kind"]
    except (ValueError, KeyError, TypeError) as error:
        raise CorruptModel(f"{path} is not a model card: {error!r}.", remedy=remedy) from None
    # whatever is no folder counts, so that a link, to a file or to nothing, cannot hide
    there = {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_symlink() or not p.is_dir()}
    there.discard(CARD)
    for name in sorted(there):
        if (folder / name).is_symlink() or not (folder / name).is_file():
            raise CorruptModel(f"{folder / name} is no plain file.", remedy=remedy)
    if extra := sorted(there - files.keys()):
        raise CorruptModel(f"{folder / extra[0]} is not on the model's card.", remedy=remedy)
    for name, digest in files.items():
        if name not in there:
            raise CorruptModel(f"{folder / name} is missing.", remedy=remedy)
        if file_sha256(folder / name) != digest:
            raise CorruptModel(f"{folder / name} was altered (SHA-256 differs from its card).", remedy=remedy)
    return card
