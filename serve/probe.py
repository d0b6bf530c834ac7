"""Two questions over HTTP, from outside: is a gateway ready, does a generalist answer at all. Loads neither Ray nor an HTTP library."""

from __future__ import annotations

import urllib.error
import urllib.request

READY = "ready"
ANSWERS = "answers"

_TIMEOUT_S = 2.0


def readiness(url: str) -> str:
    """`READY`, or why the gateway at this base URL is not."""
    try:
        with urllib.request.urlopen(f"{url}/readyz", timeout=_TIMEOUT_S):
            return READY
    except urllib.error.HTTPError as error:
        with error:
            return f"not ready: {error.read(300).decode(errors='replace')}"
    except OSError as error:
        return f"no answer: {error}"


def reachability(url: str) -> str:
    """`ANSWERS` where anything answers at this base URL, whatever it thinks of the request; else why not."""
    try:
        with urllib.request.urlopen(f"{url.rstrip('/')}/models", timeout=_TIMEOUT_S):
            return ANSWERS
    except urllib.error.HTTPError as error:
        error.close()
        return ANSWERS
    except (OSError, ValueError) as error:
        return f"does not answer: {error}"
