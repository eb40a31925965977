"""The heartbeat against a monitor on a real socket."""

import uuid
from dataclasses import dataclass, field
from functools import partial
from http.client import parse_headers
from urllib.parse import urlsplit

import pytest
import trustme

from iterable_api.transport import DIRECT, Network
from monitoring import heartbeat
from monitoring.heartbeat import MAX_BODY_BYTES, NO_HARM, ping
from tests import tunnels

RUN_ID = "0b1e5c5a7f064d0c9e2a3c8b6d1f4a70"
RID = str(uuid.UUID(RUN_ID))


@dataclass
class Monitor:
    """Answers with the next of *statuses*, the last of them for ever, and with 0 never."""

    url: str = ""
    statuses: list[int] = field(default_factory=lambda: [200])
    requests: list[tuple[str, bytes]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)

    def serve(self, connection):
        with connection.makefile("rwb") as file:
            target = file.readline().decode().rpartition(" ")[0]
            headers = dict(parse_headers(file))
            self.headers.append(headers)
            self.requests.append((target, file.read(int(headers["Content-Length"]))))
            status = self.statuses.pop(0) if self.statuses[1:] else self.statuses[0]
            if not status:
                file.read(1)  # until the client gives up
            # A redirect could lead the URL to another host.
            elsewhere = self.url.replace("127.0.0.1", "localhost")
            head = (
                f"HTTP/1.1 {status} as told\r\nLocation: {elsewhere}\r\nContent-Length: 0\r\n\r\n"
            )
            file.write(head.encode())


@pytest.fixture
def monitor():
    state = Monitor()
    with tunnels.accepting(state.serve) as port:
        state.url = f"http://127.0.0.1:{port}/s3cret-check"
        yield state


@pytest.fixture
def way_out(monitor, tmp_path):
    """Yield an https URL of the monitor, the file of its authority, and a proxy."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    with tunnels.with_tls(urlsplit(monitor.url).port, authority) as url, tunnels.proxy() as proxy:
        yield f"{url}/s3cret-check", tmp_path / "ca.pem", proxy


def test_a_run_tells_its_start_and_its_end_and_the_query_of_the_url_stays_behind(monitor, warned):
    for query, more in (("", ""), ("/?create=1&a=%2F", "create=1&a=%2F&")):
        monitor.requests.clear()
        tell = partial(ping, monitor.url + query, RUN_ID, DIRECT)
        tell("start")
        tell(0, "3 delivered ✓ a\ud800b")
        tell(143, "x" * 2 * MAX_BODY_BYTES)
        assert monitor.requests == [
            (f"POST /s3cret-check/start?{more}rid={RID}", b""),
            (f"POST /s3cret-check?{more}rid={RID}", "3 delivered ✓ a?b".encode()),
            (f"POST /s3cret-check/143?{more}rid={RID}", b"x" * MAX_BODY_BYTES),
        ]
    assert monitor.headers[1]["Content-Type"] == "text/plain; charset=utf-8"
    assert warned == []


def test_without_a_url_nothing_is_sent(warned):
    ping("", RUN_ID, DIRECT, 1, "body")
    assert warned == []


@pytest.mark.parametrize(("status", "requests"), [(500, 2), (404, 1), (302, 1), (307, 1)])
def test_an_answer_that_is_no_success_is_one_warning(monitor, warned, status, requests):
    monitor.statuses = [status]
    ping(monitor.url, RUN_ID, DIRECT, 0)
    monitor.statuses = [503, 200]  # a passing fault
    ping(monitor.url, RUN_ID, DIRECT, "start")
    assert len(monitor.requests) == requests + 2
    assert warned == [f"HEARTBEAT_URL answered {status}. " + NO_HARM]


def test_a_monitor_that_never_answers_delays_the_run_for_its_timeouts_only(
    monitor, warned, monkeypatch
):
    assert 2 * heartbeat.ATTEMPTS * heartbeat.TIMEOUT_S <= 10
    monkeypatch.setattr(heartbeat, "TIMEOUT_S", 0.3)
    monitor.statuses = [0]
    ping(monitor.url, RUN_ID, DIRECT, "start")
    assert len(monitor.requests) == 2
    assert warned == ["HEARTBEAT_URL cannot be reached: ReadTimeoutError. " + NO_HARM]


@pytest.mark.parametrize(
    ("url", "error"),
    [
        ("http://127.0.0.1:1/s3cret-check", "NewConnectionError"),
        ("http://", "LocationValueError"),
        ("http://[s3cret-check", "ValueError"),
        ("ftp://s3cret", "URLSchemeUnknown"),
    ],
)
def test_a_url_where_no_monitor_is_gets_one_warning_without_it(url, error, warned, caplog):
    with caplog.at_level("INFO"):
        ping(url, RUN_ID, DIRECT, "start")
    assert warned == [f"HEARTBEAT_URL cannot be reached: {error}. {NO_HARM}"]
    # Not even a library's own logger gets to know the URL.
    assert "s3cret" not in caplog.text


def test_a_certificate_that_nobody_trusts_is_refused(monitor, way_out, warned):
    ping(way_out[0], RUN_ID, DIRECT, 0)
    assert monitor.requests == []
    assert warned == ["HEARTBEAT_URL cannot be reached: SSLError. " + NO_HARM]


def test_an_https_ping_goes_by_the_proxy_which_does_not_see_its_url(monitor, way_out, warned):
    url, ca_file, proxy = way_out
    network = Network(ca_file=ca_file, proxy=proxy.url)
    ping(url, RUN_ID, network, "start")
    assert len(monitor.requests) == len(proxy.heads) == 1
    assert b"s3cret" not in b"".join(proxy.heads + proxy.relayed)
    ping(monitor.url, RUN_ID, network, "start")  # which the proxy could read
    assert (len(monitor.requests), len(proxy.heads), warned) == (2, 1, [])


def test_proxies_and_passwords_of_the_environment_are_not_used(
    monitor, monkeypatch, tmp_path, warned
):
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login me password mine\n")
    (tmp_path / ".netrc").chmod(0o600)
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
    ping(monitor.url, RUN_ID, DIRECT, "start")
    assert "Authorization" not in monitor.headers[0]
    assert warned == []
