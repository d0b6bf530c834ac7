"""The log of each of a site's processes in the data folder, where it outlives the process and the site's Ray."""

from __future__ import annotations

import logging
from logging.handlers import RotatingFileHandler
from pathlib import Path

_MOST_BYTES = 4 << 20
_FORM = "%(asctime)s %(process)d %(levelname)s %(name)s: %(message)s"


def log_to(folder: Path, name: str) -> None:
    """Keep what Shoal says in this process in `<name>.log` too, the newest 8 MiB of it. Again asked for, it does nothing."""
    logger = logging.getLogger("shoal")
    path = folder / f"{name}.log"
    if any(getattr(handler, "baseFilename", "") == str(path.absolute()) for handler in logger.handlers):
        return
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    handler = RotatingFileHandler(path, maxBytes=_MOST_BYTES, backupCount=1, encoding="utf-8", delay=True)
    handler.setFormatter(logging.Formatter(_FORM))
    logger.addHandler(handler)
    if logger.level == logging.NOTSET:
        logger.setLevel(logging.INFO)
