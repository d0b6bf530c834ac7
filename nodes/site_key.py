"""The site's key: 32 random bytes in one file that only its owner may read. Knows nothing of what is encrypted."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from shoal.errors import ConfigError

KEY_BYTES = 32


def load_or_create_key(path: Path) -> bytes:
    """The key at `path`; made there (mode 0600, whole or not at all) if there is none.

    Two processes that come at once get the same key.

    Raises:
        ConfigError: the file cannot be read or made, or is not 32 bytes long.
    """
    try:
        if not path.exists():
            _create(path)
        key = path.read_bytes()
    except OSError as error:
        raise ConfigError(
            f"The site's key {path} cannot be read or made: {error.strerror}.",
            remedy="Let the user that runs Shoal own the data folder.",
        ) from error
    if len(key) != KEY_BYTES:
        raise ConfigError(
            f"The site's key {path} must be {KEY_BYTES} bytes long, got {len(key)}.",
            remedy="Restore it from a copy; without it the calls that wait in the spool cannot be read.",
        )
    return key


def _create(path: Path) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        os.write(descriptor, secrets.token_bytes(KEY_BYTES))
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    try:
        os.link(draft, path)  # unlike a rename, never replaces the key of a process that was faster
    except FileExistsError:
        pass
    finally:
        draft.unlink()
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
