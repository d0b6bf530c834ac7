"""How much personal data is found, by kind: recall and precision on presidio-research's labelled sentences.

Data: privacy/presidio_synth_pii.json.gz, made from presidio-research (MIT,
https://github.com/microsoft/presidio-research, data/synth_dataset_v2.json). Our own patterns stand beside Presidio's, and names
are measured where Presidio and a spaCy model are installed. A piece is found where something of its kind overlaps it, and
right where it overlaps a piece of that kind; `covered` is the share of its characters that are gone, whatever they were taken for.
"""

from __future__ import annotations

import gzip
import json
import logging
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from _bench import Bench, main, sha256

from shoal.agents.curation.names import name_finder
from shoal.agents.curation.recognise import find_personal_data
from shoal.agents.curation.scrub import RECOGNISERS
from shoal.errors import ConfigError

_FILE = "privacy/presidio_synth_pii.json.gz"
_SHA256 = "739b82611be329f85eee2c61ec7fc81ebbbd1b71da12e9d6f05e289f38f8cd11"
#: the data's types that have a form, and what ours are called
_FORMS = {
    "CREDIT_CARD": "card",
    "EMAIL_ADDRESS": "email",
    "IBAN_CODE": "iban",
    "IP_ADDRESS": "ip",
    "PHONE_NUMBER": "phone",
    "US_SSN": "ssn",
}
_NAMES = {"PERSON": "person", "GPE": "place", "ORGANIZATION": "organisation"}
#: bounds for our own patterns
_RECALL, _PRECISION = 0.95, 0.95

Found = tuple[str, int, int]
Find = Callable[[str], Iterable[Found]]


def run(bench: Bench) -> None:
    path: Path = bench.arguments.data / _FILE
    if not path.is_file():
        bench.skip(["shoal_*", "presidio_*", "names_*"], f"{path} is not there; see --data")
        return
    if sha256(path) != _SHA256:
        bench.say(f"note: {path} is not the file that the published figures are of")
    sentences = json.loads(gzip.decompress(path.read_bytes()))
    if bench.arguments.quick:
        sentences = sentences[:200]
    score(bench, "shoal", sentences, _FORMS, _ours, bound=True)
    presidio = _presidio()
    if presidio is None:
        bench.skip(["presidio_*"], "presidio-analyzer is not installed: pip install 'shoal[privacy]'")
    else:
        score(bench, "presidio", sentences, _FORMS, presidio)
    model = os.environ.get("SHOAL_SPACY_MODEL", "en_core_web_sm")
    try:
        find_names = name_finder(model)
    except ConfigError as error:
        bench.skip(["names_*"], f"{error.message} SHOAL_SPACY_MODEL names another.")
    else:
        score(
            bench,
            "names",
            sentences,
            _NAMES,
            lambda text: ((f.kind, f.start, f.end) for f in find_names(text)),
        )


def score(
    bench: Bench,
    who: str,
    sentences: list[dict[str, Any]],
    kinds: dict[str, str],
    find: Find,
    *,
    bound: bool = False,
) -> None:
    """Recall, precision and the share of characters covered for each kind; milliseconds of CPU for each sentence."""
    there, found, given, right = Counter[str](), Counter[str](), Counter[str](), Counter[str]()
    chars, covered = Counter[str](), Counter[str]()
    spent = 0.0
    for sentence in sentences:
        text = sentence["full_text"]
        gold = [
            (kinds[s["entity_type"]], s["start_position"], s["end_position"])
            for s in sentence["spans"]
            if s["entity_type"] in kinds
        ]
        started = time.process_time()
        pieces = [piece for piece in find(text) if piece[0] in kinds.values()]
        spent += time.process_time() - started
        for kind, start, end in gold:
            there[kind] += 1
            found[kind] += any(p[0] == kind and p[1] < end and p[2] > start for p in pieces)
            chars[kind] += end - start
            covered[kind] += sum(any(p[1] <= at < p[2] for p in pieces) for at in range(start, end))
        for kind, start, end in pieces:
            given[kind] += 1
            right[kind] += any(g[0] == kind and g[1] < end and g[2] > start for g in gold)
    for kind in sorted(set(kinds.values())):
        if there[kind]:
            least = _RECALL if bound else None
            unit = f"share of {there[kind]}"
            bench.figure(f"{who}_{kind}_recall", found[kind] / there[kind], unit, at_least=least)
            bench.figure(f"{who}_{kind}_covered", covered[kind] / chars[kind], "share of characters")
        if given[kind]:
            least = _PRECISION if bound else None
            unit = f"share of {given[kind]}"
            bench.figure(f"{who}_{kind}_precision", right[kind] / given[kind], unit, at_least=least)
    bench.figure(f"{who}_ms", 1000 * spent / max(1, len(sentences)), "ms of CPU a sentence")


def _ours(text: str) -> Iterable[Found]:
    return ((f.kind, f.start, f.end) for f in find_personal_data(text, RECOGNISERS))


def _presidio() -> Find | None:
    """Presidio's pattern recognisers as they come, without a language model.

    Phones of all regions that it knows instead of its own eight: recall 0.92 instead of 0.53, precision 0.16 instead of 0.70.
    """
    try:
        import tldextract
        from presidio_analyzer import predefined_recognizers as known
    except ImportError:
        return None
    # its e-mail recogniser would fetch the list of top-level domains
    tldextract.tldextract.TLD_EXTRACTOR = tldextract.TLDExtract(suffix_list_urls=())
    logging.getLogger("presidio-analyzer").setLevel(logging.ERROR)
    logging.getLogger("tldextract").setLevel(logging.CRITICAL)
    recognisers = [
        known.CreditCardRecognizer(),
        known.EmailRecognizer(),
        known.IbanRecognizer(),
        known.IpRecognizer(),
        known.PhoneRecognizer(),
        known.UsSsnRecognizer(),
    ]

    def find(text: str) -> Iterable[Found]:
        for recogniser in recognisers:
            for result in recogniser.analyze(text, recogniser.supported_entities, None) or ():
                yield _FORMS[result.entity_type], result.start, result.end

    return find


if __name__ == "__main__":
    main("privacy", __doc__ or "", run)
