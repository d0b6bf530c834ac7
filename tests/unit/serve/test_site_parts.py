from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import psutil
import pytest

from shoal.commands.site import with_flags
from shoal.config import Config
from shoal.errors import ConfigError, Conflict, DataError, SiteError, UsageError
from shoal.home import Home
from shoal.serve import site
from shoal.serve.processes import (
    SITE_VARIABLE,
    Listener,
    ProcessMark,
    end,
    free_ports,
    is_alive,
    listeners,
    marks,
    require_free_port,
    site_processes,
)
from shoal.serve.ray_local import LocalRay, SitePorts, haproxy_wrapper, site_environment, start_command
from shoal.serve.site import lost_a_port
from shoal.serve.site_record import SiteRecord, read_record, write_record
from shoal.serve.site_status import site_status

RAY = LocalRay(
    site_id="abc",
    folder=Path("/tmp/shoal-x"),
    token_path=Path("/home/token"),
    ports=SitePorts(gcs=1, metrics=2, statistics=3, fallback=4, dashboard=5, agent=6, client=7),
    num_cpus=2,
    memory_mb=4096,
    tier="edge",
)
RECORD = SiteRecord(
    id="abc",
    mode="local",
    phase="up",
    address="127.0.0.1:1",
    run_folder="",
    host="127.0.0.1",
    port=8700,
    grpc_port=8701,
    generalist_url=None,
    generalist_model=None,
    started_at=1.0,
)


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    """A process that carries a site's mark, with a child that does not."""
    code = (
        "import subprocess, sys, time\n"
        "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'], env={})\n"
        "print('up', flush=True); time.sleep(60)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        env={**os.environ, SITE_VARIABLE: "test-site"},
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    process.stdout.readline()
    yield process
    for one in site_processes("test-site"):
        one.kill()
    process.kill()
    process.wait()
    process.stdout.close()


# -- processes


def test_a_sites_processes_are_those_with_its_mark_and_their_children(
    sleeper: subprocess.Popen[bytes],
) -> None:
    found = {p.pid for p in site_processes("test-site")}
    assert sleeper.pid in found
    assert len(found) == 2
    assert site_processes("another-site") == []


def test_ending_kills_also_who_ignores_the_request() -> None:
    code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(1, flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        end([psutil.Process(process.pid)], grace_s=0.2)
        assert not psutil.pid_exists(process.pid)


def test_a_mark_does_not_fit_a_later_process_with_the_same_number() -> None:
    [mine] = marks([psutil.Process()])
    assert is_alive(mine)
    assert not is_alive(ProcessMark(pid=mine.pid, created=mine.created - 100))


def test_listeners_are_found_and_those_beyond_loopback_are_told_apart() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        found = [x for x in listeners([psutil.Process()]) if x.port == server.getsockname()[1]]
    assert len(found) == 1
    assert not found[0].beyond_loopback
    for address, beyond in (("0.0.0.0", True), ("::", True), ("::1", False), ("::ffff:127.0.0.1", False)):
        assert Listener(address=address, port=1, pid=1, process="x").beyond_loopback is beyond


def test_a_port_in_use_is_refused_with_the_port_and_the_remedy() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(SiteError, match=f"port {port}") as caught:
            require_free_port("127.0.0.1", port, what="HTTP", remedy="Name another with --port.")
    assert "--port" in caught.value.remedy
    require_free_port("127.0.0.1", port, what="HTTP", remedy="")


def test_an_address_of_another_machine_is_refused() -> None:
    with pytest.raises(SiteError):
        require_free_port("203.0.113.1", 8700, what="HTTP", remedy="")


def test_free_ports_are_all_different() -> None:
    assert len(set(free_ports(20))) == 20


# -- the local Ray


def test_the_sites_environment_asks_for_a_token_by_path_and_keeps_ray_on_loopback() -> None:
    environment = site_environment(
        RAY, {"PATH": "/bin", "RAY_ADDRESS": "elsewhere", "RAY_AUTH_TOKEN": "other"}
    )
    assert environment["PATH"] == "/bin"
    assert environment["RAY_AUTH_MODE"] == "token"
    assert environment["RAY_AUTH_TOKEN_PATH"] == "/home/token"
    assert "RAY_ADDRESS" not in environment
    assert "RAY_AUTH_TOKEN" not in environment
    assert environment["RAY_SERVE_ENABLE_HA_PROXY"] == environment["RAY_SERVE_THROUGHPUT_OPTIMIZED"] == "1"
    assert environment[SITE_VARIABLE] == "abc"


def test_the_head_declares_its_memory_and_tier_and_listens_on_loopback() -> None:
    command = start_command(RAY, python="python")
    assert "--node-ip-address=127.0.0.1" in command
    assert '--resources={"shoal_memory_mb": 4096.0}' in command
    assert "--labels=shoal-tier=edge,shoal-node=head" in command
    assert "--num-cpus=2" in command
    assert not any(word.startswith("--num-cpus") for word in start_command(replace(RAY, num_cpus=None)))


def test_the_haproxy_script_moves_both_side_doors_to_loopback_and_becomes_haproxy(tmp_path: Path) -> None:
    configuration = tmp_path / "haproxy.cfg"
    configuration.write_text(
        "frontend prometheus\n    bind :2\nfrontend http\n    bind 0.0.0.0:22\nlisten stats\n  bind *:3\n"
    )
    script = tmp_path / "haproxy"
    script.write_text(haproxy_wrapper(RAY, "/bin/echo"))
    script.chmod(0o700)
    said = subprocess.run(
        [str(script), "-db", "-f", str(configuration), "-x", "sock"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert said.stdout == f"-db -f {configuration} -x sock\n"
    assert configuration.read_text() == (
        "frontend prometheus\n    bind 127.0.0.1:2\nfrontend http\n    bind 0.0.0.0:22\n"
        "listen stats\n  bind 127.0.0.1:3\n"
    )
    head, _, body = (tmp_path / "500.http").read_bytes().partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 503 ")
    assert f"Content-Length: {len(body)}".encode() in head
    assert json.loads(body)["error"]["code"] == "service_unavailable"


# -- the record


def test_a_record_survives_the_file_and_is_for_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "site.json"
    record = replace(RECORD, processes=(ProcessMark(pid=1, created=2.5),))
    write_record(path, record)
    assert read_record(path) == record
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_no_record_is_none_and_a_damaged_one_an_error(tmp_path: Path) -> None:
    path = tmp_path / "site.json"
    assert read_record(path) is None
    path.write_text("{")
    with pytest.raises(DataError, match=r"site\.json"):
        read_record(path)


def test_clients_on_this_machine_get_an_address_that_they_can_call() -> None:
    assert replace(RECORD, host="0.0.0.0").url == "http://127.0.0.1:8700"
    assert replace(RECORD, host="::1").url == "http://[::1]:8700"


# -- starting and stopping, without Ray


def test_a_port_in_use_stops_the_start_before_anything_runs(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    with socket.create_server(("127.0.0.1", 0)) as server:
        config = Config.model_validate({"serve": {"port": server.getsockname()[1]}})
        with pytest.raises(SiteError, match="in use"):
            site.start_site(home, config)
    assert not home.site.exists()
    assert not home.ray_token.exists()


def test_a_generalist_whose_key_is_not_set_stops_the_start(tmp_path: Path) -> None:
    config = Config.model_validate(
        {"generalist": {"base_url": "http://x/v1", "model": "m", "api_key_env": "SHOAL_TEST_NO_SUCH_KEY"}}
    )
    with pytest.raises(ConfigError, match="SHOAL_TEST_NO_SUCH_KEY"):
        site.start_site(Home(tmp_path / "home"), config)


def test_a_tls_file_that_cannot_be_read_stops_the_start(tmp_path: Path) -> None:
    pair = {"certificate": str(tmp_path / "c.pem"), "private_key": str(tmp_path / "k.pem")}
    with pytest.raises(ConfigError, match=r"tls\.certificate"):
        site.start_site(Home(tmp_path / "home"), Config.model_validate({"tls": pair}))


def test_http_and_grpc_cannot_share_a_port(tmp_path: Path) -> None:
    config = Config.model_validate({"serve": {"port": 8700, "grpc_port": 8700}})
    with pytest.raises(SiteError, match="share"):
        site.start_site(Home(tmp_path / "home"), config)


def test_stopping_ends_what_the_record_and_the_mark_name_and_nothing_else(
    tmp_path: Path, sleeper: subprocess.Popen[bytes]
) -> None:
    home = Home(tmp_path / "home").create()
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as bystander:
        write_record(home.site, replace(RECORD, id="test-site"))
        stopped = site.stop_site(home)
        assert stopped is not None
        sleeper.wait()
        assert site_processes("test-site") == []
        assert bystander.poll() is None
        bystander.kill()
    assert not home.site.exists()
    assert site.stop_site(home) is None


def test_a_site_whose_ray_is_gone_is_not_up(tmp_path: Path) -> None:
    home = Home(tmp_path / "home").create()
    write_record(home.site, RECORD)
    found = site_status(home, Config())
    assert found["up"] is False
    assert found["site"]["answer"].startswith("no answer")
    assert found["processes"] == []


def test_two_commands_cannot_start_or_stop_one_site_at_once(tmp_path: Path) -> None:
    home = Home(tmp_path / "home").create()
    with site._only_one(home), pytest.raises(SiteError, match="Another command"):
        site.stop_site(home)


def test_a_site_that_is_up_with_other_settings_is_a_conflict() -> None:
    site._require_same(RECORD, Config())
    with pytest.raises(Conflict, match="port 8700 instead of 9000"):
        site._require_same(RECORD, Config.model_validate({"serve": {"port": 9000}}))


# -- flags


def test_flags_go_over_the_configuration() -> None:
    config = with_flags(Config(), generalist="http://x/v1", model="m", host=None, port=9000, grpc_port=None)
    assert config.generalist is not None and config.generalist.model == "m"
    assert (config.serve.port, config.serve.grpc_port) == (9000, 8701)


def test_another_model_keeps_the_configured_endpoint_and_prices() -> None:
    configured = Config.model_validate(
        {"generalist": {"base_url": "http://x/v1", "model": "m", "price_in": 2.0}}
    )
    config = with_flags(configured, generalist=None, model="n", host=None, port=None, grpc_port=None)
    assert config.generalist is not None
    assert (config.generalist.model, config.generalist.price_in) == ("n", 2.0)


def test_a_generalist_without_a_models_name_is_wrong_usage() -> None:
    with pytest.raises(UsageError, match="belong together"):
        with_flags(Config(), generalist="http://x/v1", model=None, host=None, port=None, grpc_port=None)


def test_a_flags_bad_value_is_refused_with_its_path() -> None:
    with pytest.raises(ConfigError, match=r"serve\.port"):
        with_flags(Config(), generalist=None, model=None, host=None, port=70000, grpc_port=None)


def test_a_site_keeps_its_own_ports_off_those_of_clients() -> None:
    [http, grpc] = free_ports(2)
    for _ in range(20):
        assert not {http, grpc} & set(asdict(SitePorts.choose(http, grpc)).values())


def test_a_start_is_tried_again_only_where_a_port_was_lost() -> None:
    said = "The site does not start: [ALERT] Some protocols failed to start their listeners! Exiting."
    assert lost_a_port(SiteError(said))
    assert not lost_a_port(SiteError("Ray did not start within 90 s."))
    assert not lost_a_port(KeyboardInterrupt("start their listeners"))
