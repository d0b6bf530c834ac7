"""Finds names of people, places and organisations with Presidio over a spaCy model. Needs the extra `privacy` and a model that is installed.

Names have no form by which a pattern could know them, so this is for who installs a model; it costs some milliseconds a text.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

from shoal.agents.curation.recognise import Finding
from shoal.errors import ConfigError

#: Presidio's entities, and what their pseudonyms are called
NAMES = {"PERSON": "person", "LOCATION": "place", "ORGANIZATION": "organisation"}
_REMEMBERED_CHARS = 16_384


@lru_cache(maxsize=2)
def name_finder(model: str) -> Callable[[str], list[Finding]]:
    """Finds names in a text, in the order of their place. Nothing is ever downloaded.

    Raises:
        ConfigError: Presidio or the model is not installed.
    """
    try:
        import spacy
        from presidio_analyzer import RecognizerResult
        from presidio_analyzer.nlp_engine import NerModelConfiguration, SpacyNlpEngine
        from presidio_analyzer.predefined_recognizers import SpacyRecognizer
    except ImportError as error:
        raise ConfigError(
            f"`privacy.names_model` is {model!r}, and {error.name} is not installed.",
            remedy="pip install 'shoal[privacy]', or leave it out.",
            param="privacy.names_model",
        ) from error
    # Presidio would fetch a model that it does not find
    if not (spacy.util.is_package(model) or Path(model).is_dir()):
        raise ConfigError(
            f"`privacy.names_model` is {model!r}, which is no spaCy model that is installed, nor a folder.",
            remedy="Install one, as with python -m spacy download en_core_web_sm, or leave it out.",
            param="privacy.names_model",
        )
    engine = SpacyNlpEngine(
        models=[{"lang_code": "en", "model_name": model}],
        ner_model_configuration=NerModelConfiguration(labels_to_ignore=[]),
    )
    engine.load()
    recogniser = SpacyRecognizer(supported_entities=list(NAMES))

    def find(text: str) -> list[Finding]:
        artifacts = engine.process_text(text, "en")
        results: list[RecognizerResult] = recogniser.analyze(text, list(NAMES), artifacts)
        found: list[Finding] = []
        for result in sorted(results, key=lambda r: (r.start, -r.end)):
            if not found or result.start >= found[-1].end:
                said = text[result.start : result.end]
                identity = " ".join(said.casefold().split())
                found.append(Finding(NAMES[result.entity_type], result.start, result.end, identity))
        return found

    remembered = lru_cache(maxsize=4096)(find)
    return lambda text: remembered(text) if len(text) <= _REMEMBERED_CHARS else find(text)
