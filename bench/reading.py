"""The same Parquet, curated call by call: in one process with pyarrow's batches, as Shoal does, and with Ray Data on all cores.

The work is what each call of a log needs whatever comes after: its row parsed, and digests made for finding duplicates. `--home` is a data
folder with traces; without it one is made from traces/mixed_log.jsonl.gz. Ray's seconds are told with and without its start.
"""

from __future__ import annotations

import argparse
import os
import resource
import secrets
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
from _bench import Bench

_LOG = "traces/mixed_log.jsonl.gz"
_COLUMNS = ["id", "timestamp", "tags", "request", "response"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    parser.add_argument("--quick", action="store_true", help="accepted like everywhere; changes nothing")
    parser.add_argument("--home", type=Path, help="a data folder with traces")
    parser.add_argument("--data", type=Path, default=Path(__file__).parents[2] / "shared" / "data")
    arguments = parser.parse_args()
    bench = Bench("reading", arguments)
    log = Path(os.environ.get("SHOAL_BENCH_DATA", arguments.data)) / _LOG
    if arguments.home is None and not log.is_file():
        bench.skip(["pyarrow_calls_per_s", "ray_data_calls_per_s"], f"{log} is not there; see --data")
        return bench.finish()
    with tempfile.TemporaryDirectory(prefix="shoal-reading-") as folder:
        home = arguments.home or Path(folder)
        if arguments.home is None:
            command = [sys.executable, "-m", "shoal", "traces", "import", str(log), "--home", str(home)]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        traces = home / "traces"
        _with_pyarrow(bench, traces)
        _with_ray_data(bench, traces)
    return bench.finish()


def curated(rows: list[dict[str, Any]]) -> int:
    """Curate some rows; returns how many triples of words there were, so that both ways can be seen to do the same."""
    from shoal.agents.contract.loss import canonical_tool_calls
    from shoal.agents.curation.duplicates import Said
    from shoal.agents.traces.rows import trace_of

    triples = 0
    for row in rows:
        trace = trace_of(row)
        answer = trace.answer
        text = canonical_tool_calls(answer.tool_calls) if answer.tool_calls else answer.content or ""
        triples += len(Said.of(trace.chat, text).triples)
    return triples


def _with_pyarrow(bench: Bench, traces: Path) -> None:
    import pyarrow.dataset as ds

    started = time.monotonic()
    calls = triples = 0
    for batch in ds.dataset(_files(traces), format="parquet").to_batches(columns=_COLUMNS, batch_size=1024):
        rows = batch.to_pylist()
        calls += len(rows)
        triples += curated(rows)
    seconds = time.monotonic() - started
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    bench.figure("calls", calls, "calls")
    bench.figure("triples", triples, "word triples")
    bench.figure("pyarrow_s", seconds, "s")
    bench.figure("pyarrow_cpu_s", time.process_time(), "s of CPU, imports with it")
    bench.figure("pyarrow_peak_mb", peak_mb, "MB")
    bench.figure("pyarrow_calls_per_s", calls / seconds, "calls/s")


def _with_ray_data(bench: Bench, traces: Path) -> None:
    # read when Ray is imported; without a token of its own it would leave one in the home folder
    os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    import ray

    started = time.monotonic()
    # workers import this module and Shoal
    paths = os.pathsep.join([str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH", "")])])
    ray.init(
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        runtime_env={"env_vars": {"PYTHONPATH": paths}},
    )
    try:
        up = time.monotonic() - started
        ray.data.DataContext.get_current().enable_progress_bars = False
        data = ray.data.read_parquet(_files(traces), override_num_blocks=8).select_columns(_COLUMNS)
        found = data.map_batches(_curated_table, batch_format="pyarrow", batch_size=1024).to_pandas()
        seconds = time.monotonic() - started
        processes = psutil.Process().children(recursive=True)
        cpu_s = sum(sum(p.cpu_times()[:2]) for p in processes)
        memory_mb = sum(p.memory_info().rss for p in processes) / 2**20
    finally:
        ray.shutdown()
    calls = int(found["calls"].sum())
    bench.figure("ray_data_triples", int(found["triples"].sum()), "word triples")
    bench.figure("ray_start_s", up, "s")
    bench.figure("ray_data_s", seconds - up, "s, without Ray's start")
    bench.figure("ray_data_cpu_s", cpu_s, "s of CPU, Ray's own processes with it")
    bench.figure("ray_data_memory_mb", memory_mb, "MB (RSS) at the end, without the driver")
    bench.figure("ray_data_calls_per_s", calls / (seconds - up), "calls/s")


def _curated_table(table: Any) -> dict[str, list[int]]:
    return {"calls": [table.num_rows], "triples": [curated(table.to_pylist())]}


def _files(traces: Path) -> list[str]:
    return sorted(str(path) for path in traces.glob("part-*.parquet"))


if __name__ == "__main__":
    sys.exit(main())
