"""Starts what a site runs on Ray, or takes it off a Ray that stays. A program of its own, because Ray reads its settings at import.

Reads one job as JSON on standard input and writes JSON lines: `{"step": ...}` as it goes, then `{"done": ...}` or `{"error": ...}`.
`site.py` runs it with the environment that it has decided on.
"""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import os
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from shoal.config import Config
from shoal.errors import ShoalError, SiteError
from shoal.home import Home

_READY_TIMEOUT_S = 90
_LOAD_TIMEOUT_S = 30
_REST_S = 10
_NEEDED = {"RAY_SERVE_ENABLE_HA_PROXY": "1", "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1"}


def say(kind: str, what: Any) -> None:
    sys.stdout.write(json.dumps({kind: what}, default=str) + "\n")
    sys.stdout.flush()


def main() -> int:
    job = json.load(sys.stdin)
    try:
        say("done", leave(job) if job["do"] == "leave" else join_or_start(job))
    except ShoalError as error:
        say("error", {"message": error.message, "remedy": error.remedy})
        return 1
    except Exception as error:
        logging.exception("the site does not start")
        what = f"The site does not start: {_last_line(str(error)) or type(error).__name__}"
        say("error", {"message": what, "remedy": f"See {job['logs']}."})
        return 1
    return 0


def join_or_start(job: Mapping[str, Any]) -> dict[str, Any]:
    """Start Ray if the job says so, then the router actor and the gateway on it. Returns when the gateway is ready."""
    home, config = Home(Path(job["home"])), Config.model_validate(job["config"])
    local = job["mode"] == "local"
    starting = None
    if local:
        say("step", "starting Ray")
        starting = _begin_local(job, home)
    import ray  # takes a second, while Ray's own processes start
    from ray import serve

    _quiet()
    if starting is not None:
        from shoal.serve.ray_local import finish_ray, start_nodes

        finish_ray(starting, home.logs / "ray-start.log", dashboard=job["ray"]["dashboard"])
        if _local_ray(job).further_nodes():
            say("step", "starting simulated nodes")
            start_nodes(_local_ray(job), os.environ, home.logs)
    say("step", "connecting to Ray")
    _connect(ray, job["address"])
    pin = {} if local else _pin(ray)
    warnings = [] if local else _check_cluster(ray)

    from shoal.agents.feedback.feedback_actor import start_feedback
    from shoal.agents.routing.router_actor import start_router
    from shoal.serve.gateway import gateway_application
    from shoal.serve.learner import make_learner
    from shoal.serve.plan_host import PlanHost, read_plans, read_tools
    from shoal.serve.remote_deployer import make_deployer, start_site_placement

    read_tools(config), read_plans(config)  # what is wrong there is said before anything starts

    say("step", "starting the actors and Ray Serve")
    start_site_placement(home, config, pin=pin)
    start_router(
        home,
        config,
        functools.partial(make_deployer, home, config),
        functools.partial(PlanHost, home, config),
        pin=pin,
    )
    start_feedback(home, config, functools.partial(make_learner, home, config), pin=pin)
    owns_serve = local or not _serve_runs(serve)
    serve.start(
        proxy_location="HeadOnly",
        http_options={"host": config.serve.host, "port": config.serve.port},
    )
    say("step", "starting the gateway")
    serve.run_many(
        [gateway_application(home, config, pin=pin)],
        wait_for_ingress_deployment_creation=False,
        wait_for_applications_running=False,
    )
    _wait_ready(job["url"], lambda: _why_failed(serve))
    say("step", "loading specialists")
    _wait_loaded(home)
    return {"owns_serve": owns_serve, "warnings": warnings}


def leave(job: Mapping[str, Any]) -> dict[str, Any]:
    """Take the site off a Ray that stays: its applications, its router actor, and Serve if it was ours alone."""
    import ray
    from ray import serve

    from shoal.agents.feedback.feedback_actor import FEEDBACK_NAME
    from shoal.agents.routing.router_actor import NAMESPACE, ROUTER_NAME
    from shoal.cluster.placement_actor import PLACEMENT_NAME
    from shoal.serve.placing import PREFIX

    _quiet()
    _connect(ray, job["address"])
    with contextlib.suppress(Exception):  # a learning run must not outlive the site; the actor may be away
        ray.get(ray.get_actor(FEEDBACK_NAME, namespace=NAMESPACE).rest.remote(), timeout=_REST_S)
    for name in (ROUTER_NAME, FEEDBACK_NAME, PLACEMENT_NAME, *_monitors(ray), *_tool_hosts(ray)):
        with contextlib.suppress(ValueError):  # it is gone already
            ray.kill(ray.get_actor(name, namespace=NAMESPACE))
    names = list(serve.status().applications) if _serve_runs(serve) else []
    if job["owns_serve"] and all(name.startswith(PREFIX) for name in names):
        serve.shutdown()  # ends all applications at once
        return {}
    for name in names:
        if name.startswith(PREFIX):
            serve.delete(name)
    return {}


def _monitors(ray: Any) -> list[str]:
    from shoal.cluster.monitor import monitor_name

    return [monitor_name(node["NodeID"]) for node in ray.nodes()]


def _tool_hosts(ray: Any) -> list[str]:
    from shoal.agents.routing.router_actor import NAMESPACE
    from shoal.serve.ray_tools import PREFIX

    there = ray.util.list_named_actors(all_namespaces=True)
    return [a["name"] for a in there if a["namespace"] == NAMESPACE and a["name"].startswith(PREFIX)]


def _begin_local(job: Mapping[str, Any], home: Home) -> Any:
    from shoal.serve.ray_local import begin_ray

    return begin_ray(_local_ray(job), os.environ, home.logs / "ray-start.log")


def _local_ray(job: Mapping[str, Any]) -> Any:
    from shoal.serve.ray_local import LocalRay, SitePorts

    raw = job["ray"]
    return LocalRay(
        **{
            **raw,
            "folder": Path(raw["folder"]),
            "token_path": Path(raw["token_path"]),
            "ports": SitePorts(**raw["ports"]),
        }
    )


def _quiet() -> None:
    for name in ("ray", "ray.serve"):
        logging.getLogger(name).setLevel(logging.ERROR)


def _connect(ray: Any, address: str) -> None:
    from shoal.agents.routing.router_actor import NAMESPACE

    try:
        ray.init(address=address, namespace=NAMESPACE, log_to_driver=False, configure_logging=False)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise SiteError(
            f"No Ray answers at {address}: {_last_line(str(error))}",
            remedy="Check --address, and RAY_AUTH_TOKEN where the cluster asks for a token.",
        ) from error


def _pin(ray: Any) -> dict[str, float]:
    """What keeps a replica on this node, where the data folder is."""
    return {f"node:{ray.util.get_node_ip_address()}": 0.001}


def _check_cluster(ray: Any) -> list[str]:
    """What the cluster lacks, for people: Serve reads its settings where the cluster was started, not here."""

    def flags(names: list[str]) -> dict[str, str | None]:
        return {name: os.environ.get(name) for name in names}

    found = ray.get(ray.remote(flags).options(num_cpus=0).remote(list(_NEEDED)))
    return [
        f"The cluster was started without {name}={value}: the gateway works, but slower."
        for name, value in _NEEDED.items()
        if found[name] != value
    ]


def _serve_runs(serve: Any) -> bool:
    from ray.serve.exceptions import RayServeException

    try:
        return bool(serve.status().proxies) or bool(serve.status().applications)
    except RayServeException:
        return False


def _why_failed(serve: Any) -> str:
    """Why the gateway does not start; empty where it still may."""
    from shoal.serve.placing import GATEWAY_APPLICATION

    found = serve.status().applications.get(GATEWAY_APPLICATION)
    if found is None or found.status.value != "DEPLOY_FAILED":
        return ""
    # the deployment's own message ends with the error of its constructor
    told = [deployment.message for deployment in found.deployments.values() if deployment.message]
    return str(told[0] if told else found.message)


def _wait_ready(url: str, why_failed: Callable[[], str]) -> None:
    deadline = time.monotonic() + _READY_TIMEOUT_S
    look_at, last = time.monotonic() + 2, "no answer"
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(f"{url}/readyz", timeout=2) as response:
                if response.status == 200:
                    return
        except urllib.error.HTTPError as error:
            last = f"{error.code} {error.read(300).decode(errors='replace')}"
        except OSError as error:
            last = str(error)
        if time.monotonic() > look_at:
            if why := why_failed():
                raise SiteError(
                    f"The gateway does not start: {_last_line(why)}",
                    remedy="See the logs in the data folder.",
                )
            look_at = time.monotonic() + 2
        time.sleep(0.1)
    raise SiteError(
        f"The gateway is not ready after {_READY_TIMEOUT_S} s: {last}",
        remedy="See the logs in the data folder, and the machine's load.",
    )


def _wait_loaded(home: Home) -> None:
    """Wait until what should be loaded is, or cannot be. After a while the site goes on without: the generalist answers."""
    deadline = time.monotonic() + _LOAD_TIMEOUT_S
    while time.monotonic() < deadline:
        try:
            said = json.loads(home.router_status.read_text(encoding="utf-8"))
            if said["read"] and set(said["wanted"]) <= {*said["loaded"], *said["failed"]}:
                return
        except (OSError, ValueError, KeyError):
            pass  # the actor has not written it yet
        time.sleep(0.1)


def _last_line(text: str) -> str:
    lines = [line for line in text.strip().splitlines() if line.strip()]
    return lines[-1].strip() if lines else "no reason given"


if __name__ == "__main__":
    # Ray's interpreter shutdown hooks may write to standard output; nothing of the answer is lost by then
    sys.exit(main())
