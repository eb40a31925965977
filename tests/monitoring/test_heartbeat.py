"""The heartbeat against a monitor on a real socket."""

import contextlib
import socket
import threading
import uuid
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

import pytest
import trustme

from iterable_api.transport import Network
from logger_config import setup_logger
from monitoring import heartbeat
from monitoring.heartbeat import MAX_BODY_BYTES, NO_HARM, Heartbeat
from tests import tunnels

RUN_ID = "0b1e5c5a7f064d0c9e2a3c8b6d1f4a70"
RID = str(uuid.UUID(RUN_ID))


@dataclass
class Monitor:
    """Answers what the test says, and keeps what arrived."""

    url: str = ""
    status: int = 200
    statuses: list[int] = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=dict)
    silent: bool = False
    over: threading.Event = field(default_factory=threading.Event)
    requests: list[tuple[str, str, bytes]] = field(default_factory=list)
    received_headers: list[dict[str, str]] = field(default_factory=list)

    @property
    def targets(self):
        return [target for _, target, _ in self.requests]


@pytest.fixture
def monitor():
    state = Monitor()

    class Handler(BaseHTTPRequestHandler):
        disable_nagle_algorithm = True

        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            state.requests.append((self.command, self.path, body))
            state.received_headers.append(dict(self.headers))
            if state.silent:
                state.over.wait(10)
                return
            self.send_response(state.statuses.pop(0) if state.statuses else state.status)
            for name, value in state.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_GET = do_POST  # noqa: N815 - http.server's name

        def log_message(self, *_):
            pass

        def handle(self):
            with contextlib.suppress(OSError):  # the client gave up, as it should
                super().handle()

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        state.url = f"http://127.0.0.1:{server.server_port}/s3cret-check"
        yield state
        state.over.set()
        server.shutdown()
        thread.join()


@pytest.fixture
def warnings(tmp_path):
    # The console would show what the file gets, but it is not there yet while fixtures are made.
    setup_logger("CRITICAL", tmp_path / "job.log")

    def told():
        lines = (tmp_path / "job.log").read_text().splitlines()
        prefix = "WARNING  iterable_sync.heartbeat: "
        assert all(prefix in line for line in lines)
        assert not any("s3cret" in line or RID in line for line in lines)
        return [line.partition(prefix)[2] for line in lines]

    yield told
    setup_logger()


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def test_a_run_tells_its_start_and_its_end_and_the_query_of_the_url_stays_behind(monitor, warnings):
    for query, more in (("", ""), ("/?create=1&a=%2F", "create=1&a=%2F&")):
        monitor.requests.clear()
        heartbeat = Heartbeat(monitor.url + query, RUN_ID)
        heartbeat.start()
        heartbeat.finish(0, "3 delivered ✓ a\ud800b")
        heartbeat.finish(143, "x" * 2 * MAX_BODY_BYTES)
        assert monitor.requests == [
            ("POST", f"/s3cret-check/start?{more}rid={RID}", b""),
            ("POST", f"/s3cret-check?{more}rid={RID}", "3 delivered ✓ a?b".encode()),
            ("POST", f"/s3cret-check/143?{more}rid={RID}", b"x" * MAX_BODY_BYTES),
        ]
    assert monitor.received_headers[1]["Content-Type"] == "text/plain; charset=utf-8"
    assert warnings() == []


def test_without_a_url_nothing_is_sent_and_a_run_id_is_a_uuid(warnings):
    heartbeat = Heartbeat("", RUN_ID)
    heartbeat.start()
    heartbeat.finish(1, "body")
    assert warnings() == []
    with pytest.raises(ValueError, match="UUID"):
        Heartbeat("", "run 1")


@pytest.mark.parametrize(("status", "requests"), [(500, 2), (404, 1), (302, 1), (307, 1)])
def test_an_answer_that_is_no_success_is_one_warning(monitor, warnings, status, requests):
    """A redirect, which could lead the URL to another host, is none and not followed."""
    monitor.status = status
    monitor.headers = {"Location": f"http://localhost:{monitor.url.split(':')[2]}/elsewhere"}
    told = [f"HEARTBEAT_URL answered {status}. " + NO_HARM]
    Heartbeat(monitor.url, RUN_ID).finish(0, "")
    assert (len(monitor.requests), warnings()) == (requests, told)
    monitor.statuses = [503, 200]  # a passing fault
    Heartbeat(monitor.url, RUN_ID).start()
    assert (len(monitor.requests), warnings()) == (requests + 2, told)


def test_a_monitor_that_never_answers_delays_the_run_for_its_timeouts_only(
    monitor, warnings, monkeypatch
):
    assert 2 * heartbeat.ATTEMPTS * heartbeat.TIMEOUT_S <= 10
    monkeypatch.setattr(heartbeat, "TIMEOUT_S", 0.3)
    monitor.silent = True
    Heartbeat(monitor.url, RUN_ID).start()
    assert len(monitor.requests) == 2
    assert warnings() == ["HEARTBEAT_URL cannot be reached: ReadTimeoutError. " + NO_HARM]


def test_a_monitor_that_is_down_is_one_warning(warnings, caplog):
    with caplog.at_level("INFO"):
        Heartbeat(f"http://127.0.0.1:{free_port()}/s3cret-check", RUN_ID).finish(0, "")
    # Not even a library's own logger gets to know the URL.
    assert not any("s3cret" in record.getMessage() for record in caplog.records)
    assert warnings() == ["HEARTBEAT_URL cannot be reached: NewConnectionError. " + NO_HARM]


@pytest.fixture
def way_out(monitor, tmp_path):
    """Yield an https URL of the monitor, the file of its authority, and a proxy."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    with tunnels.with_tls(urlsplit(monitor.url).port, authority) as url, tunnels.proxy() as proxy:
        yield f"{url}/s3cret-check", tmp_path / "ca.pem", proxy


def test_a_ping_goes_by_the_proxy_which_does_not_see_its_url(monitor, way_out, warnings):
    url, ca_file, proxy = way_out
    heartbeat = Heartbeat(url, RUN_ID, Network(ca_file=ca_file, proxy=proxy.url))
    heartbeat.start()
    heartbeat.finish(0, "done")
    assert len(monitor.requests) == len(proxy.heads) == 2
    assert b"s3cret" not in b"".join(proxy.heads + proxy.relayed)
    assert warnings() == []


def test_a_certificate_that_nobody_trusts_is_refused(monitor, way_out, warnings):
    Heartbeat(way_out[0], RUN_ID).finish(0, "")
    assert monitor.requests == []
    assert warnings() == ["HEARTBEAT_URL cannot be reached: SSLError. " + NO_HARM]


def test_a_ping_that_a_proxy_could_read_goes_without_it(monitor, way_out, warnings):
    Heartbeat(monitor.url, RUN_ID, Network(proxy=way_out[2].url)).start()
    assert len(monitor.requests) == 1
    assert not way_out[2].heads
    assert warnings() == []


@pytest.mark.parametrize("url", ["http://", "http://[s3cret-check", "ftp://s3cret"])
def test_a_url_that_is_none_is_one_warning(url, warnings):
    Heartbeat(url, RUN_ID).start()
    (told,) = warnings()
    assert told.startswith("HEARTBEAT_URL cannot be reached: ")


def test_proxies_and_passwords_of_the_environment_are_not_used(
    monitor, monkeypatch, tmp_path, warnings
):
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{free_port()}")
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login me password mine\n")
    (tmp_path / ".netrc").chmod(0o600)
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
    Heartbeat(monitor.url, RUN_ID).start()
    assert monitor.targets == [f"/s3cret-check/start?rid={RID}"]
    assert "Authorization" not in monitor.received_headers[0]
    assert warnings() == []
