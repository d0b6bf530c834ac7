from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from shoal.serve.batching import Batcher


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as executor:
        yield executor


class Doubler:
    """Doubles numbers; waits for `go`, and remembers its batches."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.batches: list[list[int]] = []

    def __call__(self, numbers: Sequence[int]) -> list[int]:
        self.batches.append(list(numbers))
        self.go.wait(5)
        return [2 * n for n in numbers]


async def test_what_comes_while_a_batch_runs_is_answered_together_and_in_order(
    threads: ThreadPoolExecutor,
) -> None:
    work = Doubler()
    batcher = Batcher(work, threads, largest=3)
    asked = [asyncio.create_task(batcher.ask(0))]
    await asyncio.sleep(0.02)
    asked += [asyncio.create_task(batcher.ask(n)) for n in range(1, 6)]
    await asyncio.sleep(0.02)
    work.go.set()
    assert await asyncio.gather(*asked) == [0, 2, 4, 6, 8, 10]
    assert work.batches == [[0], [1, 2, 3], [4, 5]]


async def test_an_error_goes_to_those_of_its_batch_and_the_next_batch_is_answered(
    threads: ThreadPoolExecutor,
) -> None:
    def fail_on_zero(numbers: Sequence[int]) -> list[int]:
        if 0 in numbers:
            raise ValueError("zero")
        return list(numbers)

    batcher = Batcher(fail_on_zero, threads)
    with pytest.raises(ValueError, match="zero"):
        await batcher.ask(0)
    assert await batcher.ask(1) == 1


async def test_who_has_given_up_takes_no_place_in_a_batch(threads: ThreadPoolExecutor) -> None:
    work = Doubler()
    batcher = Batcher(work, threads)
    first = asyncio.create_task(batcher.ask(0))
    await asyncio.sleep(0.02)
    gone, stays = asyncio.create_task(batcher.ask(1)), asyncio.create_task(batcher.ask(2))
    await asyncio.sleep(0.02)
    gone.cancel()
    await asyncio.sleep(0.02)
    work.go.set()
    assert (await first, await stays) == (0, 4)
    assert work.batches == [[0], [2]]


async def test_an_engine_that_loses_an_answer_is_an_error_not_a_hang(threads: ThreadPoolExecutor) -> None:
    batcher: Batcher[int, int] = Batcher(lambda numbers: [], threads)
    with pytest.raises(RuntimeError, match="0 answers to 1"):
        await asyncio.wait_for(batcher.ask(1), 5)
