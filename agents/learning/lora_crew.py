"""The processes that share the steps of one LoRA run: one alone, or several under torch.distributed.

With several, each takes its rows of every batch, gradients are averaged (DistributedDataParallel), and what decides how the run goes on is
agreed: all do the same steps and end alike. Knows neither Ray nor what is trained.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

import torch


class Crew(Protocol):
    """`rank`: this process's number, from 0; `size`: how many there are."""

    rank: int
    size: int

    def share(self, module: torch.nn.Module) -> Any:
        """The module to call in training: its gradients become the mean over the crew with each backward pass."""
        ...

    def apart(self, shared: Any) -> AbstractContextManager[None]:
        """Within this, gradients only add up; the next backward pass outside brings them together."""
        ...

    def agree(self, values: Sequence[float]) -> list[float]:
        """The values of rank 0, for all."""
        ...

    def total(self, values: Sequence[float]) -> list[float]:
        """The sum of each value over the crew."""
        ...


class Alone:
    """A crew of one."""

    rank = 0
    size = 1

    def share(self, module: torch.nn.Module) -> Any:
        return module

    def apart(self, shared: Any) -> AbstractContextManager[None]:
        return nullcontext()

    def agree(self, values: Sequence[float]) -> list[float]:
        return list(values)

    def total(self, values: Sequence[float]) -> list[float]:
        return list(values)


class Distributed:
    """The processes of torch.distributed's default group, which must stand. `device`: where this one computes."""

    def __init__(self, device: torch.device) -> None:
        self.rank = torch.distributed.get_rank()
        self.size = torch.distributed.get_world_size()
        self._device = device

    def share(self, module: torch.nn.Module) -> Any:
        # frozen weights and rotary tables are the base's own, the same everywhere
        return torch.nn.parallel.DistributedDataParallel(module, broadcast_buffers=False)

    def apart(self, shared: Any) -> AbstractContextManager[None]:
        context: AbstractContextManager[None] = shared.no_sync()
        return context

    def agree(self, values: Sequence[float]) -> list[float]:
        said = self._tensor(values)
        torch.distributed.broadcast(said, src=0)
        return [float(value) for value in said]

    def total(self, values: Sequence[float]) -> list[float]:
        said = self._tensor(values)
        torch.distributed.all_reduce(said)
        return [float(value) for value in said]

    def _tensor(self, values: Sequence[float]) -> torch.Tensor:
        return torch.tensor(list(values), dtype=torch.float64, device=self._device)
