"""Populations in short texts, found by density alone: no answers, no labels, and no number of clusters given.

A sample of texts becomes a graph of nearest neighbours over TF-IDF reduced by SVD (LSA). Its normalised Laplacian tells how
many populations there are: k of them leave k small eigenvalues and then a gap (von Luxburg, "A Tutorial on Spectral
Clustering", 2007, section 8.3). Topics of one population leave no such gap, so they are not torn apart.
HDBSCAN over the same vectors was tried: it left more than half of short questions as noise and found topics, not jobs.

Where an embedder is handed in, its vectors stand in the place of TF-IDF's; the graph and the test of the gap are the same.

Pure: texts in, sides out; knows nothing of calls, prompts or tasks.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shoal.agents.ports import Embedder
from shoal.agents.tasks.template import mask, tokens_of

Sides = NDArray[np.int64]

#: fewer distinct texts than this show no density
MIN_TEXTS = 500
#: texts in one graph, and how many graphs are drawn where the first one shows populations
SAMPLE = 4000
DRAWS = 3
#: 1 - λ of the (k+1)-th eigenvalue over that of the k-th. Two unlike jobs measure 1.8 to 2.4, topics of one job 1.0 to 1.4
_GAP = 1.6
#: populations hang together by at most this much
_MAX_JOINT = 0.15
_MAX_POPULATIONS = 5
_READ_TOKENS = 200
_READ_CHARS = 10 * _READ_TOKENS
#: a population has at least such a share of the texts
_MIN_SHARE = 0.03
#: in long texts the words tell the subject rather than the job
_MAX_MEDIAN_TOKENS = 60


def words_of(text: str) -> list[str]:
    """Masked lower-case words, and pairs of them."""
    words = [token.lower() for token in tokens_of(mask(text[:_READ_CHARS]))[:_READ_TOKENS]]
    return words + [f"{left} {right}" for left, right in pairwise(words)]


def populations(
    texts: Sequence[str], *, seed: int, embedder: Embedder | None = None
) -> list[tuple[list[int], Sides]]:
    """Which population each text of some samples is of.

    Args:
        texts: distinct ones, in an order that is the same from run to run.
        embedder: which texts are near each other; TF-IDF of their words, reduced, where None.

    Returns:
        For each sample: indices into `texts`, and for each of them the number of its population, the same number in
        all samples. Empty where there is but one population.
    """
    if len(texts) < MIN_TEXTS or _median_tokens(texts) > _MAX_MEDIAN_TOKENS:
        return []
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(texts))
    found: list[tuple[list[int], Sides]] = []
    count = 0
    for draw in range(DRAWS):
        chosen = order[draw * SAMPLE : (draw + 1) * SAMPLE]
        if draw and len(chosen) < SAMPLE / 2:
            break
        sides = _sides([texts[i] for i in chosen], count, seed, embedder)
        if sides is None:
            if not draw:
                return []
            continue
        count = int(sides.max()) + 1
        found.append(([int(i) for i in chosen], sides))
    return _aligned(texts, found)


def _median_tokens(texts: Sequence[str]) -> float:
    step = max(1, len(texts) // 500)
    return float(np.median([len(tokens_of(text[:4000])) for text in texts[::step]]))


def _sides(texts: Sequence[str], expected: int, seed: int, embedder: Embedder | None) -> Sides | None:
    """The population of each text; None where there is only one, or not as many as expected (0: any number)."""
    vectors = _vectors(texts, seed) if embedder is None else embedder.embed([t[:_READ_CHARS] for t in texts])
    if vectors is None:
        return None
    graph = _graph(vectors, neighbours=max(10, len(texts) // 200))
    values, functions, degree = _spectrum(graph, _MAX_POPULATIONS + 1)
    joint = np.maximum(1.0 - values, 1e-6)
    gaps = {k: joint[k] / joint[k - 1] for k in range(2, _MAX_POPULATIONS + 1)}
    count = max(gaps, key=lambda k: (gaps[k], -k))
    if gaps[count] < _GAP or joint[count - 1] > _MAX_JOINT or (expected and count != expected):
        return None
    if count == 2:
        sides = _best_cut(graph, functions[:, 1], degree)
    else:
        from sklearn.cluster import KMeans

        sides = KMeans(count, n_init=5, random_state=seed).fit_predict(functions[:, :count]).astype(np.int64)
    if np.bincount(sides, minlength=count).min() < _MIN_SHARE * len(texts):
        return None
    return sides


def _vectors(texts: Sequence[str], seed: int) -> NDArray[np.float32] | None:
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.preprocessing import normalize

    vectorizer = TfidfVectorizer(analyzer=words_of, min_df=3, sublinear_tf=True, dtype=np.float32)
    try:
        matrix = vectorizer.fit_transform(texts)
    except ValueError:  # no word comes three times
        return None
    dimensions = min(250, len(texts) // 16, matrix.shape[1] - 1)
    if dimensions < 10:
        return None
    reduced = TruncatedSVD(dimensions, random_state=seed).fit_transform(matrix)
    vectors: NDArray[np.float32] = normalize(reduced).astype(np.float32)
    return vectors


def _graph(vectors: NDArray[np.float32], neighbours: int) -> Any:
    """Symmetric sparse matrix (n, n): 1 where two texts are among each other's nearest, 1/2 where one of them is."""
    import scipy.sparse as sp

    n = len(vectors)
    similar = vectors @ vectors.T
    np.fill_diagonal(similar, -2.0)
    nearest = np.argpartition(-similar, neighbours, axis=1)[:, :neighbours]
    graph = sp.csr_matrix(
        (np.ones(n * neighbours), (np.repeat(np.arange(n), neighbours), nearest.ravel())), shape=(n, n)
    )
    return (graph + graph.T) / 2


def _spectrum(graph: Any, count: int) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """(eigenvalues, largest first; functions on the texts, (n, count); degrees) of the normalised graph."""
    import scipy.sparse as sp
    from scipy.sparse.linalg import eigsh

    degree = np.asarray(graph.sum(axis=1)).ravel()
    scale = sp.diags(1.0 / np.sqrt(degree))
    start = np.random.default_rng(0).random(graph.shape[0])
    values, vectors = eigsh(scale @ graph @ scale, k=count, which="LA", v0=start)
    order = np.argsort(-values)
    return values[order], vectors[:, order] / np.sqrt(degree)[:, None], degree


def _best_cut(graph: Any, function: NDArray[Any], degree: NDArray[Any]) -> Sides:
    """Sweep along a function for the cut of least conductance (weight across, over the smaller side's degrees)."""
    n = len(function)
    order = np.argsort(function, kind="stable")
    rank = np.empty(n, dtype=np.int64)
    rank[order] = np.arange(n)
    edges = graph.tocoo()
    low, high = np.minimum(rank[edges.row], rank[edges.col]), np.maximum(rank[edges.row], rank[edges.col])
    across = np.zeros(n + 1)
    np.add.at(across, low, edges.data)
    np.add.at(across, high, -edges.data)
    across = np.cumsum(across)[: n - 1] / 2
    volume = np.cumsum(degree[order])
    conductance = across / np.minimum(volume, volume[-1] - volume)[: n - 1]
    margin = max(1, int(_MIN_SHARE * n))
    at = margin + int(np.argmin(conductance[margin : n - margin]))
    sides = np.zeros(n, dtype=np.int64)
    sides[order[at + 1 :]] = 1
    return sides


def _aligned(texts: Sequence[str], found: list[tuple[list[int], Sides]]) -> list[tuple[list[int], Sides]]:
    """The samples with the first one's numbers: whose words are most alike. Largest population first."""
    if not found:
        return []
    from sklearn.feature_extraction.text import HashingVectorizer
    from sklearn.preprocessing import normalize

    hashing = HashingVectorizer(analyzer=words_of, n_features=2**14, alternate_sign=False, norm="l2")
    count = int(found[0][1].max()) + 1
    first: Any = None
    aligned = []
    for chosen, sides in found:
        matrix = hashing.transform([texts[i] for i in chosen])
        centres = np.vstack([np.asarray(matrix[sides == side].mean(axis=0)) for side in range(count)])
        if first is None:
            sizes = np.bincount(sides, minlength=count)
            to = {int(side): n for n, side in enumerate(np.argsort(-sizes, kind="stable"))}
            first = np.empty_like(centres)
            for side, number in to.items():
                first[number] = centres[side]
            middle = first.mean(axis=0)
        else:
            from scipy.optimize import linear_sum_assignment

            alike = normalize(centres - middle) @ normalize(first - middle).T
            sides_in, numbers = linear_sum_assignment(-alike)
            to = dict(zip(map(int, sides_in), map(int, numbers), strict=True))
        aligned.append((chosen, np.array([to[int(side)] for side in sides], dtype=np.int64)))
    return aligned
