"""Shoal turns an LLM agent's traffic into a shoal of small specialists and runs them, on Ray, on the hardware its owner has.

    from shoal import Client
    answer = Client("http://127.0.0.1:8700").chat([{"role": "user", "content": "..."}])

The package's face: names are loaded when first used, so that `import shoal` costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from shoal.errors import ShoalError
    from shoal.serve.client import AsyncClient, ChatAnswer, ChatPiece, Client

__version__ = "0.1.0"
__all__ = ["AsyncClient", "ChatAnswer", "ChatPiece", "Client", "ShoalError", "__version__"]

_HOMES = {
    "AsyncClient": "shoal.serve.client",
    "ChatAnswer": "shoal.serve.client",
    "ChatPiece": "shoal.serve.client",
    "Client": "shoal.serve.client",
    "ShoalError": "shoal.errors",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'shoal' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
