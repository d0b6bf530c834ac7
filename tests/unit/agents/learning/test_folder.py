"""A model folder is refused by name if anything in it is not as its card says."""

from __future__ import annotations

from pathlib import Path

import pytest

from shoal.agents.learning.folder import freeze, seal, verify
from shoal.errors import CorruptModel


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "weights.safetensors").write_bytes(b"weights")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "vocabulary.json").write_text("{}")
    return tmp_path


def test_a_sealed_folder_verifies(folder: Path) -> None:
    digest = seal(folder, {"kind": "classifier", "task": "t"})
    card = verify(folder, digest)
    assert card["kind"] == "classifier"
    assert set(card["files"]) == {"weights.safetensors", "sub/vocabulary.json"}


def test_an_altered_file_is_named(folder: Path) -> None:
    seal(folder, {"kind": "classifier"})
    (folder / "sub" / "vocabulary.json").write_text("[]")
    with pytest.raises(CorruptModel, match=r"sub/vocabulary\.json was altered"):
        verify(folder)


def test_a_missing_and_an_added_file_are_named(folder: Path) -> None:
    seal(folder, {"kind": "classifier"})
    (folder / "extra.bin").write_bytes(b"x")
    with pytest.raises(CorruptModel, match=r"extra\.bin is not on the model's card"):
        verify(folder)
    (folder / "extra.bin").unlink()
    (folder / "weights.safetensors").unlink()
    with pytest.raises(CorruptModel, match=r"weights\.safetensors is missing"):
        verify(folder)


def test_a_card_that_was_swapped_is_refused(folder: Path) -> None:
    digest = seal(folder, {"kind": "classifier"})
    seal(folder, {"kind": "micro_lm"})
    with pytest.raises(CorruptModel, match="not the card that was registered"):
        verify(folder, digest)


def test_no_card_and_a_broken_card_are_clear_errors(folder: Path) -> None:
    with pytest.raises(CorruptModel, match="has no"):
        verify(folder)
    (folder / "card.json").write_text("{}")
    with pytest.raises(CorruptModel, match="is not a model card"):
        verify(folder)


def test_a_second_card_and_a_link_cannot_hide_in_a_folder(folder: Path, tmp_path: Path) -> None:
    seal(folder, {"kind": "classifier"})
    (folder / "sub" / "card.json").write_text("{}")
    with pytest.raises(CorruptModel, match=r"sub/card\.json is not on the model's card"):
        verify(folder)
    (folder / "sub" / "card.json").unlink()
    (folder / "gone").symlink_to(folder / "nowhere")
    with pytest.raises(CorruptModel, match="gone is no plain file"):
        verify(folder)
    (folder / "gone").unlink()
    original = folder / "weights.safetensors"
    original.rename(folder.parent / "elsewhere")
    original.symlink_to(folder.parent / "elsewhere")
    with pytest.raises(CorruptModel, match=r"weights\.safetensors is no plain file"):
        verify(folder)


def test_a_frozen_folder_is_read_only_and_still_verifies(folder: Path) -> None:
    digest = seal(folder, {"kind": "classifier"})
    freeze(folder)
    modes = {p.stat().st_mode & 0o777 for p in folder.rglob("*") if p.is_file()}
    assert modes == {0o444}
    assert verify(folder, digest)["kind"] == "classifier"
