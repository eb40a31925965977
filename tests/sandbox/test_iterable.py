"""The local Iterable keeps the contract that the job relies on."""

import email.utils
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import requests

from sandbox.bodies import ENDPOINTS
from sandbox.faults import Fault
from sandbox.iterable import IterableSandbox
from sandbox.rate_limits import LIMITS_PER_S, RateLimits

SUCCESS = {"msg": "", "code": "Success", "params": None}
USER_LISTS = {
    f"{bucket}{kind}"
    for bucket in ("invalid", "invalidData", "conflict", "forgotten", "notFound")
    for kind in ("Emails", "UserIds")
}
EVENT_LISTS = {
    f"{bucket}{kind}"
    for bucket in ("invalid", "forgotten", "notFound")
    for kind in ("Emails", "UserIds")
}


class Client(NamedTuple):
    """A plain requests session, and the stand-in it talks to."""

    session: requests.Session
    iterable: IterableSandbox

    def post(self, endpoint: str, body: Any, **options: Any) -> requests.Response:
        options.setdefault("timeout", 5)
        return self.session.post(f"{self.iterable.url}/api/{endpoint}", json=body, **options)

    def update(self, address: str = "ann@example.com", /, **fields: object) -> requests.Response:
        return self.post("users/update", {"email": address, "dataFields": fields})

    def track(self, address: str = "ann@example.com", /, **event: object) -> requests.Response:
        return self.post("events/track", {"email": address, "eventName": "page_view"} | event)

    def update_all(self, *rows: object, **envelope: object) -> requests.Response:
        return self.post("users/bulkUpdate", {"users": rows} | envelope)

    def track_all(self, *rows: object) -> requests.Response:
        return self.post("events/trackBulk", {"events": rows})


def user(address: str, /, **fields: object) -> dict[str, Any]:
    return {"email": address, "dataFields": fields}


def event(address: str, /, **rest: object) -> dict[str, Any]:
    return {"email": address, "eventName": "page_view"} | rest


def example(endpoint: str, address: str = "ann@example.com") -> dict[str, Any]:
    """Return a body that the endpoint accepts."""
    bodies = {
        "users/update": user(address),
        "events/track": event(address, id="e-1"),
        "users/bulkUpdate": {"users": [user(address)]},
        "events/trackBulk": {"events": [event(address, id="e-1")]},
    }
    return bodies[endpoint]


@pytest.fixture
def iterable() -> Iterator[IterableSandbox]:
    with IterableSandbox() as running:
        yield running


@pytest.fixture
def client(iterable: IterableSandbox) -> Iterator[Client]:
    with requests.Session() as session:
        session.trust_env = False
        session.headers["Api-Key"] = "secret-key"
        yield Client(session, iterable)


# --- Success (rows 1 to 4, 33) ----------------------------------------------------------------


def test_an_update_is_answered_with_exactly_41_bytes(client):
    response = client.update(plan_type="pro")
    assert (response.status_code, response.json()) == (200, SUCCESS)
    assert len(response.content) == 41
    assert client.iterable.users["ann@example.com"].data_fields == {"plan_type": "pro"}


def test_an_event_is_answered_with_its_id(client):
    answer = client.track(id="e-1").json()
    assert answer == {
        "msg": "Event with id: e-1 tracked.",
        "code": "Success",
        "params": {"id": "e-1"},
    }


def test_a_bulk_update_is_answered_with_counters_and_all_lists_and_no_code(client):
    answer = client.update_all(user("a@example.com", plan="pro"), user("b@example.com")).json()
    assert answer.pop("failedUpdates") == {name: [] for name in USER_LISTS}
    assert answer == {
        "successCount": 2,
        "failCount": 0,
        "invalidEmails": [],
        "invalidUserIds": [],
        "filteredOutFields": [],
        "createdFields": ["plan"],
        "noOpEmails": [],
        "noOpUserIds": [],
    }


def test_bulk_events_are_answered_with_counters_and_all_lists_and_no_code(client):
    client.update("ann@example.com")
    answer = client.track_all(event("ann@example.com")).json()
    assert answer.pop("failedUpdates") == {name: [] for name in EVENT_LISTS}
    assert answer == {
        "successCount": 1,
        "failCount": 0,
        "invalidEmails": [],
        "invalidUserIds": [],
        "filteredOutFields": [],
        "createdFields": [],
        "disallowedEventNames": [],
    }


def test_json_answers_carry_the_headers_of_the_ingress_and_none_about_rates(client):
    headers = client.update().headers
    assert headers["Content-Type"] == "application/json"
    assert headers["Vary"] == "Origin"
    assert headers["Request-Time"].isdigit()
    assert headers["Server"].startswith("iterable-ingress")
    assert not [name for name in headers if "rate" in name.lower() or "retry" in name.lower()]


# --- Rows that fail in a bulk request (rows 5 to 11) ------------------------------------------


def test_a_malformed_email_fails_by_itself_and_is_listed_twice(client):
    answer = client.update_all(user("not an email"), user("b@example.com")).json()
    assert (answer["successCount"], answer["failCount"]) == (1, 1)
    assert answer["invalidEmails"] == answer["failedUpdates"]["invalidEmails"] == ["not an email"]
    assert list(client.iterable.users) == ["b@example.com"]


def test_a_malformed_user_id_in_a_bulk_request_is_listed(client):
    answer = client.track_all({"userId": "spaced ", "eventName": "x"}).json()
    assert answer["failCount"] == 1
    assert answer["invalidUserIds"] == answer["failedUpdates"]["invalidUserIds"] == ["spaced "]


@pytest.mark.parametrize(("lower", "listed"), [(True, "not@email"), (False, "Not@Email")])
def test_emails_in_failure_lists_are_lower_cased_unless_told_otherwise(client, lower, listed):
    client.iterable.change(echo_lower_case=lower)
    assert client.update_all(user("Not@Email")).json()["invalidEmails"] == [listed]


def test_an_identifier_is_listed_once_for_each_of_its_rows(client):
    answer = client.update_all(user("bad"), user("BAD")).json()
    assert answer["failedUpdates"]["invalidEmails"] == ["bad", "bad"]


def test_a_forgotten_user_fails_by_itself_in_bulk(client):
    client.iterable.forget("ann@example.com")
    updated = client.update_all(user("Ann@Example.com"), user("b@example.com")).json()
    assert (updated["successCount"], updated["failCount"]) == (1, 1)
    assert updated["failedUpdates"]["forgottenEmails"] == ["ann@example.com"]
    tracked = client.track_all(event("ann@example.com")).json()
    assert tracked["failedUpdates"]["forgottenEmails"] == ["ann@example.com"]


def test_a_conflict_in_bulk_lists_the_email_that_exists(client):
    client.update("taken@example.com")
    answer = client.update_all(user("ann@example.com", email="Taken@example.com")).json()
    assert answer["failCount"] == 1
    assert answer["failedUpdates"]["conflictEmails"] == ["taken@example.com"]


def test_a_malformed_email_in_data_fields_is_listed_as_invalid(client):
    answer = client.update_all(user("ann@example.com", email="nonsense")).json()
    assert answer["failedUpdates"]["invalidEmails"] == ["nonsense"]


def test_bad_data_fails_by_row_where_that_is_chosen(client):
    client.iterable.change(mismatch_rejects_batch=False)
    rows = user("bad@example.com", signupDate="soon"), user("good@example.com", signupDate=None)
    answer = client.update_all(*rows).json()
    assert (answer["successCount"], answer["failCount"]) == (1, 1)
    assert answer["failedUpdates"]["invalidDataEmails"] == ["bad@example.com"]


def test_a_bulk_event_of_an_unknown_user_is_not_found(client):
    answer = client.track_all(event("ann@example.com")).json()
    assert (answer["successCount"], answer["failCount"]) == (0, 1)
    assert answer["failedUpdates"]["notFoundEmails"] == ["ann@example.com"]
    assert client.iterable.events == {}


@pytest.mark.parametrize(("counted", "failed"), [(True, 2), (False, 0)])
def test_a_disallowed_event_in_bulk_is_named_once_and_counted_by_choice(client, counted, failed):
    client.iterable.change(disallowed_counted=counted)
    client.iterable.disallow("page_view")
    client.update()
    answer = client.track_all(event("ann@example.com"), event("ann@example.com")).json()
    assert answer["disallowedEventNames"] == ["page_view"]
    assert (answer["successCount"], answer["failCount"]) == (0, failed)


def test_a_row_without_identifier_fails_and_is_listed_nowhere(client):
    answer = client.update_all({"dataFields": {}}, user("b@example.com")).json()
    assert (answer["successCount"], answer["failCount"]) == (1, 1)
    assert not any(answer["failedUpdates"].values())


# --- Refusals of a single call (rows 12, 13, 17 to 23) ----------------------------------------


def test_a_disallowed_event_is_a_200_whose_message_says_so(client):
    client.iterable.disallow("page_view")
    response = client.track()
    assert (response.status_code, response.json()["code"]) == (200, "Success")
    assert "is disallowed from tracking" in response.json()["msg"]
    assert client.iterable.events == {}


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({}, 400, "BadParams"),
        ({"email": None}, 400, "BadParams"),
        ({"email": ""}, 400, "InvalidEmailAddressError"),
        ({"email": "None"}, 400, "InvalidEmailAddressError"),
        ({"userId": ""}, 400, "InvalidUserIdError"),
        ({"userId": "x" * 53}, 400, "InvalidUserIdError"),
        ({"userId": "müller"}, 400, "InvalidUserIdError"),
        ({"email": " Gone@Example.com"}, 409, "ForgottenUserError"),
        ({"email": "GONE@example.com"}, 409, "ForgottenUserError"),
    ],
)
@pytest.mark.parametrize("endpoint", ["users/update", "events/track"])
def test_an_identifier_that_cannot_be_is_refused(client, endpoint, body, status, code):
    client.iterable.forget("gone@example.com")
    response = client.post(endpoint, {"eventName": "x"} | body)
    assert (response.status_code, response.json()["code"]) == (status, code)
    assert client.iterable.users == client.iterable.events == {}


def test_a_malformed_email_comes_back_in_lower_case(client):
    response = client.update("None")
    assert response.json() == {
        "msg": "Invalid email: none",
        "code": "InvalidEmailAddressError",
        "params": None,
    }


@pytest.mark.parametrize(
    "address",
    [
        "o'brien@example.com",
        "ann+test@example.co.uk",
        "zoë@example.com",
        "ann@münchen.example",
        f"{'a' * 64}@example.com",
    ],
)
def test_unusual_emails_are_accepted(client, address):
    assert client.update(address).status_code == 200


@pytest.mark.parametrize(
    "address",
    [
        "ann",
        "ann@localhost",
        "ann@example.c",
        "ann@example.com.",
        "ann@-example.com",
        "ann.@example.com",
        "a..b@example.com",
        "ann@example.com\n",
        "ann smith@example.com",
        "ann@b@example.com",
        "ann@example.123",
        f"{'a' * 65}@example.com",
        f"a@{'b' * 60}.{'b' * 60}.{'b' * 60}.{'b' * 60}.{'b' * 60}.com",
    ],
)
def test_malformed_emails_are_refused(client, address):
    assert client.update(address).json()["code"] == "InvalidEmailAddressError"


def test_a_value_of_another_type_is_refused_with_a_description(client):
    response = client.update(signupDate="soon", plan="pro")
    assert response.status_code == 400
    answer = response.json()
    assert answer["code"] == "RequestFieldsTypesMismatched"
    assert answer["msg"].startswith("Project 4711:")
    assert answer["params"] == {
        "validationErrors": {
            "signupDate": {
                "incomingTypes": ["string", "keyword"],
                "expectedType": "date",
                "category": "user",
                "offendingValue": "soon",
                "_type": "UnexpectedType",
            }
        }
    }
    assert client.iterable.users == {}
    assert client.update(plan=1).status_code == 200  # the refused row fixed no type


@pytest.mark.parametrize(
    ("known", "fields", "code"),
    [
        ("taken@example.com", {"email": "taken@example.com"}, "EmailAlreadyExists"),
        ("taken@example.com", {"userId": "u-1"}, "UserIdAlreadyExists"),
    ],
)
def test_an_identity_that_is_taken_is_a_conflict(client, known, fields, code):
    client.iterable.change(project_type="hybrid")
    client.update(known, userId="u-1")
    response = client.update("ann@example.com", **fields)
    assert (response.status_code, response.json()["code"]) == (409, code)
    assert list(client.iterable.users) == [known]


def test_an_unknown_user_id_needs_prefer_user_id_in_an_email_based_project(client):
    refused = client.post("users/update", {"userId": "u-1"})
    assert (refused.status_code, refused.json()["code"]) == (400, "UnknownUserIdError")
    client.post("users/update", {"userId": "u-1", "preferUserId": True})
    assert list(client.iterable.users) == ["u-1+0@placeholder.email"]


# --- Requests refused whole (rows 14 to 16, 24 to 27, 31, 32) ---------------------------------


def test_one_value_of_another_type_refuses_the_whole_bulk_request(client):
    rows = [user("a@example.com", plan="pro"), user("b@example.com", plan=1)]
    response = client.update_all(*rows)
    assert response.status_code == 400
    assert response.json()["params"]["validationErrors"]["plan"]["offendingValue"] == 1
    assert client.iterable.users == {}
    assert client.update_all(rows[1]).json()["successCount"] == 1  # it fixed no type either


def test_one_event_of_another_type_refuses_the_whole_bulk_request(client):
    client.update()
    response = client.track_all(
        event("ann@example.com", dataFields={"page": "pricing"}),
        event("ann@example.com", dataFields={"page": 7}),
    )
    assert response.json()["code"] == "RequestFieldsTypesMismatched"
    assert client.iterable.events == {}


@pytest.mark.parametrize(
    ("endpoint", "body", "path", "text"),
    [
        ("users/update", {"email": 7}, "obj.email", "String"),
        ("users/update", {"email": "a@b.co", "dataFields": []}, "obj.dataFields", "Object"),
        ("users/update", [], "obj", "Object"),
        ("events/track", event("a@b.co", createdAt="now"), "obj.createdAt", "Number"),
        ("events/track", event("a@b.co", createdAt=True), "obj.createdAt", "Number"),
        (
            "users/bulkUpdate",
            {"users": [user("a@b.co"), {"preferUserId": "abc"}]},
            "obj.users[1].preferUserId",
            "Boolean",
        ),
        ("users/bulkUpdate", {"users": {}}, "obj.users", "Array"),
        ("events/trackBulk", {"events": ["x"]}, "obj.events[0]", "Object"),
    ],
)
def test_a_declared_field_of_another_json_type_is_a_bad_body(client, endpoint, body, path, text):
    response = client.post(endpoint, body)
    assert response.status_code == 400
    assert response.json() == {
        "msg": f"[/api/{endpoint}] Invalid JSON body",
        "code": "BadJsonBody",
        "params": {path: f"{text} value expected"},
    }
    assert client.iterable.users == {}


@pytest.mark.parametrize(
    ("endpoint", "body", "path"),
    [
        ("events/track", {"email": "a@b.co"}, "obj.eventName"),
        ("events/trackBulk", {"events": [{"email": "a@b.co"}]}, "obj.events[0].eventName"),
        ("events/trackBulk", {}, "obj.events"),
        ("users/bulkUpdate", {}, "obj.users"),
    ],
)
def test_a_missing_field_is_a_bad_body(client, endpoint, body, path):
    response = client.post(endpoint, body)
    assert (response.status_code, response.json()["code"]) == (400, "BadJsonBody")
    assert path in response.json()["params"]


@pytest.mark.parametrize("body", [b"", b"{", b'{"a": NaN}', b'"\xff"', b"[" * 100_000])
def test_what_is_not_json_is_a_bad_body(client, body):
    headers = {"Content-Type": "application/json"}
    url = f"{client.iterable.url}/api/users/update"
    response = client.session.post(url, data=body, headers=headers, timeout=5)
    assert (response.status_code, response.json()["code"]) == (400, "BadJsonBody")
    assert response.json()["params"] is None


@pytest.mark.parametrize("key", [None, "", "another"])
@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_a_missing_or_wrong_key_is_a_401_that_uses_up_no_limit(client, endpoint, key):
    client.iterable.change(api_key="secret-key")
    response = client.post(endpoint, example(endpoint), headers={"Api-Key": key})
    assert response.status_code == 401
    assert response.json() == {
        "msg": "Invalid API key",
        "code": "BadApiKey",
        "params": {"ip": "127.0.0.1", "endpoint": f"/api/{endpoint}"},
    }
    assert client.iterable.stats["peak_per_s"] == {}


@pytest.mark.parametrize(
    ("variant", "code", "params"),
    [
        ("code_success", "Success", {"endpoint"}),
        ("no_permission", "BadApiKey", {"ip", "endpoint", "apiKeyIdentifier", "apiKeyType"}),
        ("bad_jwt", "InvalidJwtPayload", {"endpoint"}),
    ],
)
def test_a_401_has_its_variants(client, variant, code, params):
    client.iterable.change(api_key="another", unauthorized=variant)
    response = client.update()
    assert (response.status_code, response.json()["code"]) == (401, code)
    assert response.json()["params"].keys() == params


@pytest.mark.parametrize("as_json", [True, False])
@pytest.mark.parametrize("endpoint", ["users/bulkUpdate", "events/trackBulk"])
def test_a_bulk_request_over_4_mb_is_too_large(client, endpoint, as_json):
    client.iterable.change(too_large_as_json=as_json)
    rows = "users" if endpoint == "users/bulkUpdate" else "events"
    frame = len(json.dumps({rows: [], "pad": ""}))
    allowed = client.post(endpoint, {rows: [], "pad": "x" * (4_000_000 - frame)})
    refused = client.post(endpoint, {rows: [], "pad": "x" * (4_000_001 - frame)})
    assert (allowed.status_code, refused.status_code) == (200, 413)
    if as_json:
        assert refused.json()["code"] == "BatchTooLarge"
    else:
        assert refused.headers["Content-Type"] == "text/html"


@pytest.mark.parametrize(
    ("endpoint", "scale"),
    [
        ("users/update", 0.02),
        ("events/track", 0.005),
        ("users/bulkUpdate", 2),
        ("events/trackBulk", 1),
    ],
)
def test_the_request_over_the_limit_is_a_429(client, endpoint, scale):
    client.iterable.change(limit_scale=scale)
    answers = [client.post(endpoint, example(endpoint)) for _ in range(11)]
    assert [answer.status_code for answer in answers] == [200] * 10 + [429]
    assert answers[-1].json()["code"] == "RateLimitExceeded"
    assert "Retry-After" not in answers[-1].headers
    assert client.iterable.stats["peak_per_s"] == {endpoint: 10}


def test_limits_are_per_key_can_be_switched_off_and_can_name_a_delay(client):
    client.iterable.change(limit_scale=0.2, retry_after=3)
    batches = [client.update_all().status_code for _ in range(2)]
    assert batches == [200, 429]
    assert client.update_all().headers["Retry-After"] == "3"
    other = client.post("users/bulkUpdate", {"users": []}, headers={"Api-Key": "other"})
    assert other.status_code == 200
    client.iterable.change(limits=False)
    assert client.update_all().status_code == 200


@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_no_second_holds_more_than_the_limit_wherever_it_begins(endpoint):
    times: list[float] = []
    now = [0.0]
    limits = RateLimits(clock=lambda: now[0])
    for step in range(6000):
        now[0] = step * 0.00041
        if limits.accept("key", endpoint):
            times.append(now[0])
    limit = LIMITS_PER_S[endpoint]
    assert all(b - a >= 1.0 for a, b in zip(times, times[limit:], strict=False))
    assert len(times) >= 2 * limit


def test_what_another_client_takes_is_missing_from_the_limit():
    limits = RateLimits(other_clients={"users/update": 250})
    assert limits.capacity("users/update") == 250
    limits.limit_scale = 0.1
    assert (limits.capacity("users/update"), limits.capacity("users/bulkUpdate")) == (0, 1)


def test_an_unknown_path_is_an_html_page(client):
    response = client.post("users/updates", {})
    assert response.status_code == 404
    assert "Action not found" in response.text
    assert response.headers["Content-Type"] == "text/html"


def test_another_method_or_content_type_is_refused(client):
    url = f"{client.iterable.url}/api/users/update"
    assert client.session.get(url, timeout=5).status_code == 405
    assert client.session.post(url, data={"email": "a@b.co"}, timeout=5).status_code == 415


# --- Faults (rows 28 to 30 and the rest of the script) ----------------------------------------


@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_a_server_error_passes_after_its_turns(client, endpoint):
    client.update("ann@example.com")
    client.iterable.set_faults(Fault("server_error", endpoint=endpoint, skip=1, times=2))
    answers = [client.post(endpoint, example(endpoint)) for _ in range(4)]
    assert [answer.status_code for answer in answers] == [200, 500, 500, 200]
    assert answers[1].json()["code"] == "GenericError"
    assert answers[1].json()["params"] is None


@pytest.mark.parametrize("endpoint", ["users/update", "users/bulkUpdate"])
def test_a_fault_can_stick_to_the_rows_of_one_email(client, endpoint):
    client.iterable.set_faults(Fault("server_error", email="Ann@example.com"))
    assert client.post(endpoint, example(endpoint, "ben@example.com")).status_code == 200
    assert client.post(endpoint, example(endpoint, "ANN@example.com")).status_code == 500
    assert client.post(endpoint, example(endpoint, "ann@example.com")).status_code == 500


def test_a_fault_by_probability_repeats_with_its_seed(client):
    def run(seed: int) -> list[int]:
        client.iterable.set_faults(Fault("server_error", probability=0.3, seed=seed))
        return [client.update().status_code for _ in range(60)]

    assert run(1) == run(1) != run(2)
    assert 5 < run(1).count(500) < 35


@pytest.mark.parametrize("status", [502, 503, 504])
@pytest.mark.parametrize("body", [None, ""])
def test_a_gateway_answers_html_or_nothing(client, status, body):
    client.iterable.set_faults(Fault("gateway", status=status, body=body))
    response = client.update()
    assert (response.status_code, response.headers["Content-Type"]) == (status, "text/html")
    assert bool(response.content) is (body is None)
    assert "Server" not in response.headers


@pytest.mark.parametrize(
    ("fault", "kind", "delay"),
    [
        (Fault("rate_limited"), "application/json", None),
        (Fault("rate_limited", retry_after=7), "application/json", "7"),
        (Fault("rate_limited", body="Too Many Requests"), "text/plain", None),
    ],
)
def test_a_scripted_429_has_its_variants(client, fault, kind, delay):
    client.iterable.set_faults(fault)
    response = client.update()
    assert (response.status_code, response.headers["Content-Type"]) == (429, kind)
    assert response.headers.get("Retry-After") == delay


def test_retry_after_can_be_a_date(client):
    client.iterable.set_faults(Fault("rate_limited", retry_after=60, retry_after_as_date=True))
    then = email.utils.parsedate_to_datetime(client.update().headers["Retry-After"])
    assert 55 < then.timestamp() - time.time() < 65


@pytest.mark.parametrize(
    ("fault", "held"),
    [
        (Fault("reset_before"), 0),
        (Fault("reset_after"), 1),
        (Fault("truncated"), 1),
        (Fault("hang"), 0),
        (Fault("hang", applied=True), 1),
        (Fault("hang", seconds=0.01), 0),
        (Fault("drip", seconds=20), 1),
    ],
    ids=lambda value: str(getattr(value, "kind", value)),
)
@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_no_answer_arrives_and_the_request_is_applied_or_not(client, endpoint, fault, held):
    if endpoint == "events/trackBulk":
        client.update_all(user("ann@example.com"))
    client.iterable.set_faults(fault)
    lost = requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError
    with pytest.raises(lost):
        client.post(endpoint, example(endpoint), timeout=0.02)
    client.iterable.set_faults()
    state = client.iterable.events if endpoint.startswith("events") else client.iterable.users
    assert len(state) == held
    assert client.post(endpoint, example(endpoint)).status_code == 200


@pytest.mark.parametrize(
    ("fault", "status", "held"),
    [
        (Fault("garbage"), 200, 0),
        (Fault("garbage", applied=True, body="<html>"), 200, 1),
        (Fault("not_success", code="BadParams"), 200, 0),
        (Fault("unauthorized", variant="code_success"), 401, 0),
        (Fault("answer", status=418, body="tea", headers={"X-Pot": "1"}), 418, 0),
        (Fault("answer", status=202, applied=True), 202, 1),
    ],
    ids=lambda value: str(getattr(value, "kind", value)),
)
def test_a_false_answer_is_applied_only_if_told_so(client, fault, status, held):
    client.iterable.set_faults(fault)
    response = client.update()
    assert response.status_code == status
    assert len(client.iterable.users) == held
    assert response.headers.get("X-Pot") == fault.headers.get("X-Pot")


def test_garbage_is_not_json_and_not_success_is_another_code(client):
    client.iterable.set_faults(Fault("garbage", times=1), Fault("not_success", code="BadParams"))
    with pytest.raises(requests.JSONDecodeError):
        client.update().json()
    assert client.update().json()["code"] == "BadParams"


def test_a_dripping_answer_is_whole_in_the_end(client):
    client.iterable.set_faults(Fault("drip", seconds=0.01))
    assert client.update().json() == SUCCESS


def test_a_redirect_names_its_location(client):
    client.iterable.set_faults(Fault("redirect", status=307, location="http://127.0.0.1:9/x"))
    response = client.post("users/update", user("a@b.co"), allow_redirects=False)
    assert (response.status_code, response.headers["Location"]) == (307, "http://127.0.0.1:9/x")


def test_a_lost_answer_and_a_retry_hold_one_event_with_an_id_and_two_without(client):
    for event_id in ({"id": "e-1"}, {}):
        client.iterable.set_faults(Fault("reset_after", times=1))
        with pytest.raises(requests.ConnectionError):
            client.track(**event_id)
        client.track(**event_id)
    held = client.iterable.events
    assert held.pop("e-1").received == 2
    assert [event.received for event in held.values()] == [1, 1]


def test_an_unknown_kind_or_endpoint_of_a_fault_is_refused():
    with pytest.raises(ValueError, match="kind"):
        Fault("explode")  # type: ignore[arg-type]  # what is tested
    with pytest.raises(ValueError, match="endpoint"):
        Fault("hang", endpoint="users/delete")


# --- State (rows 34 to 37, 39) ----------------------------------------------------------------


def test_a_user_is_known_by_the_lower_cased_email(client):
    client.update("Ann@Example.COM", a=1)
    client.update("ann@example.com", b=2)
    assert client.iterable.users["ann@example.com"].data_fields == {"a": 1, "b": 2}
    assert len(client.iterable.users) == 1


@pytest.mark.parametrize(
    ("nested", "address"),
    [(False, {"zip": "1"}), (True, {"city": "Bern", "zip": "1"})],
)
@pytest.mark.parametrize("endpoint", ["users/update", "users/bulkUpdate"])
def test_omitted_fields_stay_null_deletes_objects_replace_or_merge(
    client, endpoint, nested, address
):
    client.update(keep=1, drop=1, tags=["a", "b"], address={"city": "Bern"})
    row = user("ann@example.com", drop=None, tags=["c"], address={"zip": "1"})
    row["mergeNestedObjects"] = nested
    client.post(endpoint, row if endpoint == "users/update" else {"users": [row]})
    held = client.iterable.users["ann@example.com"].data_fields
    assert held == {"keep": 1, "tags": ["c"], "address": address}


@pytest.mark.parametrize(
    ("first", "then", "status"),
    [
        ("text", "2026-01-13", 200),
        ("text", 1, 400),
        ("text", None, 200),
        (1, 2, 200),
        (1, 1.5, 400),
        (1, "1", 400),
        (1, True, 400),
        (1.5, 1, 200),
        (True, 1, 400),
        ("2026-01-13", "soon", 400),
        ("2026-01-13", "2026-01-13 14:30:45", 200),
        ({"city": "Bern"}, {"city": 3000}, 400),
        ({"city": "Bern"}, "Bern", 400),
        (["a"], ["b", "c"], 200),
        (["a"], [1], 400),
        ([1], [], 200),
        (None, "anything", 200),
    ],
)
def test_the_first_value_fixes_the_type_of_a_field(client, first, then, status):
    assert client.update("ann@example.com", field=first).status_code == 200
    assert client.update("ben@example.com", field=then).status_code == status


@pytest.mark.parametrize(
    ("value", "status"),
    [
        ("2020-04-13", 200),
        ("2020-04-13 13:37:19", 200),
        ("2020-04-13 13:37:19 +00:00", 200),
        ("2020-04-13T13:37:19.039+00:00", 200),
        ("2020-04-13T13:37:19.039Z", 200),
        ("2020-04-13T13:37:19.039", 400),
        ("2020-04-13T13:37:19Z", 400),
        ("2020-04-13 13:37:19.039", 400),
        ("2020-04-13 13:37:19.039Z", 400),
        ("2020/04/13", 400),
        ("2020-04-13 13:37:19 00:00", 400),
        ("2020-13-13", 400),
        (1586785039, 400),
    ],
)
def test_five_layouts_are_dates(client, value, status):
    assert client.update(signupDate=value).status_code == status


def test_types_of_event_fields_are_fixed_for_each_event_name(client):
    assert client.track(eventName="a", dataFields={"page": "x"}).status_code == 200
    assert client.track(eventName="b", dataFields={"page": 1}).status_code == 200
    refused = client.track(eventName="a", dataFields={"page": 1}).json()
    assert refused["params"]["validationErrors"]["page"]["category"] == "event"


def test_an_event_sent_again_is_updated_in_place(client):
    client.update()
    client.track(id="e-1", createdAt=1, dataFields={"page": "pricing"})
    client.track(id="e-1", createdAt=2, dataFields={"page": "settings"})
    (held,) = client.iterable.events.values()
    assert (held.created_at, held.data_fields, held.received) == (2, {"page": "settings"}, 2)


def test_an_event_remembers_whether_its_user_existed(client):
    client.track(id="before")
    client.update()
    client.track(id="after")
    existed = {event.id: event.user_existed for event in client.iterable.events.values()}
    assert existed == {"before": False, "after": True}


def test_a_user_id_in_data_fields_becomes_the_users_id(client):
    client.update(userId="u-1", plan="pro")
    held = client.iterable.users["ann@example.com"]
    assert (held.user_id, held.data_fields) == ("u-1", {"plan": "pro"})
    assert client.track_all({"userId": "u-1", "eventName": "x"}).json()["successCount"] == 1


def test_an_email_in_data_fields_moves_the_user_in_a_hybrid_project(client):
    client.iterable.change(project_type="hybrid")
    client.update(userId="u-1")
    client.update(email="New@example.com")
    (held,) = client.iterable.users.values()
    assert (held.email, held.user_id) == ("new@example.com", "u-1")


def test_unknown_fields_are_filtered_out_where_none_may_be_created(client):
    client.update(known=1)
    answer = client.update_all(user("b@example.com", known=2, new=3), createNewFields=False).json()
    assert answer["filteredOutFields"] == ["new"]
    assert client.iterable.users["b@example.com"].data_fields == {"known": 2}


# --- What it can be asked and told ------------------------------------------------------------


def test_the_log_holds_a_copy_of_each_request_without_the_key(client):
    client.iterable.set_faults(Fault("reset_before", skip=1))
    client.update("ann@example.com", first_name="Ann")
    with pytest.raises(requests.ConnectionError):
        client.track()
    first, second = client.iterable.requests
    assert (first.method, first.path, first.status) == ("POST", "/api/users/update", 200)
    assert json.loads(first.body) == user("ann@example.com", first_name="Ann")
    assert first.headers["api-key"].startswith("sha256:")
    assert "secret-key" not in repr(first)
    client.iterable.change(api_key="secret-key")
    shown = client.session.get(f"{client.iterable.url}/sandbox/settings", timeout=5)
    assert shown.json()["api_key"] == first.headers["api-key"]
    assert abs(first.at - time.time()) < 5
    assert (second.status, second.fault) == (None, "reset_before")


def test_the_log_is_bounded_in_number_and_bytes(client):
    client.iterable.change(log_requests=2)
    for name in "abc":
        client.update(f"{name}@example.com")
    emails = [json.loads(line.body)["email"] for line in client.iterable.requests]
    assert emails == ["b@example.com", "c@example.com"]
    client.iterable.change(log_bytes=10)
    client.update("d@example.com")
    assert client.iterable.requests == []


def test_latency_delays_answers_but_not_each_other(client):
    client.iterable.change(latency_ms={"users/update": (30, 40)})
    began = time.monotonic()
    with ThreadPoolExecutor(10) as pool:
        list(pool.map(lambda n: client.update(f"u{n}@example.com"), range(10)))
    assert 0.03 <= time.monotonic() - began < 0.28


def test_state_settings_and_orders_go_over_http_too(client):
    def ask(name: str) -> Any:
        return client.session.get(f"{client.iterable.url}/sandbox/{name}", timeout=5).json()

    def tell(name: str, order: object) -> None:
        client.session.post(f"{client.iterable.url}/sandbox/{name}", json=order, timeout=5)

    tell("settings", {"latency_ms": 1, "other_clients": {"users/update": 250}})
    tell("faults", [{"kind": "server_error", "times": 1}])
    tell("forget", ["gone@example.com"])
    tell("disallow", ["x"])
    statuses = [client.update(f"u{n}@example.com").status_code for n in range(4)]
    assert statuses == [500, 200, 200, 200]
    assert client.update("gone@example.com").status_code == 409
    assert "disallowed" in client.track("u1@example.com", eventName="x").json()["msg"]
    client.track("u1@example.com", id="e-1")

    page = ask("users?offset=1&limit=1")
    assert [line["email"] for line in page] == ["u2@example.com"]
    assert [line["id"] for line in ask("events")] == ["e-1"]
    assert [line["fault"] for line in ask("requests?limit=2")] == ["server_error", None]
    assert ask("settings")["latency_ms"] == 1
    assert ask("stats") == {
        "requests": {
            "users/update": {"500": 1, "200": 3, "409": 1},
            "events/track": {"200": 2},
        },
        "faults": {"server_error": 1},
        "users": 3,
        "events": 1,
        "peak_per_s": {"users/update": 5, "events/track": 2},
        "connections": 1,
    }
    tell("reset", None)
    assert (ask("users"), ask("events"), ask("requests")) == ([], [], [])
    assert ask("settings")["latency_ms"] == 1


@pytest.mark.parametrize(
    ("name", "order"),
    [
        ("settings", {"latency": 1}),
        ("settings", {"limits": "no"}),
        ("settings", {"unauthorized": "maybe"}),
        ("faults", [{"kind": "explode"}]),
        ("faults", [{"kind": "hang", "secs": 1}]),
    ],
)
def test_an_order_that_cannot_be_is_refused_with_a_reason(client, name, order: Any):
    url = f"{client.iterable.url}/sandbox/{name}"
    response = client.session.post(url, json=order, timeout=5)
    assert response.status_code == 400
    assert response.json()["error"]


def test_state_can_be_read_after_the_end_and_no_thread_is_left():
    with IterableSandbox(limits=False) as iterable, requests.Session() as session:
        session.post(
            f"{iterable.url}/api/users/update",
            json=user("a@b.co"),
            headers={"Api-Key": "k"},
            timeout=5,
        )
    assert list(iterable.users) == ["a@b.co"]
    assert iterable.stats["connections"] == 1
    assert not [t for t in threading.enumerate() if t.name == "iterable-sandbox"]


# --- Reading the fields of profiles -----------------------------------------------------------


def get_fields(client, **headers: str) -> requests.Response:
    url = f"{client.iterable.url}/api/users/getFields"
    session: requests.Session = client.session
    return session.get(url, headers=headers, timeout=5)


def test_the_fields_of_profiles_are_shown_with_the_types_that_first_values_gave_them(client):
    before = get_fields(client).json()["fields"]
    assert (before["email"], before["signupDate"]) == ("string", "date")
    client.update(age=7, height=1.5, pro=True, name="Ann", born="2001-02-03", home={"zip": "1"})
    assert get_fields(client).json()["fields"] == before | {
        "age": "long",
        "height": "double",
        "pro": "boolean",
        "name": "string",
        "born": "date",
        "home": "object",
        "home.zip": "string",
    }


def test_reading_the_fields_has_a_key_a_limit_a_method_and_faults_of_its_own(client):
    client.iterable.change(api_key="secret-key")
    assert get_fields(client, **{"Api-Key": "another"}).status_code == 401
    assert [get_fields(client).status_code for _ in range(4)] == [200, 200, 200, 429]
    wrong_method = client.post("users/getFields", {})
    assert (wrong_method.status_code, wrong_method.headers["Allow"]) == (405, "GET")
    client.iterable.change(limits=False)
    client.iterable.set_faults(Fault("gateway", endpoint="users/getFields", times=1))
    assert (client.update().status_code, get_fields(client).status_code) == (200, 502)
    answers = {"200": 3, "401": 1, "405": 1, "429": 1, "502": 1}
    assert client.iterable.stats["requests"]["users/getFields"] == answers


@pytest.mark.parametrize("skew_s", [0, 3600, -86400])
def test_answers_carry_the_date_of_its_clock(client, skew_s):
    client.iterable.change(clock_skew_s=skew_s)
    then = email.utils.parsedate_to_datetime(client.update().headers["Date"])
    assert then.timestamp() - time.time() == pytest.approx(skew_s, abs=3)


def test_the_date_can_be_left_out(client):
    client.iterable.change(send_date=False)
    assert "Date" not in client.update().headers


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_alone_it_says_its_url_and_ends_with_0_on_a_signal(number):
    command = [sys.executable, "-m", "sandbox.iterable", "--port", "0", "--api-key", "right"]
    root = Path(__file__).parent.parent.parent
    with subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        statuses = [
            requests.post(
                f"{url}/api/users/update", json=user("a@b.co"), headers={"Api-Key": key}, timeout=5
            ).status_code
            for key in ("right", "wrong")
        ]
        os.kill(process.pid, number)
        assert (statuses, process.wait(5)) == ([200, 401], 0)
