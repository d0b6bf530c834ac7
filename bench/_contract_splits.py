"""The contract on real calls that a site never trained on: violations over half-splits, coverage, and services it never saw."""

from __future__ import annotations

from pathlib import Path

from _bench import Bench


def measure(bench: Bench, data: Path) -> None:
    """See the module."""
