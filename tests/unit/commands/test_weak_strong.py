from __future__ import annotations

import csv
import gzip
import io
import json
import random
from pathlib import Path

import pytest

from shoal.cli import main
from shoal.commands._weak_strong import read_weak_strong, run_weak_strong
from shoal.errors import DataError, UsageError


def _rows(count: int = 120) -> list[dict[str, str]]:
    draw = random.Random(1)
    rows = []
    for n in range(count):
        hard = draw.random() < 0.5
        rows.append(
            {
                "prompt": f'Sum {n}, "with" a comma\u2028and {"half" if hard else "all"} of it?',
                "small": str(draw.random() > (0.9 if hard else 0.1)),
                "large": str(draw.random() < 0.95),
                "answer": "4\nlines",
            }
        )
    return rows


def _csv(path: Path, rows: list[dict[str, str]]) -> Path:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    path.write_bytes(gzip.compress(text.getvalue().encode("utf-8")))
    return path


def test_csv_and_json_lines_read_alike_and_columns_are_found(tmp_path: Path) -> None:
    rows = _rows()
    lines = tmp_path / "r.jsonl"
    as_bools = [{k: v == "True" if v in ("True", "False") else v for k, v in row.items()} for row in rows]
    lines.write_text("\n".join(json.dumps(r, ensure_ascii=False) for r in as_bools), encoding="utf-8")
    packed = _csv(tmp_path / "r.csv.gz", rows)
    found = read_weak_strong(packed, prompt="prompt", weak=None, strong=None)
    assert found == read_weak_strong(lines, prompt="prompt", weak=None, strong=None)
    prompts, weak, _, strong, strong_right = found
    assert (weak, strong, len(prompts)) == ("small", "large", 120)
    assert strong_right == [row["large"] == "True" for row in rows]


def test_a_router_is_compared_with_all_floors(tmp_path: Path) -> None:
    found = run_weak_strong(
        _csv(tmp_path / "r.csv.gz", _rows()), prompt="prompt", weak=None, strong=None, seed=0
    )
    routers = found["routers"]
    assert list(routers) == ["shoal", "tfidf", "length", "random", "oracle"]
    assert routers["random"] == {"apgr": 0.5, "cpt50": 0.5, "cpt80": pytest.approx(0.8)}
    assert 0.65 < routers["shoal"]["apgr"] < routers["oracle"]["apgr"]
    assert found["gains"]["length"]["low"] > 0, "the word tells, and length does not"


def test_the_command_prints_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = _csv(tmp_path / "r.csv.gz", _rows())
    with pytest.raises(SystemExit) as stop:
        main(["eval", str(file), "--weak-strong"])
    page = capsys.readouterr().out
    assert not stop.value.code
    assert "CPT(80%)" in page and "oracle" in page
    assert max(map(len, page.splitlines())) <= 80


def test_what_is_wrong_with_a_file_is_said(tmp_path: Path) -> None:
    file = _csv(tmp_path / "r.csv.gz", _rows())
    with pytest.raises(UsageError, match="no column 'text'"):
        read_weak_strong(file, prompt="text", weak=None, strong=None)
    with pytest.raises(UsageError, match="row 1: 'answer' must say right or wrong"):
        read_weak_strong(file, prompt="prompt", weak="answer", strong="large")
    third = _csv(tmp_path / "3.csv.gz", [{**row, "other": "1"} for row in _rows()])
    with pytest.raises(UsageError, match="one is needed for each model"):
        read_weak_strong(third, prompt="prompt", weak=None, strong=None)
    assert read_weak_strong(third, prompt="prompt", weak="small", strong="large")[1] == "small"
    with pytest.raises(DataError, match="more often than the weak one"):
        run_weak_strong(file, prompt="prompt", weak="large", strong="small", seed=0)
    (tmp_path / "x.csv").write_bytes(b"\x1f\x8bbroken")
    with pytest.raises(UsageError, match="cannot be read"):
        read_weak_strong(tmp_path / "x.csv", prompt="prompt", weak=None, strong=None)
