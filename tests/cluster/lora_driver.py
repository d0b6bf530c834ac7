"""A learning process that trains one small base on the site's Ray: `python lora_driver.py '{"home", "base", "out", "work", "workers", "steps"}'`.

Says each change of its progress, and at last `{"done": details}`, as JSON lines.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent / "unit" / "serve" / "engines"))

from small_bases import orders

from shoal.agents.learning.base_files import read_base
from shoal.agents.learning.bases import NodeRoom
from shoal.agents.learning.folder import seal
from shoal.agents.learning.lora import Rung, train_lora
from shoal.agents.learning.lora_executors import InProcess
from shoal.agents.learning.lora_job import LoraSettings
from shoal.agents.learning.training import Example, TrainContext
from shoal.agents.traces.chat import ChatRequest
from shoal.config import Config
from shoal.home import Home
from shoal.serve.training import training

NODES = (NodeRoom(name="here", tier="local", memory_mb=8_000),)


def ask(text: str) -> ChatRequest:
    said = [{"role": "system", "content": "You read orders."}, {"role": "user", "content": text}]
    return ChatRequest(body={"messages": said})


def examples(count: int, seed: int) -> list[Example]:
    return [
        Example(id=f"{seed}-{n}", request=ask(prompt), content=json.dumps(answer), group=f"{seed}-{n}")
        for n, (prompt, answer) in enumerate(orders(count, seed))
    ]


#: a number of calls that two workers cannot share evenly: the last batch of an epoch is one call
TRAIN, CHOOSE = examples(241, 1), examples(40, 2)


def main(job: dict[str, Any]) -> None:
    last = [""]

    def progress(fraction: float, text: str) -> None:
        if text != last[0]:
            last[0] = text
            print(json.dumps({"text": text}), flush=True)

    config = Config.model_validate({"learning": {"bases": [job["base"]], "workers": job["workers"]}})
    with training(Home(Path(job["home"])), config) as executor:
        base, folder = read_base(job["base"], allowed=("apache-2.0",))
        rung = Rung(
            base=base,
            folder=folder,
            nodes=NODES,
            settings=LoraSettings(epochs=0, min_steps=job["steps"]),
            executor=executor or InProcess(),
        )
        context = TrainContext(
            seed=3, seconds=300, work=Path(job["work"]), monotonic=time.monotonic, progress=progress
        )
        out = Path(job["out"])
        report = train_lora(TRAIN, CHOOSE[:16], out, context, rung=rung)
    seal(out, {"kind": report.kind})
    print(
        json.dumps({"done": {**report.details, "steps": report.steps, "cut": report.cut_by_clock}}),
        flush=True,
    )


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
