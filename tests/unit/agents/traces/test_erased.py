from pathlib import Path

import numpy as np

from shoal.agents.learning.learnt_calls import read_learnt_calls, write_learnt_calls
from shoal.agents.traces.erased import count_erased, read_erased
from shoal.agents.traces.store import ParquetTraceStore
from shoal.agents.traces.trace import Trace, TraceId
from shoal.home import Home


def trace(name: str, at: float = 0.0) -> Trace:
    return Trace(
        id=TraceId(name),
        request={"model": "m", "messages": [{"role": "user", "content": f"I am {name}"}]},
        response={"model": "m", "choices": [{"message": {"role": "assistant", "content": "yes"}}]},
        timestamp=at,
    )


def test_erased_calls_are_known_by_digest_alone(tmp_path: Path) -> None:
    store = ParquetTraceStore(Home(tmp_path / "home").create())
    store.add([trace(f"call-{n}", float(n)) for n in range(10)])
    assert store.erase(ids=["call-3", "nobody"], before=2.0) == {"call-0", "call-1", "call-3"}
    assert store.erased(["call-0", "call-3", "call-4", "nobody"]) == {"call-0", "call-3"}
    for path in (tmp_path / "home").rglob("*"):
        assert not path.is_file() or b"call-3" not in path.read_bytes()


def test_a_call_that_its_owner_imports_again_is_no_longer_erased(tmp_path: Path) -> None:
    store = ParquetTraceStore(Home(tmp_path / "home").create())
    store.add([trace("a"), trace("b")])
    store.erase(ids=["a", "b"])
    store.add([trace("a")])
    assert store.erased(["a", "b"]) == {"b"}


def test_a_version_knows_how_many_of_its_calls_were_erased(tmp_path: Path) -> None:
    home = Home(tmp_path / "home").create()
    store = ParquetTraceStore(home)
    store.add([trace(f"c{n}") for n in range(6)])
    folder = tmp_path / "model"
    folder.mkdir()
    write_learnt_calls(folder, ["c1", "c2", "c3", "c3"])
    assert count_erased(read_learnt_calls(folder), read_erased(home.traces)) == 0
    store.erase(ids=["c0", "c2", "c3"])
    assert count_erased(read_learnt_calls(folder), read_erased(home.traces)) == 2


def test_a_folder_from_before_learnt_calls_were_kept_claims_nothing(tmp_path: Path) -> None:
    assert read_learnt_calls(tmp_path).tolist() == np.empty(0, np.uint64).tolist()
