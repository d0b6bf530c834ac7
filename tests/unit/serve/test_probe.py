from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from shoal.serve.probe import ANSWERS, READY, reachability, readiness


@pytest.fixture
def server() -> Iterator[tuple[str, dict[str, int]]]:
    """A base URL, and the status of each path (404 where it has none)."""
    statuses: dict[str, int] = {}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(statuses.get(self.path, 404))
            self.end_headers()
            self.wfile.write(b'{"status": "no snapshot"}')

        def log_message(self, format: str, *args: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as http:
        thread = threading.Thread(target=http.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{http.server_port}", statuses
        http.shutdown()
        thread.join()


def test_a_gateway_is_ready_or_says_why_not(server: tuple[str, dict[str, int]]) -> None:
    url, statuses = server
    statuses["/readyz"] = 503
    assert readiness(url) == 'not ready: {"status": "no snapshot"}'
    statuses["/readyz"] = 200
    assert readiness(url) == READY


def test_a_generalist_that_refuses_the_request_still_answers(server: tuple[str, dict[str, int]]) -> None:
    url, statuses = server
    statuses["/v1/models"] = 401
    assert reachability(f"{url}/v1/") == ANSWERS


def test_nobody_there_is_said_so() -> None:
    assert readiness("http://127.0.0.1:9").startswith("no answer")
    assert reachability("http://127.0.0.1:9/v1").startswith("does not answer")
    assert reachability("nonsense").startswith("does not answer")
