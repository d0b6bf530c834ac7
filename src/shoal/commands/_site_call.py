"""Calls to a running site's own routes, for commands."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import httpx

from shoal.errors import SiteError
from shoal.home import Home
from shoal.serve.client import KEY_VARIABLE
from shoal.serve.site_record import read_record
from shoal.serve.status import rebuild

_DEADLINE_S = 30.0


def site_url(home: Home) -> str:
    """Raises SiteError where no site is up."""
    record = read_record(home.site)
    if record is None:
        raise SiteError("No site is up here.", remedy="Start one: shoal up")
    return record.url


def call_site(method: str, url: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The answer's JSON. Raises what the site raised, or SiteError where it does not answer."""
    key = os.environ.get(KEY_VARIABLE)
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    try:
        response = httpx.request(
            method,
            url,
            json=None if body is None else dict(body),
            headers=headers,
            timeout=_DEADLINE_S,
        )
    except httpx.HTTPError as error:
        raise SiteError(
            f"The site does not answer: {error!r}.", remedy="shoal status says how it is."
        ) from error
    said: dict[str, Any] = response.json()
    if not response.is_success:
        raise rebuild(said, code=response.headers.get("X-Shoal-Error"), http=response.status_code)
    return said
