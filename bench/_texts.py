"""Scores of texts for `bench/learning.py`: gold with all its references, BLEU, chrF and slot errors of predictions.

Data: E2E NLG (CC-BY-SA-4.0) as `name[...], area[...]` prompts and Schema-Guided Dialogue (CC-BY-SA-4.0) as JSON actions; several
calls of one input are its references. Predictions are by input (see `key_of`): what the specialist would answer if forced to, or
nothing where it gave none, which counts as an empty text and as an error.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from shoal.agents.contract.gate import Figure
from shoal.agents.learning.forms import carries, digit_groups, source_groups
from shoal.agents.learning.text_metrics import bleu, chrf, slot_error, values_error

RESTAURANT, ACTIONS = "restaurant_text", "say_actions"


@dataclass
class Gold:
    """One input: the last user message, all logged answers to it, and whether the log that was learnt from has it."""

    text: str
    references: list[str] = field(default_factory=list)
    seen: bool = False


def key_of(row: Mapping[str, Any]) -> str:
    """Equal for calls with the same messages; `row` is a line of a log."""
    return json.dumps(row["request"]["messages"], sort_keys=True, ensure_ascii=False)


def gold_of(held_out: Iterable[Mapping[str, Any]], log: Iterable[Mapping[str, Any]]) -> dict[str, Gold]:
    """By input: its references among `held_out`, in their order."""
    seen = {key_of(row) for row in log}
    gold: dict[str, Gold] = {}
    for row in held_out:
        key = key_of(row)
        entry = gold.setdefault(key, Gold(row["request"]["messages"][-1]["content"], seen=key in seen))
        entry.references.append(row["response"]["choices"][0]["message"]["content"])
    return gold


def restaurant_figures(gold: Mapping[str, Gold], predictions: Mapping[str, str | None]) -> dict[str, Figure]:
    """E2E: `bleu` lower-cased and tokenised as the challenge's script does (what published figures are), `bleu_cased`, `chrf`;
    `slot_error`: share of inputs with any attribute missing, wrong or invented; `value_error`: such attributes over all asked for.
    """
    texts = [predictions.get(key) or "" for key in gold]
    references = [entry.references for entry in gold.values()]
    errors = [restaurant_errors(entry.text, text) for entry, text in zip(gold.values(), texts, strict=True)]
    asked = [len(attributes(entry.text)) for entry in gold.values()]
    return {
        "bleu": bleu(texts, references),
        "bleu_cased": bleu(texts, references, lowercase=False),
        "chrf": chrf(texts, references),
        "slot_error": slot_error(errors),
        "value_error": values_error([len(own) for own in errors], asked),
    }


def action_figures(
    gold: Mapping[str, Gold], predictions: Mapping[str, str | None], *, seen: bool = False
) -> dict[str, Figure]:
    """say_actions over the inputs that the log has (`seen`) or has not: `slot_error` and `value_error` as above by
    `action_errors`, `bleu` and `chrf`."""
    own = {key: entry for key, entry in gold.items() if entry.seen == seen}
    texts = [predictions.get(key) or "" for key in own]
    references = [entry.references for entry in own.values()]
    errors = [action_errors(entry.text, text) for entry, text in zip(own.values(), texts, strict=True)]
    asked = [len(action_values(entry.text)) for entry in own.values()]
    return {
        "bleu": bleu(texts, references),
        "chrf": chrf(texts, references),
        "slot_error": slot_error(errors),
        "value_error": values_error([len(own) for own in errors], asked),
    }


# say_actions


def action_values(prompt: str) -> list[str]:
    """The values that the answer must carry: all of every action but flags (True, False, dontcare) and names of intents, which
    are a program's words (`ReserveRestaurant`)."""
    actions = [action for action in json.loads(prompt)["actions"] if action.get("slot") != "intent"]
    values = [str(value) for action in actions for value in action.get("values", ())]
    return [value for value in values if value.lower() not in ("true", "false", "dontcare")]


def action_errors(prompt: str, text: str) -> list[str]:
    """Missing: a value that stands in the text in none of its forms (letter case, thousands separators, a currency or a
    number word to twelve aside). Invented: a number in digits that the prompt has not. An empty text misses all."""
    if not text.strip():
        return action_values(prompt) or ["no text"]
    missing = [f"missing {value}" for value in action_values(prompt) if not carries(text, value)]
    known = source_groups(prompt)
    return missing + [f"invented {n}" for n in dict.fromkeys(digit_groups(text)) if n not in known]


# restaurant_text

_ATTRIBUTE = re.compile(r"([A-Za-z ]+)\[([^\]]*)\]")
_CHILD = r"(?:child(?:ren)?|famil(?:y|ies)|kids?)"
_RATE = r"(?:rat(?:ings?|e[ds]?)|reviews?|stars?)"


def _around(words: str) -> str:
    """A grade beside the word that it grades, up to three words away."""
    return rf"{words}(?:ly)?(?:[- ]+\w+){{0,3}}?[- ]+{_RATE}|{_RATE}(?: \w+){{0,3}} (?:as )?{words}(?:ly)?"


def _price(words: str) -> str:
    return rf"{words}(?:ly)?[- ]+(?:end|range|cost|pric(?:e[ds]?|ing))|pric(?:es?|ing)(?: range)?(?: \w+){{0,3}} {words}"


#: how an attribute's values may be said, after Dusek, Howcroft and Rieser 2019 (arXiv 1911.03905), whose script reads whole
#: words letter case aside; names are matched word for word
_SAID: dict[str, dict[str, str]] = {
    "area": {
        "city centre": r"(?:city|town) cent(?:re|er)|cent(?:re|er) of (?:the )?(?:city|town)|in the cent(?:re|er)",
        "riverside": r"riverside|(?:near|by|at|close to|along|on|off|beside|next to) (?:the |a )?river",
    },
    "eatType": {"coffee shop": r"coffee|caf[eé]", "pub": "pub", "restaurant": "restaurant"},
    "food": {
        "Chinese": "Chinese",
        "English": "English|British",
        "Fast food": "Fast[- ]food",
        "French": "French",
        "Indian": "Indian",
        "Italian": "Italian",
        "Japanese": "Japanese",
    },
    "priceRange": {
        "cheap": rf"cheap(?:ly)?|inexpensive(?:ly)?|affordabl[ey]|{_price('low')}",
        "less than £20": rf"(?:less than|under|below) (?:£ ?)?20|cheap|inexpensive|affordabl[ey]|{_price('low')}",
        "more than £30": rf"(?:more than|over|above) (?:£ ?)?30|expensive|{_price('high(?:er)?')}",
        "high": rf"expensive|pricey|{_price('high(?:er)?')}",
        "moderate": rf"moderate(?:ly)?|affordable|mid[- ]+range|{_price('(?:reasonabl[ey]|average|medium|mid)')}",
        "£20-25": rf"20 ?(?:-|–|to|and) ?£? ?25|{_price('(?:moderate|reasonabl[ey]|average|medium|mid)')}",
    },
    "customer rating": {
        "1 out of 5": rf"(?:1|one)[- ]+stars?|(?:1|one)(?: out)? (?:of|out) (?:5|five)|{_around('(?:low|bad|poor)')}",
        "3 out of 5": rf"(?:3|three)[- ]+stars?|(?:3|three)(?: out)? (?:of|out) (?:5|five)|{_around('average')}",
        "5 out of 5": rf"(?:5|five)[- ]+stars?|(?:5|five)(?: out)? (?:of|out) (?:5|five)|{_around('(?:high|excellent|great)')}",
        "low": rf"(?:1|one)[- ]+stars?|(?:1|one)(?: out)? of (?:5|five)|{_around('(?:low|bad|poor)')}",
        "average": rf"(?:3|three)[- ]+stars?|(?:3|three)(?: out)? of (?:5|five)|{_around('average')}",
        "high": rf"(?:5|five)[- ]+stars?|(?:5|five)(?: out)? of (?:5|five)|{_around('(?:high|excellent|great|well)')}",
    },
}
#: words that speak of an attribute at all, whatever its value: an invention where the prompt lacks it
_SPEAKS = {
    "area": "|".join(_SAID["area"].values()),
    "eatType": "coffee shop|pub",
    "food": "|".join(_SAID["food"].values()),
    "priceRange": r"cheap(?:ly)?|(?:in)?expensive|affordabl[ey]|pric(?:e[ds]?|ing)|pricey",
    "customer rating": rf"{_RATE}|out of (?:5|five)",
    "familyFriendly": rf"{_CHILD}|adults?",
    "near": r"near(?:by)? (?!the river|the city|the cent|a river)",
}
_NOT_FOR_CHILDREN = (
    rf"(?:isn't|aren't|doesn't|not|non|no|without)[- ]+(?:\w+[- ]+){{0,3}}{_CHILD}|{_CHILD}[- ]+(?:unfriendly|not\b)|adults?"
    rf"|{_CHILD} (?:are|is)(?:n't| not)"
)


def _search(pattern: str, text: str) -> bool:
    return re.search(rf"\b(?:{pattern})", text, re.IGNORECASE) is not None


def attributes(prompt: str) -> dict[str, str]:
    return {key.strip(): value for key, value in _ATTRIBUTE.findall(prompt)}


def restaurant_errors(prompt: str, text: str) -> list[str]:
    """Attributes that a text misses or says wrongly, and those that it invents. An empty text misses all."""
    asked = attributes(prompt)
    names = [asked[key] for key in ("name", "near") if key in asked]
    out = [f"missing {key}" for key in ("name", "near") if key in asked and not _has(text, asked[key])]
    rest = text
    for name in sorted(names, key=len, reverse=True):
        rest = re.sub(re.escape(name), "_", rest, flags=re.IGNORECASE)
    for key, said in _SAID.items():
        if key in asked:
            pattern = said.get(asked[key], re.escape(asked[key]))
            out += [] if _search(pattern + (r"\b" if key == "eatType" else ""), rest) else [f"missing {key}"]
    if "familyFriendly" in asked:
        against = _search(_NOT_FOR_CHILDREN, rest)
        wanted = asked["familyFriendly"].lower() == "no"
        if against != wanted or not (against or _search(_CHILD, rest)):
            out.append("missing familyFriendly")
    return out + [
        f"invented {key}" for key, said in _SPEAKS.items() if key not in asked and _search(said, rest)
    ]


def _has(text: str, value: str) -> bool:
    return value.lower() in text.lower()


def forced(rows: Iterable[Mapping[str, Any]], keys: Mapping[str, str]) -> dict[str, str | None]:
    """By input the specialist's own text, from the lines that `shoal eval --out` writes; `keys`: input by call id."""
    out: dict[str, str | None] = {}
    for row in rows:
        if (key := keys.get(row["id"])) is not None:
            raw = row.get("raw")
            out.setdefault(key, raw["content"] if raw else None)
    return out


def errors_listed(
    gold: Mapping[str, Gold], predictions: Mapping[str, str | None]
) -> list[tuple[str, str, Sequence[str]]]:
    """Inputs with slot errors, for people to look at: prompt, text, what is wrong."""
    rows = [(entry.text, predictions.get(key) or "") for key, entry in gold.items()]
    checked = [
        (prompt, text, (action_errors if prompt.startswith("{") else restaurant_errors)(prompt, text))
        for prompt, text in rows
    ]
    return [row for row in checked if row[2]]
