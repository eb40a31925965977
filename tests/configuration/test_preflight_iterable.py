"""--check at Iterable: who answers, whether the key is accepted, the profile fields."""

from urllib.parse import urlsplit

import pytest
import trustme

from configuration.preflight_finding import Mark
from configuration.preflight_iterable import (
    identity_findings,
    iterable_findings,
    no_fields_finding,
)
from iterable_api.answers import judge_response
from iterable_api.endpoints import UPDATE_USER
from iterable_api.mapping import OWN_FIELDS, PROFILE_FIELDS, read_mapping
from iterable_api.transport import Response
from records.columns import Column, Kind
from records.exit_statuses import ExitStatus
from sandbox.faults import Fault
from tests import tunnels
from tests.configuration.conftest import settings_of, update_user
from tests.test_main import API_KEY


def of_iterable(environ, **changes):
    return list(iterable_findings(settings_of(environ, **changes)))


@pytest.mark.parametrize(
    ("fault", "told", "requests"),
    [
        (
            Fault("unauthorized", variant="code_success"),
            "refused the API key: Iterable does not accept this API key. Check ITERABLE_API_KEY",
            1,
        ),
        (
            Fault("unauthorized", variant="no_permission"),
            "the API key is disabled, or lacks the permission for this call",
            1,
        ),
        (
            Fault("unauthorized", variant="bad_jwt"),
            "the API key asks for a JWT of each user: use a server-side key without JWT",
            1,
        ),
        (
            Fault("answer", status=403, body='{"msg":"","code":"Forbidden","params":null}'),
            "Iterable forbids this call: check what the project and its API key allow",
            1,
        ),
        (Fault("answer", status=401, body="<html>"), "answered 401, but not by Iterable", 2),
        (Fault("answer", status=403, body="<html>"), "check what stands between (proxy", 2),
        (Fault("redirect"), "redirected, not followed; check ITERABLE_API_BASE_URL", 1),
        (Fault("gateway", status=503), "is down, or a proxy before it (HTTP 503)", 2),
        (Fault("garbage"), "answered 200, but not by Iterable", 2),
        (Fault("answer", body='{"fields": []}'), "answered 200, but not by Iterable", 2),
        (Fault("answer", status=404), "answered 404, but not by Iterable", 2),
        (Fault("reset_before"), "the connection was reset; check what stands between", 2),
        (Fault("hang"), "no answer within 0.3 s; check what stands between", 2),
    ],
)
def test_an_iterable_that_does_not_answer_as_it_should_is_told(
    environ, iterable, fault, told, requests
):
    iterable.set_faults(fault)
    finding, *_ = of_iterable(environ, ITERABLE_TIMEOUT_SECONDS="0.3")
    assert (finding.mark, finding.status) == (Mark.BAD, ExitStatus.STOPPED)
    assert told in finding.text
    assert len(iterable.requests) == requests


def test_an_iterable_that_does_not_tell_its_fields_is_a_warning(environ, iterable):
    iterable.set_faults(Fault("answer", body='{"msg":"","code":"Success","params":null}'))
    finding, *_ = of_iterable(environ)
    assert finding.mark is Mark.WARNING
    assert "answered 200, but not with the project's fields" in finding.text


@pytest.mark.parametrize("kind", ["server_error", "rate_limited", "reset_before"])
def test_a_passing_failure_is_tried_again(environ, iterable, kind):
    iterable.set_faults(Fault(kind, times=1))
    assert of_iterable(environ)[0].mark is Mark.GOOD


def test_an_iterable_too_busy_to_answer_is_a_warning(environ, iterable):
    iterable.set_faults(Fault("rate_limited"))
    (finding,) = of_iterable(environ)
    assert finding.mark is Mark.WARNING
    assert "the API key was not checked" in finding.text


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("http://127.0.0.1:1", "the connection was refused; check ITERABLE_API_BASE_URL"),
        ("https://no-such-host.invalid", "DNS "),
    ],
)
def test_an_iterable_that_cannot_be_reached_is_told(environ, url, told):
    (finding,) = of_iterable(environ, ITERABLE_API_BASE_URL=url)
    assert finding.text.startswith(f"{url}: {told}")


def test_a_certificate_that_nobody_trusts_keeps_the_key_here(environ, tls_server):
    (finding,) = of_iterable(environ, ITERABLE_API_BASE_URL=tls_server.url)
    assert "TLS failed: " in finding.text
    assert "CA certificates" in finding.text
    assert not tls_server.received


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("https://api.iterable.com", "a key of the EU one needs https://api.eu.iterable.com"),
        ("https://api.eu.iterable.com", "a key of the US one needs https://api.iterable.com"),
    ],
)
def test_a_refused_key_may_be_the_other_data_centres(url, told):
    answer = judge_response(Response(401, {}, b'{"code":"BadApiKey"}'))
    assert no_fields_finding(answer, url).text.endswith(told)


def test_fields_of_another_type_are_told_because_every_row_would_be_refused(environ, iterable):
    fields = {"first_name": 7, "candidate": True, "plan_type": "pro", "age": 3}
    update_user(iterable, fields)
    _, *found = of_iterable(environ)
    assert [(finding.mark, finding.status) for finding in found] == [(Mark.BAD, 4)] * 2
    assert "the project has first_name as long and the job sends a string" in found[0].text
    assert "the project has candidate as boolean and the job sends a string" in found[1].text


@pytest.mark.parametrize(
    ("kind", "suffix", "has", "sends"),
    [
        (Kind.TINYINT, ":boolean", 3, "a boolean"),
        (Kind.TINYINT, ":long", True, "a long"),
        (Kind.BIT, ":boolean", "on", "a boolean"),
        (Kind.INTEGER, ":string", 3, "a string"),
        (Kind.DECIMAL, "", "12.50", "a double"),
        (Kind.TINYINT, ":double", 1.5, ""),
        (Kind.BIT, ":long", 3, ""),
        (Kind.INTEGER, "", 1.5, ""),  # a field of doubles takes whole numbers
        (Kind.MOMENT, "", "2026-01-13 14:30:45 +00:00", ""),
        (Kind.JSON, "", {"y": 1}, ""),
    ],
)
def test_the_types_of_query_2s_columns_are_compared(environ, iterable, kind, suffix, has, sends):
    update_user(iterable, {"x": has})
    mapping = read_mapping([Column(f"user.x{suffix}", kind)])
    texts = [finding.text for finding in iterable_findings(settings_of(environ), mapping)]
    found = [text for text in texts if text.startswith("the project has x as ")]
    assert bool(found) is bool(sends)
    assert all(f"and the job sends {sends}: every row would be refused" in text for text in found)


def test_an_array_is_known_by_the_type_of_what_is_in_it(environ, iterable):
    update_user(iterable, {"x": "a"})
    mapping = read_mapping([Column("user.x", Kind.JSON)])
    found = [f for f in iterable_findings(settings_of(environ), mapping) if f.mark is Mark.WARNING]
    told = "the project has x as string: right for arrays of such values alone"
    assert [finding.text for finding in found] == [told]


def test_it_is_not_promised_that_fields_will_be_created(environ, iterable):
    text = of_iterable(environ)[1].text
    sent = ", ".join(PROFILE_FIELDS)
    assert text == (
        f"{sent} are new to the project: whether Iterable adds them is the project's setting"
    )
    update_user(iterable, {"first_name": "Ann", "plan_type": "pro", "candidate": "yes"})
    text = of_iterable(environ)[1].text
    assert text == (
        "first_name, plan_type, candidate of the right type; recent_page_view is new to the "
        "project: whether Iterable adds it is the project's setting"
    )


def test_a_field_whose_type_is_not_told_is_not_called_wrong(environ, iterable):
    iterable.set_faults(Fault("answer", body='{"fields":{"first_name":{"odd":1}}}'))
    finding = of_iterable(environ)[-1]
    assert finding.mark is Mark.GOOD


def test_fields_that_a_run_has_made_are_of_the_right_type(environ, iterable):
    sent = {own.name: own.value or "a" for own in OWN_FIELDS if own.call == UPDATE_USER}
    update_user(iterable, sent)
    text = of_iterable(environ)[1].text
    assert text == f"{', '.join(sent)} of the right type"


@pytest.fixture
def behind_a_proxy(environ, iterable, tmp_path):
    """Yield settings for an Iterable behind a proxy and a private authority, and the proxy."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    port = urlsplit(iterable.url).port
    with tunnels.with_tls(port, authority) as url, tunnels.proxy() as proxy:
        yield (
            {
                **environ,
                "ITERABLE_API_BASE_URL": url,
                "ITERABLE_CA_FILE": str(tmp_path / "ca.pem"),
                "ITERABLE_PROXY": proxy.url.replace("//", "//me:sEcReT@"),
            },
            proxy,
        )


def test_the_way_by_a_proxy_and_a_private_authority_is_checked(behind_a_proxy):
    environ, proxy = behind_a_proxy
    first, *_ = of_iterable(environ)
    assert first.mark is Mark.GOOD
    assert "accepts the API key by way of the proxy 127.0.0.1; " in first.text
    assert len(proxy.heads) == 1
    assert API_KEY.encode() not in b"".join(proxy.heads + proxy.relayed)


def test_a_proxy_that_refuses_fails_the_check(behind_a_proxy):
    environ, proxy = behind_a_proxy
    proxy.answer = b"HTTP/1.1 407 sEcReT\r\n\r\n"
    (finding,) = of_iterable(environ)
    assert (finding.mark, finding.status) == (Mark.BAD, ExitStatus.STOPPED)
    assert "the proxy answered 407; check ITERABLE_PROXY, its user and password" in finding.text
    assert "sEcReT" not in finding.text


def test_an_authority_that_is_not_named_fails_the_check(behind_a_proxy, iterable):
    environ, _ = behind_a_proxy
    (finding,) = of_iterable(environ | {"ITERABLE_CA_FILE": ""})
    assert (finding.mark, finding.status) == (Mark.BAD, ExitStatus.STOPPED)
    assert "ITERABLE_CA_FILE must name its CA" in finding.text
    assert not iterable.requests


def test_users_told_apart_by_email_need_no_word(environ):
    assert "ITERABLE_IDENTITY" not in {each.what for each in of_iterable(environ)}


@pytest.mark.parametrize(
    ("url", "mark", "told"),
    [
        ("https://api.eu.iterable.com", Mark.GOOD, "which every project in Europe takes"),
        ("https://api.iterable.com", Mark.NOTE, "One keyed by email refuses them"),
        ("http://127.0.0.1:1", Mark.NOTE, "so try --limit 1"),
    ],
)
def test_what_tells_users_apart_must_fit_the_data_centre(environ, url, mark, told):
    changes = {"ITERABLE_API_BASE_URL": url, "ITERABLE_IDENTITY": "user_id"}
    (finding,) = identity_findings(settings_of(environ, **changes))
    assert finding.mark is mark
    assert told in finding.text


def test_the_types_of_event_fields_are_said_not_to_be_compared(environ):
    settings = settings_of(environ)
    mapping = read_mapping([Column("event.price", Kind.DECIMAL)])
    *_, last = iterable_findings(settings, mapping)
    told = "the types of price cannot be looked up; try --limit 1 first"
    assert str(last) == f"- Event fields: {told}"
    assert "Event fields" not in {finding.what for finding in iterable_findings(settings)}
