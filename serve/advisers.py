"""Whom a learning run may ask about held-out calls, made from the configuration: the generalist again, and a judge model."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace

from shoal.agents.contract.break_even import Price
from shoal.agents.learning.second_opinions import Adviser, SecondOpinions
from shoal.agents.ports import Generalist
from shoal.config import Config, GeneralistConfig, JudgeConfig
from shoal.errors import ConfigError
from shoal.serve.generalist import OpenAIGeneralist


def second_opinions(config: Config, *, ask_twice: int | None = None) -> SecondOpinions:
    """What `learning.ask_twice` (or `ask_twice`, which overrules it) and `judge` ask for.

    Raises:
        ConfigError: the generalist is to be asked twice and none is configured, or a key is not set.
    """
    count = config.learning.ask_twice if ask_twice is None else ask_twice
    again = judge = loss = None
    if count:
        if config.generalist is None:
            raise ConfigError(
                f"The generalist is to be asked again for {count} prompts of each task, and none is configured.",
                remedy="Name it under `generalist` in shoal.yaml, or leave out --ask-twice.",
                param="generalist",
            )
        again = _adviser(config.generalist, count)
    if config.judge is not None:
        judge = _adviser(config.judge, config.judge.pairs)
        loss = replace(judge, calls=config.judge.verdicts)
    return SecondOpinions(again=again, judge=judge, loss=loss)


def _adviser(section: GeneralistConfig | JudgeConfig, calls: int) -> Adviser:
    priced = section.price_in or section.price_out
    price = Price(tokens_in=section.price_in, tokens_out=section.price_out) if priced else None
    return Adviser(open=_opener(section), calls=calls, local=section.local, price=price)


def _opener(
    section: GeneralistConfig | JudgeConfig,
) -> Callable[[], AbstractAsyncContextManager[Generalist]]:
    key = section.api_key()

    @asynccontextmanager
    async def opened() -> AsyncIterator[Generalist]:
        model = OpenAIGeneralist(section.base_url, section.model, key, section.timeout_s)
        try:
            yield model
        finally:
            await model.close()

    return opened
