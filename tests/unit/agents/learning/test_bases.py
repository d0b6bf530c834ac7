from dataclasses import replace

import pytest

from shoal.agents.learning.bases import (
    Base,
    FourBit,
    NodeRoom,
    cheapest_first,
    check_architecture,
    check_fit,
    check_licence,
    fit_training,
)
from shoal.agents.learning.candidates import Prospect
from shoal.agents.learning.lora_rungs import Rungs
from shoal.agents.learning.survey import Survey
from shoal.agents.registry.records import OutputKind
from shoal.config import Config, parse_config
from shoal.errors import ConfigError, DataError

ALLOWED = ("apache-2.0", "mit")
SMALL = Base(
    model="org/small",
    revision="abc",
    architecture="LlamaForCausalLM",
    licence="apache-2.0",
    context=2048,
    parameters=135_000_000,
    hidden=576,
    layers=30,
    kv_values=2 * 30 * 3 * 64,
    vocabulary=49_152,
    bytes_each=2,
)
LARGE = replace(SMALL, model="org/large", parameters=3_000_000_000)
NODES = [
    NodeRoom(name="desk", tier="local", memory_mb=2_000),
    NodeRoom(name="box", tier="edge", memory_mb=4_000),
    NodeRoom(name="rack", tier="cloud", memory_mb=64_000, gpu_mb=40_000),
]


@pytest.mark.parametrize(
    ("stated", "declared", "licence"),
    [("apache-2.0", "", "apache-2.0"), ("", "Apache 2.0", "apache-2.0"), ("mit", "MIT License", "mit")],
)
def test_a_licence_on_the_list_is_taken_whoever_names_it(stated: str, declared: str, licence: str) -> None:
    assert check_licence("b", stated=stated, declared=declared, allowed=ALLOWED) == licence


@pytest.mark.parametrize(
    ("stated", "declared", "why"),
    [
        ("llama3.2", "", "`llama3.2` is not among `learning.licences`"),
        ("", "", "its licence must be known"),
        ("other", "", "its licence must be known"),
        ("llama3.2", "mit", "its model card says licence `llama3.2`, and shoal.yaml `mit`"),
    ],
)
def test_other_unknown_and_contradictory_licences_are_refused(stated: str, declared: str, why: str) -> None:
    with pytest.raises(DataError, match=why.replace("(", r"\(")):
        check_licence("b", stated=stated, declared=declared, allowed=ALLOWED)


def test_an_architecture_of_another_family_is_refused() -> None:
    assert check_architecture("b", ["Qwen3ForCausalLM"]) == "Qwen3ForCausalLM"
    with pytest.raises(DataError, match="got GPT2LMHeadModel"):
        check_architecture("b", ["GPT2LMHeadModel"])


def _fit(base: Base, tier: str = "", private: bool = False, prompt: int = 500) -> str:
    return check_fit(
        base, prompt_tokens=prompt, answer_tokens=100, nodes=NODES, tier=tier, private=private
    ).name


def test_a_base_goes_where_it_fits_and_is_wished_for() -> None:
    assert _fit(SMALL) == "desk"
    assert _fit(SMALL, tier="edge") == "box"
    assert _fit(LARGE) == "rack"


def test_prompts_longer_than_the_context_window_and_nodes_without_room_refuse_a_base() -> None:
    with pytest.raises(DataError, match=r"its context window is 2048 tokens, and the task's calls need 2100"):
        _fit(SMALL, prompt=2000)
    # private calls may go to no cloud node, and only that has the room
    with pytest.raises(DataError, match=r"no node may give so much \(desk 2000 MiB"):
        _fit(LARGE, private=True)


def test_memory_asks_for_smaller_parts_or_for_activations_computed_twice() -> None:
    roomy, _ = fit_training(SMALL, rows=16, tokens=512, free_mb=64_000)
    tight, _ = fit_training(SMALL, rows=16, tokens=512, free_mb=3_000)
    assert (roomy.rows, roomy.checkpointing) == (16, False)
    assert tight.checkpointing and 1 <= tight.rows <= 16
    with pytest.raises(DataError, match="needs more memory"):
        fit_training(LARGE, rows=16, tokens=512, free_mb=3_000)


def test_four_bits_are_taken_for_a_large_base_where_they_can_be_had_and_never_in_silence() -> None:
    def fitted(mode: FourBit, why_not: str, free_mb: float = 8_000) -> bool:
        fit, four_bit = fit_training(
            LARGE, rows=4, tokens=128, free_mb=free_mb, four_bit=mode, no_four_bit=why_not
        )
        assert fit.rows >= 1
        return four_bit

    assert LARGE.weights_mb > 0.5 * 8_000
    assert fitted("auto", "") and fitted("always", "")
    assert not fitted("auto", "", 64_000), "there is room for them whole"
    assert fitted("always", "", 64_000)
    assert not fitted("never", "", 64_000)
    with pytest.raises(DataError, match=r"needs more memory than the 8000 MiB here\. Take"):
        fitted("never", "")
    with pytest.raises(DataError, match="could not be held in 4 bits instead: there is no CUDA GPU"):
        fitted("auto", "there is no CUDA GPU")
    with pytest.raises(
        DataError, match=r"`learning.four_bit` is `always`.* here: bitsandbytes is not installed"
    ):
        fitted("always", "bitsandbytes is not installed", 64_000)


def test_the_smallest_base_comes_first() -> None:
    assert [b.model for b in cheapest_first([LARGE, SMALL])] == ["org/small", "org/large"]


def test_bases_are_read_from_names_and_entries_and_misspelt_ones_refused() -> None:
    config = parse_config(
        {"learning": {"bases": ["org/a", {"model": "/m/b", "licence": "mit"}]}}, source="shoal.yaml"
    )
    assert [(b.model, b.licence) for b in config.learning.bases] == [("org/a", None), ("/m/b", "mit")]
    with pytest.raises(ConfigError, match=r"learning\.bases\.0\.license"):
        parse_config({"learning": {"bases": [{"model": "a", "license": "mit"}]}}, source="shoal.yaml")


def test_without_bases_the_ladder_stays_as_it_is() -> None:
    rungs = Rungs.survey(Config())
    prospect = Prospect(kinds=("classifier",), loss=OutputKind.LABEL)
    assert rungs.extend(prospect, OutputKind.LABEL, Survey(), min_calls=1) == prospect
    assert rungs.identity() == []
