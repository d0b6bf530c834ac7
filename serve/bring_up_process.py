"""The start-up program from outside: given a job, followed line by line. What it does is in `bring_up.py`; this loads no Ray."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from typing import Any

from shoal.errors import SiteError
from shoal.home import Home

_TIMEOUT_S = 240

#: told what is being done, for people
Step = Callable[[str], None]


def run_bring_up(
    job: Mapping[str, Any], environment: Mapping[str, str], home: Home, on_step: Step
) -> dict[str, Any]:
    """Run `bring_up` on a job and follow its lines, the steps that it takes among them. Its standard error goes to the log.

    Returns what it says was done.

    Raises:
        SiteError: it says why it could not, or ended without an answer.
    """
    log = home.logs / "bring-up.log"
    answer: dict[str, Any] = {}
    with log.open("wb") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "shoal.serve.bring_up"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            env=dict(environment),
            text=True,
        )
        watchdog = threading.Timer(_TIMEOUT_S, process.kill)
        watchdog.start()
        try:
            if process.stdin is None or process.stdout is None:
                raise SiteError("The pipes to the start-up program are missing.")
            with process.stdin as pipe:
                json.dump(job, pipe, default=str)
            for line in process.stdout:
                answer.update(_read_line(line, on_step))
            process.wait()
        except BaseException:
            process.kill()
            process.wait()
            raise
        finally:
            watchdog.cancel()
    if "error" in answer:
        raise SiteError(answer["error"]["message"], remedy=answer["error"]["remedy"])
    if "done" not in answer:
        raise SiteError(
            f"The start-up program ended without an answer (exit code {process.returncode}).",
            remedy=f"See {log}.",
        )
    done: dict[str, Any] = answer["done"]
    return done


def _read_line(line: str, on_step: Step) -> dict[str, Any]:
    try:
        said = json.loads(line)
    except ValueError:
        return {}  # a library that prints
    if not isinstance(said, dict):
        return {}
    if "step" in said:
        on_step(str(said["step"]))
    return {name: said[name] for name in ("done", "error") if name in said}
