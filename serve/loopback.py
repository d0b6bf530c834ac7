"""Keeps a Serve replica of a one-machine site off the network. Owns the one place where Ray's own code is changed.

Ray 2.60 binds the port over which replicas call each other to all interfaces and unpickles what comes in, asking for no token:
anybody on the network could run code there. On a site that is one machine nobody else has any business at that port, so it is bound
to loopback instead. Clusters of several machines need Ray's own TLS (RAY_USE_TLS), which covers this port too.
"""

from __future__ import annotations

import os
from typing import Any

from shoal.errors import SiteError
from shoal.serve.processes import SITE_VARIABLE

_ALL_INTERFACES = "[::]:0"
_LOOPBACK = "127.0.0.1:0"


def keep_to_loopback() -> None:
    """Call in a replica's constructor, which runs before Ray binds the port. Does nothing outside a site of its own.

    Raises:
        SiteError: this Ray binds the port in another way than the one that Shoal knows.
    """
    if SITE_VARIABLE not in os.environ:
        return
    from ray.serve._private import replica

    bind = getattr(replica, "add_port_to_grpc_server", None)
    if bind is None:
        raise SiteError(
            "This version of Ray binds a replica's port in a way that Shoal does not know.",
            remedy="Install the version of Ray that Shoal asks for.",
        )
    if getattr(bind, "keeps_to_loopback", False):
        return

    def bind_to_loopback(server: Any, address: str) -> Any:
        return bind(server, _LOOPBACK if address == _ALL_INTERFACES else address)

    bind_to_loopback.keeps_to_loopback = True  # type: ignore[attr-defined]
    replica.add_port_to_grpc_server = bind_to_loopback
