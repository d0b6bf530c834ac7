"""The report's map: a sample of calls in two dimensions by what they say, and the tasks as islands in it.

Near means alike in wording; how far apart two islands are means little. Numbers in, positions out; draws nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shoal.agents.registry.records import TaskId

WIDTH, HEIGHT = 640.0, 440.0
_MARGIN = 30.0
_FEWEST = 12
_FEW = 150
_LARGEST_RADIUS = 46.0
_SMALLEST_RADIUS = 13.0
_GAP = 4.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Island:
    """A task: where it lies, how large it is drawn."""

    task_id: TaskId
    x: float
    y: float
    radius: float


@dataclass(frozen=True, slots=True, kw_only=True)
class MapView:
    """Within `WIDTH` x `HEIGHT`. `points`: (x, y, task) of single calls; None for a call in no task."""

    points: Sequence[tuple[float, float, TaskId | None]]
    islands: Sequence[Island]


def draw_map(sample: Sequence[tuple[str, TaskId | None]], shares: Mapping[TaskId, float]) -> MapView | None:
    """The map of some calls; None where they are too few, or say nothing.

    Args:
        sample: (text, task) of calls.
        shares: of all calls, by task.
    """
    if len(sample) < _FEWEST:
        return None
    flat = _flatten([text for text, _ in sample])
    if flat is None:
        return None
    places = _fitted(flat)
    points = [(float(x), float(y), task) for (x, y), (_, task) in zip(places, sample, strict=True)]
    islands = []
    for task_id, share in sorted(shares.items(), key=lambda item: (-item[1], item[0])):
        own = np.array([(x, y) for x, y, task in points if task == task_id])
        if not own.size:
            continue
        # the call with the least way to all others: inside an island also where a task has several
        middle = own[np.argmin(np.sqrt(((own[:, None] - own[None]) ** 2).sum(-1)).sum(1))]
        radius = max(_SMALLEST_RADIUS, _LARGEST_RADIUS * math.sqrt(min(1.0, share / 0.5)))
        islands.append(Island(task_id=task_id, x=float(middle[0]), y=float(middle[1]), radius=radius))
    return MapView(points=points, islands=_apart(islands))


def _flatten(texts: Sequence[str]) -> NDArray[np.float64] | None:
    """Shape (calls, 2): t-SNE over the leading components of TF-IDF; those components themselves for few calls."""
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.manifold import TSNE

    try:
        rows = TfidfVectorizer(
            ngram_range=(1, 2), sublinear_tf=True, max_features=6000, token_pattern=r"\S+"
        ).fit_transform(texts)
    except ValueError:  # no words at all
        return None
    if rows.shape[1] < 3:
        return None
    size = min(40, rows.shape[1] - 1, rows.shape[0] - 1)
    dense = TruncatedSVD(size, random_state=0).fit_transform(rows)
    # texts that are the same would lie on each other
    dense = dense + np.random.default_rng(0).normal(0, 1e-4, dense.shape)
    if len(texts) < _FEW:
        return np.asarray(dense[:, :2], dtype=np.float64)
    flat = TSNE(
        2, init="pca", perplexity=min(40, len(texts) / 4), random_state=0, max_iter=500
    ).fit_transform(dense)
    return np.asarray(flat, dtype=np.float64)


def _fitted(flat: NDArray[np.float64]) -> NDArray[np.float64]:
    """Stretched to the frame, each direction by itself; a few far away are drawn at its edge."""
    low, high = np.quantile(flat, 0.005, axis=0), np.quantile(flat, 0.995, axis=0)
    span = np.where(high > low, high - low, 1.0)
    unit = np.clip((flat - low) / span, 0, 1)
    frame = np.array([WIDTH - 2 * _MARGIN, HEIGHT - 2 * _MARGIN])
    return np.asarray(_MARGIN + unit * frame, dtype=np.float64)


def _apart(islands: Sequence[Island]) -> list[Island]:
    """Moved as little as it takes that no two cover each other, and that all lie inside."""
    places = np.array([(i.x, i.y) for i in islands], dtype=np.float64)
    radii = [i.radius for i in islands]
    for _ in range(300):
        moved = False
        for a in range(len(islands)):
            for b in range(a):
                way = places[a] - places[b]
                distance = float(np.hypot(*way))
                missing = radii[a] + radii[b] + _GAP - distance
                if missing > 0:
                    direction = way / distance if distance > 1e-6 else np.array([1.0, 0.3 * (a - b)])
                    # the smaller one gives way
                    places[a] += direction * missing * radii[b] / (radii[a] + radii[b])
                    places[b] -= direction * missing * radii[a] / (radii[a] + radii[b])
                    moved = True
        for i, radius in enumerate(radii):
            places[i] = np.clip(places[i], radius + 2, (WIDTH - radius - 2, HEIGHT - radius - 2))
        if not moved:
            break
    return [
        Island(task_id=i.task_id, x=float(x), y=float(y), radius=i.radius)
        for i, (x, y) in zip(islands, places, strict=True)
    ]
