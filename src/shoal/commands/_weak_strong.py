"""`shoal eval --weak-strong`: what a router between a weak and a strong model is worth, learnt from which of them was right."""

from __future__ import annotations

import csv
import gzip
import io
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from shoal.commands._shared import out
from shoal.errors import DataError, UsageError

#: what stands for right and wrong, in any case
_RIGHT = {"true": True, "1": True, "1.0": True, "yes": True, "right": True, "correct": True}
_WRONG = {"false": False, "0": False, "0.0": False, "no": False, "wrong": False, "incorrect": False}
_WORDS = {**_RIGHT, **_WRONG}
#: how much of the gap CPT is given for
_RECOVERED = (0.5, 0.8)
#: a cell may hold a whole answer
_MOST_CHARS = 1 << 24


def run_weak_strong(
    file: Path, *, prompt: str, weak: str | None, strong: str | None, seed: int
) -> dict[str, Any]:
    """Read the file, cross-validate a router, and compare it with drawing lots, an oracle, the prompt's length and TF-IDF.

    Args:
        weak, strong: columns; found by themselves where just two columns hold right and wrong, the weak model's the one that is right
            less often.

    Raises:
        UsageError: the file cannot be read, or has no such columns.
        DataError: there is no gap between the models, or there are too few prompts.
    """
    prompts, weak_name, weak_right, strong_name, strong_right = read_weak_strong(
        file, prompt=prompt, weak=weak, strong=strong
    )
    from shoal.agents.contract.weak_strong import Outcomes, apgr_gain, curve, oracle_curve, random_curve
    from shoal.agents.learning.weak_strong_router import cross_validate

    try:
        outcomes = Outcomes.of(weak_right, strong_right)
        scored = cross_validate(prompts, outcomes, seed=seed)
    except ValueError as error:
        raise DataError(f"{file}: {error}", remedy="Check the columns and the number of prompts.") from error
    curves = {
        "shoal": curve(outcomes, scored.router),
        "tfidf": curve(outcomes, scored.tfidf),
        "length": curve(outcomes, scored.length),
        "random": random_curve(),
        "oracle": oracle_curve(outcomes),
    }
    return {
        "file": str(file),
        "prompts": len(prompts),
        "weak": {"column": weak_name, "right": float(outcomes.weak.mean())},
        "strong": {"column": strong_name, "right": float(outcomes.strong.mean())},
        "seed": seed,
        "routers": {
            name: {"apgr": c.apgr, **{f"cpt{int(100 * share)}": c.cpt(share) for share in _RECOVERED}}
            for name, c in curves.items()
        },
        "gains": {
            rival: asdict(apgr_gain(outcomes, scored.router, scores, seed=seed))
            for rival, scores in (("tfidf", scored.tfidf), ("length", scored.length))
        },
        "settings": [asdict(setting) for setting in scored.chosen],
    }


def show_weak_strong(found: Mapping[str, Any]) -> None:
    """For people."""
    weak, strong = found["weak"], found["strong"]
    out.print(f"{found['prompts']:,} prompts", highlight=False)
    for which, model in (("weak", weak), ("strong", strong)):
        out.print(f"{which}: {escape(model['column'])}, right {model['right']:.1%}", highlight=False)
    table = Table(box=None, pad_edge=False)
    table.add_column("router")
    for heading in ("APGR", "CPT(50%)", "CPT(80%)"):
        table.add_column(heading, justify="right")
    names = {
        "shoal": "learnt here, 5-fold",
        "tfidf": "TF-IDF, logistic",
        "length": "prompt's length",
        "random": "drawing lots",
        "oracle": "oracle",
    }
    for key, name in names.items():
        row = found["routers"][key]
        table.add_row(name, f"{row['apgr']:.3f}", f"{row['cpt50']:.1%}", f"{row['cpt80']:.1%}")
    out.print(table)
    for rival, gain in found["gains"].items():
        out.print(
            f"APGR above {names[rival]}: {gain['value']:+.3f} (95% {gain['low']:+.3f} to {gain['high']:+.3f})",
            highlight=False,
        )
    out.print(
        "APGR: area under the share of the quality gap that is recovered, over the\n"
        "share of calls that go to the strong model. CPT(x): share of strong calls at\n"
        "which x of the gap is recovered. After RouteLLM (arXiv 2406.18665).",
        highlight=False,
        style="dim",
    )


def read_weak_strong(
    file: Path, *, prompt: str, weak: str | None, strong: str | None
) -> tuple[list[str], str, list[bool], str, list[bool]]:
    """Prompts, the weak model's column and whether it was right, and the same of the strong one's. Raises UsageError."""
    rows = _rows(file)
    columns = list(rows[0]) if rows else []
    if prompt not in columns:
        raise UsageError(
            f"{file} has no column {prompt!r}, but {', '.join(columns[:8]) or 'no rows'}.",
            remedy="Name the prompts' column with --prompt.",
            param="--prompt",
        )
    if weak is None or strong is None:
        weak, strong = _guess(
            file, rows, [c for c in columns if c not in (prompt, weak, strong)], weak, strong
        )
    return (
        [str(row.get(prompt) or "") for row in rows],
        weak,
        _verdicts(file, rows, weak, "--weak"),
        strong,
        _verdicts(file, rows, strong, "--strong"),
    )


def _guess(
    file: Path, rows: Sequence[Mapping[str, Any]], others: Sequence[str], weak: str | None, strong: str | None
) -> tuple[str, str]:
    found = [c for c in others if all(_word(row.get(c)) in _WORDS for row in rows)]
    if len(found) != 2 - sum(name is not None for name in (weak, strong)):
        raise UsageError(
            f"{file}: columns that hold right and wrong: {', '.join(found) or 'none'}; one is needed for each model.",
            remedy="Name them with --weak and --strong.",
            param="--weak",
        )
    if weak is not None:
        return weak, found[0]
    if strong is not None:
        return found[0], strong
    first, second = (sum(_WORDS[_word(row[c])] for row in rows) for c in found)
    return (found[0], found[1]) if first <= second else (found[1], found[0])


def _verdicts(file: Path, rows: Sequence[Mapping[str, Any]], column: str, param: str) -> list[bool]:
    out = []
    for number, row in enumerate(rows, start=1):
        word = _word(row.get(column))
        if word not in _WORDS:
            raise UsageError(
                f"{file}, row {number}: {column!r} must say right or wrong, got {row.get(column)!r}.",
                remedy="Write true or false, or 1 or 0.",
                param=param,
            )
        out.append(_WORDS[word])
    return out


def _word(value: object) -> str:
    return str(value).strip().lower()


def _rows(file: Path) -> list[dict[str, Any]]:
    """Of CSV with a heading, or JSON Lines, plain or gzipped."""
    try:
        data = file.read_bytes()
        text = (gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data).decode("utf-8-sig")
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise UsageError(
            f"{file} cannot be read: {error}.", remedy="Name a CSV or JSON Lines file."
        ) from error
    try:
        if text.lstrip().startswith("{"):
            return [dict(json.loads(line)) for line in text.split("\n") if line.strip()]
        csv.field_size_limit(_MOST_CHARS)
        return list(csv.DictReader(io.StringIO(text, newline="")))
    except (ValueError, TypeError, csv.Error) as error:
        raise UsageError(
            f"{file} is neither CSV nor JSON Lines: {error}.", remedy="Mend the file."
        ) from error
