"""`shoal demo`: the whole story on this machine, start to end. Tells it; the story itself is `examples/sales_report/run.py`."""

from __future__ import annotations

import shutil
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.markup import escape
from rich.table import Table

from shoal.agents.plans.drawing import draw_run
from shoal.commands._shared import (
    EXIT_STOPPED,
    HomeOption,
    JsonOption,
    err,
    out,
    print_json,
    progress_bar,
)
from shoal.commands.placement import show_placement
from shoal.config import Config, GeneralistConfig, parse_config
from shoal.errors import ShoalError, UsageError
from shoal.home import Home

app = typer.Typer(help="The whole story on this machine, start to end.")

#: minutes that learning may take of the demo's few
_LEARN_MIN = 2.0
_WIDTH = 80


@app.command("demo")
def demo(
    generalist: Annotated[
        str | None,
        typer.Option(
            "--generalist",
            metavar="URL",
            help="OpenAI-compatible endpoint of a real model (else a stand-in answers).",
        ),
    ] = None,
    model: Annotated[str | None, typer.Option("--model", metavar="NAME", help="Its name there.")] = None,
    api_key_env: Annotated[
        str | None,
        typer.Option(
            "--api-key-env", metavar="NAME", help="The environment variable with the real model's key."
        ),
    ] = None,
    price: Annotated[
        tuple[float, float] | None,
        typer.Option(
            "--price", metavar="IN OUT", help="The real model's price, USD per million tokens in and out."
        ),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", metavar="N", help="Other records, other wording.")] = 0,
    keep: Annotated[
        bool, typer.Option("--keep", help="Keep the demo's data folder to look around in.")
    ] = False,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """An agent's questions come in, its tasks are found, specialists trained, and the next questions done by them on three tiers.

    Without --generalist a stand-in answers for the large model, and every output says so.
    """
    from shoal.examples.sales_report.rounds import Scale
    from shoal.examples.sales_report.run import run_demo, stand_in

    real = _real_generalist(generalist, model, api_key_env, price)
    folder, is_own = _folder(home)
    keeps = keep or not is_own
    teller = _Teller()
    if real is not None:
        teller.say(
            f"The demo trains small models on the answers of {real.model}: check that its terms allow it."
        )
    scale = Scale(seed=seed)
    try:
        with ExitStack() as stack:
            stack.enter_context(_terminable())
            answering = stack.enter_context(nullcontext(real) if real is not None else stand_in(scale))
            if real is None:
                teller.say(
                    f"The generalist is a stand-in, {answering.model}: fixed rules and templates in a process of its "
                    f"own, no language model. Its latency ({scale.latency_ms:.0f} ms and some) is waited, its price "
                    f"({answering.price_in:.2f}/{answering.price_out:.2f} USD per million tokens) only stated."
                )
            result = run_demo(folder, answering, scale=scale, teller=teller, learn=_learn)
        page = folder.root / "report.html" if keeps else folder.root.with_suffix(".html")
        _write_report(folder, page)
    except KeyboardInterrupt:
        _stopped(folder, keeps)
    except ShoalError:
        err.print(f"What there is so far is kept in {folder.root}", highlight=False, soft_wrap=True)
        raise
    if not keeps:
        shutil.rmtree(folder.root, ignore_errors=True)
    result = {**result, "home": str(folder.root) if keeps else None, "report": str(page)}
    if as_json:
        print_json(result)
    else:
        tell_result(result)
    if has_failed(result):
        raise typer.Exit(1)


def has_failed(result: Mapping[str, Any]) -> bool:
    """Whether the demo went wrong. What is promised holds for the stand-in; a real model may agree less with itself."""
    if any(found["failed"] for found in result["rounds"]):
        return True
    if result["generalist"]["stand_in"]:
        return bool(result["broken_promises"])
    return not any(step["specialist_calls"] for step in result["quality"].values())


def _real_generalist(
    url: str | None, model: str | None, api_key_env: str | None, price: tuple[float, float] | None
) -> GeneralistConfig | None:
    """The real model that the command line names; None for the stand-in."""
    if url is None and model is None:
        for option, value in (("--api-key-env", api_key_env), ("--price", price)):
            if value is not None:
                raise UsageError(
                    f"{option} goes with a real model.",
                    remedy="Add --generalist URL --model NAME.",
                    param=option,
                )
        return None
    if url is None or model is None:
        missing = "--model NAME" if model is None else "--generalist URL"
        raise UsageError("--generalist and --model belong together.", remedy=f"Add {missing}.", param=missing)
    data: dict[str, Any] = {"base_url": url, "model": model, "outputs_may_train": True}
    if api_key_env is not None:
        data["api_key_env"] = api_key_env
    if price is not None:
        data["price_in"], data["price_out"] = price
    config = parse_config({"generalist": data}, source="command line").generalist
    if config is not None:
        config.api_key()
    return config


def _folder(explicit: Path | None) -> tuple[Home, bool]:
    """The demo's data folder, and whether it is the demo's own to remove."""
    if explicit is None:
        return Home(Path(tempfile.mkdtemp(prefix="shoal-demo-"))), True
    root = explicit.expanduser().absolute()
    if root.is_dir() and any(root.iterdir()):
        raise UsageError(
            f"The demo wants a data folder of its own, and {root} is not empty.",
            remedy="Name a new folder with --home, or leave --home out.",
            param="--home",
        )
    return Home(root), False


def _learn(home: Home, config: Config) -> Mapping[str, Any]:
    from shoal.commands._learning import run_learn

    return run_learn(
        home, config, tasks=None, time_limit_min=_LEARN_MIN, seed=config.learning.seed, force=False
    )


def _write_report(home: Home, page: Path) -> None:
    from shoal.agents.feedback.accounts import price_of
    from shoal.agents.feedback.audit_view import audit_of
    from shoal.agents.feedback.expenses import SqlExpenses
    from shoal.commands._stores import open_registry, open_traces
    from shoal.config import load_config
    from shoal.serve.engines import load
    from shoal.serve.report import write_report

    config = load_config(home.config)
    registry = open_registry(home)
    try:
        write_report(
            home,
            registry,
            open_traces(home, config),
            page,
            price=price_of(config),
            config=config,
            expenses=SqlExpenses(registry.database).all(),
            load=lambda version: load(home.models / version.folder, version.sha256),
            audit=lambda version: audit_of(version, registry.evidence(version.key)),
        )
    finally:
        registry.close()


def _stopped(home: Home, keeps: bool) -> NoReturn:
    """Ends a demo that the user stopped; the site and the stand-in are stopped already."""
    if keeps:
        err.print(f"stopped; what was finished is kept in {home.root}", highlight=False, soft_wrap=True)
    else:
        shutil.rmtree(home.root, ignore_errors=True)
        err.print("stopped; nothing of the demo is left running or lying about")
    raise typer.Exit(EXIT_STOPPED)


@contextmanager
def _terminable() -> Iterator[None]:
    """A plain `kill` cleans up as Ctrl-C does."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: object) -> NoReturn:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class _Teller:
    """Tells the story on standard error: bars on a terminal, lines elsewhere."""

    def say(self, text: str) -> None:
        err.print(escape(text), highlight=False, width=_WIDTH)

    @contextmanager
    def bar(self, text: str, total: int) -> Iterator[Callable[[], None]]:
        if not err.is_terminal:
            err.print(f"{total:,} {escape(text)}", highlight=False, soft_wrap=True)
        with progress_bar() as progress:
            task = progress.add_task(escape(text), total=total)
            yield lambda: progress.advance(task)

    @contextmanager
    def wait(self, text: str) -> Iterator[Callable[[str], None]]:
        if not err.is_terminal:
            err.print(escape(text), highlight=False, soft_wrap=True)
            yield lambda told: None
            return
        with err.status(escape(text)) as status:
            yield lambda told: status.update(escape(told))


def tell_result(result: Mapping[str, Any]) -> None:
    """Before and after by step, where each ran, a run drawn, the placement, what was promised, and where to look next."""
    generalist = result["generalist"]
    who = f"{generalist['model']} (a stand-in)" if generalist["stand_in"] else generalist["model"]
    before, after = result["rounds"]
    out.print()
    out.print(
        f"Before: {before['questions']} questions, {before['concurrency']} at once, by the generalist. "
        f"After: {after['questions']} unseen ones, {after['concurrency']} at once.",
        highlight=False,
        width=_WIDTH,
    )
    out.print(_steps_table(result))
    out.print(
        "* of what specialists answered; plan, analyse: the same JSON as the generalist's; write: name, growth, driver, "
        "direction and language as in the record. + tiers, with calls; the cloud and edge nodes are simulated on this machine.",
        highlight=False,
        width=_WIDTH,
    )
    out.print(
        f"A question took {_number(before['answer_p50_ms'])} ms before and {_number(after['answer_p50_ms'])} ms after (p50; "
        f"p95 {_number(before['answer_p95_ms'])} and {_number(after['answer_p95_ms'])}); 1,000 questions cost "
        f"{_number(before['cost_usd_per_1000'], 2)} USD before and {_number(after['cost_usd_per_1000'], 2)} after.",
        highlight=False,
        width=_WIDTH,
    )
    stated = generalist["stated_price_usd_per_million_tokens"]
    price = "unknown" if stated is None else f"{stated['in']:.2f}/{stated['out']:.2f} USD per million tokens"
    kind = "stated price" if generalist["stand_in"] else "price"
    out.print(
        f"Generalist: {escape(who)}; {kind} {price}. A specialist runs here and has no price per token.",
        highlight=False,
        width=_WIDTH,
    )
    example = result["example"]
    if example is not None:
        out.print()
        out.print("One of the unseen questions", style="bold")
        out.print(escape(str(example["input"]["question"])), highlight=False, width=_WIDTH)
        out.print(escape(draw_run(example, _WIDTH)), highlight=False, soft_wrap=True)
        for line in example["output"] or ():
            out.print(f"  {escape(str(line))}", highlight=False, width=_WIDTH)
    if result["placement"] is not None:
        out.print()
        out.print("The placement", style="bold")
        show_placement(result["placement"])
    _tell_end(result)


def _steps_table(result: Mapping[str, Any]) -> Table:
    before, after = (found["steps"] for found in result["rounds"])
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name, right in (
        ("STEP", False),
        ("CALLS", True),
        ("SPECIALISTS", True),
        ("RIGHT*", True),
        ("RAN ON+", False),
        ("P50 MS", True),
        ("P95 MS", True),
        ("USD/1,000", True),
    ):
        table.add_column(name, justify="right" if right else "left", no_wrap=name != "RAN ON+")
    for step in after:
        was, now = before[step], after[step]
        quality = result["quality"].get(step, {})
        right = quality.get("true", quality.get("agreement"))
        tiers = "\n".join(f"{tier} {count}" for tier, count in now["tiers"].items())
        table.add_row(
            step,
            f"{now['calls']}",
            "a tool" if now["specialist_share"] is None else _share(now["specialist_share"]),
            "" if step == "query" else _share(right),
            tiers,
            f"{_number(was['latency_p50_ms'])}→{_number(now['latency_p50_ms'])}",
            f"{_number(was['latency_p95_ms'])}→{_number(now['latency_p95_ms'])}",
            ""
            if now["cost_usd_per_1000"] is None
            else f"{_number(was['cost_usd_per_1000'], 2)}→{_number(now['cost_usd_per_1000'], 2)}",
        )
    return table


def _tell_end(result: Mapping[str, Any]) -> None:
    out.print()
    parts = ", ".join(f"{name} {value:.0f}" for name, value in result["seconds"].items() if name != "total")
    out.print(f"{result['seconds']['total']:.0f} s in all: {parts}.", highlight=False, width=_WIDTH)
    for text in (*result["broken_promises"], *result["errors"]):
        out.print(f"[bold red]not as promised:[/] {escape(text)}", highlight=False, width=_WIDTH)
    out.print()
    out.print("Where to look next", style="bold")
    out.print(f"  the report      {escape(result['report'])}", highlight=False, soft_wrap=True)
    home = result["home"]
    if home is not None:
        for text, command in (
            ("the tasks", "shoal tasks ls"),
            ("the evidence", "shoal specialists ls"),
            ("the runs", "shoal plans ls"),
            ("the calls", "shoal traces stats"),
        ):
            out.print(f"  {text:<16}{command} --home {escape(home)}", highlight=False, soft_wrap=True)
    else:
        out.print(
            "  look around in  shoal demo --keep   (this run's data folder is removed)", highlight=False
        )
    out.print("  your own log    shoal traces import FILE && shoal learn && shoal report", highlight=False)
    out.print("  your own model  shoal up --generalist URL --model NAME", highlight=False)


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}" if 0 < value < 1 else f"{value:.0%}"


def _number(value: float | None, digits: int = 0) -> str:
    return "-" if value is None else f"{value:,.{digits}f}"
