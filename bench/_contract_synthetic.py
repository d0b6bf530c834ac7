"""A population whose true risk is known at every threshold: how often does calibration promise what is not true?"""

from __future__ import annotations

from pathlib import Path

from _bench import Bench


def measure(bench: Bench, data: Path) -> None:
    """See the module."""
