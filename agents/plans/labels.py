"""Privacy labels and how they spread: what is made from labelled data has at least its label. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, get_args

from shoal.agents.traces.chat import Privacy

#: from the widest reach to the narrowest
ORDER: Final[tuple[Privacy, ...]] = get_args(Privacy)


def strictest(labels: Iterable[Privacy | None]) -> Privacy:
    """The label that lets data travel least; `public` of none."""
    return max((label for label in labels if label is not None), key=ORDER.index, default=ORDER[0])
