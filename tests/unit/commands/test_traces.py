from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from shoal.cli import build_app
from shoal.commands import _shared
from shoal.home import Home
from shoal.nodes.site_key import load_or_create_key
from shoal.nodes.spool import SpoolWriter


class Shell:
    """Runs `shoal` in this process and catches what it writes."""

    def __init__(self, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.home = home
        self._capsys = capsys
        self.out = self.err = ""

    def __call__(self, *words: str) -> int:
        self._capsys.readouterr()
        code = _shared.run_app(build_app(words[0]), [*words, "--home", str(self.home)])
        self.out, self.err = self._capsys.readouterr()
        return code

    def json(self, *words: str) -> Any:
        assert self(*words, "--json") == 0, self.err
        return json.loads(self.out)


@pytest.fixture
def shoal(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Shell:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    return Shell(tmp_path / "home", capsys)


def call(name: str, at: float, client: str = "bank", text: str = "hi eve@x.org") -> dict[str, Any]:
    return {
        "id": name,
        "timestamp": at,
        "client_id": client,
        "request": {"model": "m", "messages": [{"role": "user", "content": text}]},
        "response": {
            "choices": [{"message": {"role": "assistant", "content": "yes"}, "finish_reason": "stop"}]
        },
    }


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "log.jsonl"
    lines = [json.dumps(call("a", 1)), "{broken", json.dumps(call("b", 86_400 * 365, "shop"))]
    path.write_text("\n".join(lines))
    return path


def test_import_names_what_it_skips_and_keeps_the_rest(shoal: Shell, log: Path) -> None:
    assert shoal("traces", "import", str(log)) == 0
    assert "2 calls imported, 1 skipped" in shoal.out
    assert "log.jsonl:2: it is not JSON" in shoal.err
    found = shoal.json("traces", "import", str(log))
    assert (found["kept"], found["duplicates"], found["skipped"], found["calls"]) == (2, 2, 1, 2)
    assert found["faults"] == [
        {
            "file": str(log),
            "line": 2,
            "reason": "it is not JSON: Expecting property name enclosed in double quotes (column 2)",
        }
    ]
    assert found["pseudonymised"] == {"email": 2}


def test_import_strict_fails_and_stores_nothing(shoal: Shell, log: Path) -> None:
    assert shoal("traces", "import", "--strict", str(log)) == 1
    assert "line 2" in shoal.err
    assert shoal.json("traces", "stats")["calls"] == 0


def test_import_of_nothing_but_broken_lines_fails(shoal: Shell, tmp_path: Path) -> None:
    (tmp_path / "bad").write_text("{\n{\n")
    assert shoal("traces", "import", str(tmp_path / "bad"), "--json") == 1
    assert json.loads(shoal.out)["skipped"] == 2


@pytest.mark.parametrize(
    "words",
    [
        ["import", "nope"],
        ["import", "."],
        ["import", "log.jsonl", "--format", "x"],
        ["delete"],
        ["delete", "--before", "soon"],
    ],
)
def test_wrong_usage_is_exit_code_2(shoal: Shell, log: Path, words: list[str]) -> None:
    shoal.home.mkdir()
    assert shoal("traces", *words) == 2
    assert "Traceback" not in shoal.err


def test_a_home_that_is_not_there_is_wrong_usage(shoal: Shell) -> None:
    for words in (["ls"], ["stats"], ["show", "x"], ["export", "--out", "x"], ["delete", "--id", "x"]):
        assert shoal("traces", *words) == 2
        assert not shoal.home.exists()


def test_ls_show_and_stats(shoal: Shell, log: Path) -> None:
    shoal("traces", "import", str(log))
    assert [t["id"] for t in shoal.json("traces", "ls")["traces"]] == ["b", "a"]
    assert [t["id"] for t in shoal.json("traces", "ls", "--client", "bank")["traces"]] == ["a"]
    assert shoal.json("traces", "show", "a")["request"]["messages"][0]["content"] == "hi <EMAIL_1>"
    stats = shoal.json("traces", "stats")
    assert (stats["calls"], stats["clients"]) == (2, {"bank": 1, "shop": 1})
    for words in (["ls"], ["show", "a"], ["stats"]):
        assert shoal("traces", *words) == 0
        assert max(map(len, shoal.out.splitlines())) <= 80
    assert shoal("traces", "show", "nobody") == 1


def test_delete_by_id_client_and_time(shoal: Shell, log: Path) -> None:
    shoal("traces", "import", str(log))
    assert shoal("traces", "delete", "--id", "nobody", "--json") == 1
    assert json.loads(shoal.out)["error"]["code"] == "not_found"
    assert shoal.json("traces", "delete", "--before", "1970-06-01") == {"deleted": 1, "calls": 1}
    assert shoal.json("traces", "delete", "--client", "shop") == {"deleted": 1, "calls": 0}


@pytest.mark.parametrize("name", ["out.jsonl", "out.jsonl.gz"])
def test_an_export_can_be_imported_again(shoal: Shell, log: Path, tmp_path: Path, name: str) -> None:
    shoal("traces", "import", str(log))
    assert shoal.json("traces", "export", "--out", name)["calls"] == 2
    raw = (tmp_path / name).read_bytes()
    lines = (gzip.decompress(raw) if name.endswith(".gz") else raw).splitlines()
    assert json.loads(lines[0]) == {**call("a", 1.0, text="hi <EMAIL_1>"), "privacy": "internal"}
    found = shoal.json("traces", "import", name)
    assert (found["kept"], found["duplicates"], found["calls"]) == (2, 2, 2)
    assert shoal("traces", "export", "--out", "no/such/folder") == 2
    assert sorted(p.name for p in tmp_path.iterdir()) == ["home", "log.jsonl", name]


def test_captured_calls_are_readable_without_a_site(shoal: Shell) -> None:
    home = Home(shoal.home).create()
    with SpoolWriter(home.spool, load_or_create_key(home.key), writer_id="gateway") as spool:
        spool.append(call("captured", 5))
        assert [t["id"] for t in shoal.json("traces", "ls")["traces"]] == ["captured"]
        assert shoal.json("traces", "delete", "--client", "bank") == {"deleted": 1, "calls": 0}
    assert shoal.json("traces", "stats")["calls"] == 0


def test_a_key_is_shown_once_listed_and_revoked(shoal: Shell) -> None:
    made = shoal.json("keys", "create", "agent", "--scope", "chat", "--rate", "60", "--budget", "2.5")
    assert made["key"].startswith("sk-shoal-")
    (listed,) = shoal.json("keys", "ls")["keys"]
    assert listed["id"] == made["id"]
    assert "key" not in listed and "sha256" not in listed
    assert shoal("keys", "ls") == 0
    assert max(map(len, shoal.out.splitlines())) <= 80
    assert shoal.json("keys", "revoke", made["id"]) == {"revoked": made["id"]}
    assert shoal("keys", "revoke", "nobody") == 1
    assert shoal("keys", "create", "--scope", "fly") == 2
