"""The local Iterable answers and remembers as the job relies on it."""

import json
import time
from typing import Any

import pytest

from sandbox.endpoints import LIMITS_PER_S, RateLimits
from sandbox.settings import Settings
from tests.sandbox.conftest import ENDPOINTS, event, example, user

SUCCESS = {"msg": "", "code": "Success", "params": None}


def lists(*buckets: str) -> dict[str, list[str]]:
    """Return a bulk answer's lists of failed rows, all empty."""
    return {f"{bucket}{kind}": [] for bucket in buckets for kind in ("Emails", "UserIds")}


def failed(answer: dict[str, Any]) -> dict[str, list[str]]:
    """Return the lists of failed rows that are not empty."""
    return {name: values for name, values in answer["failedUpdates"].items() if values}


# --- Success ----------------------------------------------------------------------------------


def test_single_calls_are_answered_with_a_code(client):
    updated = client.update("Ann@Example.com", plan_type="pro")
    assert (updated.status_code, updated.json(), len(updated.content)) == (200, SUCCESS, 41)
    assert client.iterable.users["ann@example.com"].data_fields == {"plan_type": "pro"}
    assert client.track(id="e-1").json() == {
        "msg": "Event with id: e-1 tracked.",
        "code": "Success",
        "params": {"id": "e-1"},
    }


def test_bulk_requests_are_answered_with_counters_and_all_lists_and_no_code(client):
    of_both = {"failCount": 0, "filteredOutFields": [], **lists("invalid")}
    rows = user("a@example.com", plan="pro"), user("ann@example.com")
    assert client.update_all(*rows) == of_both | lists("noOp") | {
        "successCount": 2,
        "createdFields": ["plan"],
        "failedUpdates": lists("invalid", "invalidData", "conflict", "forgotten", "notFound"),
    }
    assert client.track_all(event("ann@example.com")) == of_both | {
        "successCount": 1,
        "createdFields": [],
        "disallowedEventNames": [],
        "failedUpdates": lists("invalid", "forgotten", "notFound"),
    }


# --- Who comes in -----------------------------------------------------------------------------


@pytest.mark.parametrize("key", [None, "", "another"])
@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_a_missing_or_wrong_key_is_a_401(client, endpoint, key):
    client.iterable.change(api_key="secret-key")
    response = client.post(endpoint, example(endpoint), headers={"Api-Key": key})
    assert response.status_code == 401
    assert response.json() == {
        "msg": "Invalid API key",
        "code": "BadApiKey",
        "params": {"ip": "127.0.0.1", "endpoint": f"/api/{endpoint}"},
    }


def test_an_unknown_path_is_an_html_page_and_a_body_that_is_not_json_a_415(client):
    response = client.post("users/updates", {})
    assert (response.status_code, response.headers["Content-Type"]) == (404, "text/html")
    assert "Action not found" in response.text
    form = client.session.post(f"{client.iterable.url}/api/users/update", data={"a": 1}, timeout=5)
    assert form.status_code == 415


@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_the_request_over_the_limit_is_a_429(client, endpoint):
    client.iterable.change(limit_scale=2 / LIMITS_PER_S[endpoint])
    answers = [client.post(endpoint, example(endpoint)) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert answers[-1].json()["code"] == "RateLimitExceeded"
    client.iterable.change(limits=False)
    assert client.post(endpoint, example(endpoint)).status_code == 200


@pytest.mark.parametrize("endpoint", LIMITS_PER_S)
def test_no_second_holds_more_than_the_limit_wherever_it_begins(endpoint, monkeypatch):
    now, times = 0.0, []
    monkeypatch.setattr(time, "monotonic", lambda: now)
    limits, limit = RateLimits(Settings()), LIMITS_PER_S[endpoint]
    for step in range(6000):
        now = step * 0.00041
        if limits.accept(endpoint):
            times.append(now)
    assert all(b - a >= 1.0 for a, b in zip(times, times[limit:], strict=False))
    assert len(times) >= 2 * limit


def test_what_another_client_takes_is_missing_from_the_limit():
    limits = RateLimits(Settings(other_clients={"users/bulkUpdate": 3}))
    assert [limits.accept("users/bulkUpdate") for _ in range(3)] == [True, True, False]


# --- Bodies -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("endpoint", "body", "path"),
    [
        ("users/update", {"email": 7}, "obj.email"),
        ("users/update", [], "obj"),
        ("events/track", event("a@b.co", createdAt=True), "obj.createdAt"),
        ("events/track", {"email": "a@b.co"}, "obj.eventName"),
        ("users/bulkUpdate", {"users": [user("a@b.co"), {"userId": 7}]}, "obj.users.1.userId"),
        ("users/bulkUpdate", {}, "obj.users"),
        ("events/trackBulk", {"events": ["x"]}, "obj.events.0"),
        ("users/update", b"{", None),
        ("users/update", b'"\xff"', None),
    ],
)
def test_a_body_that_is_not_json_or_lacks_a_declared_field_is_bad(client, endpoint, body, path):
    data = body if isinstance(body, bytes) else json.dumps(body)
    response = client.post(endpoint, None, data=data, headers={"Content-Type": "application/json"})
    assert (response.status_code, response.json()["code"]) == (400, "BadJsonBody")
    assert response.json()["msg"] == f"[/api/{endpoint}] Invalid JSON body"
    assert list(response.json()["params"] or [None]) == [path]
    assert client.iterable.users == {}


@pytest.mark.parametrize("endpoint", ["users/bulkUpdate", "events/trackBulk"])
def test_a_bulk_request_of_too_many_bytes_or_rows_is_refused_whole(client, endpoint):
    name = "users" if endpoint == "users/bulkUpdate" else "events"
    frame = len(json.dumps({name: [], "pad": ""}))
    assert client.post(endpoint, {name: [], "pad": "x" * (4_000_000 - frame)}).status_code == 200
    too_long = client.post(endpoint, {name: [], "pad": "x" * (4_000_001 - frame)})
    client.iterable.change(most_rows_in_bulk=2)
    assert client.post(endpoint, {name: [event("bad")] * 2}).status_code == 200
    too_many = client.post(endpoint, {name: [event("b@example.com")] * 3})
    for refused in (too_long, too_many):
        assert (refused.status_code, refused.json()["code"]) == (413, "BatchTooLarge")
    assert client.iterable.users == {}


# --- Identifiers ------------------------------------------------------------------------------


def test_malformed_emails_are_refused_in_lower_case_and_unusual_ones_accepted(client):
    for address in (
        *("", "None", "ann@localhost", "ann@example.c", "ann@example.com.", "ann@-example.com"),
        *("ann.@example.com", "a..b@example.com", "ann@example.com\n", "ann smith@example.com"),
        *("ann@b@example.com", "ann@example.123", f"{'a' * 65}@example.com"),
    ):
        response = client.update(address)
        told = {"msg": f"Invalid email: {address.lower()}", "code": "InvalidEmailAddressError"}
        assert (response.status_code, response.json()) == (400, told | {"params": None})
    for address in ("o'brien@example.com", "ann+x@x.co.uk", "zoë@x.com", "ann@münchen.example"):
        assert client.update(address).status_code == 200


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({}, 400, "BadParams"),
        ({"email": None}, 400, "BadParams"),
        ({"email": "None"}, 400, "InvalidEmailAddressError"),
        ({"userId": ""}, 400, "InvalidUserIdError"),
        ({"userId": "x" * 53}, 400, "InvalidUserIdError"),
        ({"userId": "müller"}, 400, "InvalidUserIdError"),
        ({"userId": "space "}, 400, "InvalidUserIdError"),
        ({"email": " Gone@Example.com"}, 409, "ForgottenUserError"),
        ({"userId": "u-1"}, 409, "ForgottenUserError"),
    ],
)
@pytest.mark.parametrize("endpoint", ["users/update", "events/track"])
def test_an_identifier_that_cannot_be_is_refused(client, endpoint, body, status, code):
    client.iterable.change(project_type="hybrid")
    client.update("gone@example.com")
    client.post("users/update", {"userId": "U-1"})
    # Who is forgotten is deleted.
    client.iterable.forget("Gone@example.com", "U-1")
    response = client.post(endpoint, {"eventName": "x"} | body)
    assert (response.status_code, response.json()["code"]) == (status, code)
    assert client.iterable.users == client.iterable.events == {}


@pytest.mark.parametrize(
    ("kind", "codes"),
    [
        ("email", ["Success", "UnknownUserIdError"]),
        ("userID", ["UnknownEmailError", "Success"]),
        ("hybrid", ["Success", "Success"]),
    ],
)
def test_each_kind_of_project_knows_its_users_by_another_identifier(client, kind, codes):
    client.iterable.change(project_type=kind)
    bodies = {"email": "ann@example.com"}, {"userId": "u-1"}
    answers = [client.post("users/update", body).json()["code"] for body in bodies]
    assert answers == codes
    users = {user.email or user.user_id for user in client.iterable.users.values()}
    both = zip(("ann@example.com", "u-1"), codes, strict=True)
    assert users == {who for who, code in both if code == "Success"}


# --- Rows that fail in a bulk request ---------------------------------------------------------


def test_rows_that_fail_by_themselves_are_listed_and_the_others_applied(client):
    client.iterable.change(project_type="hybrid", limits=False)
    client.iterable.forget("gone@example.com", "u-1")
    client.update("taken@example.com")
    rows = [
        event("Not An Email"),
        {"userId": "spaced ", "eventName": "x"},
        event("Gone@example.com"),
        {"userId": "U-1", "eventName": "x"},
        event("ann@example.com", dataFields={"email": "Taken@example.com"}),
        {"eventName": "named nowhere"},
        event("long@example.com", dataFields={"bio": "x" * 32_769}),
        event("ben@example.com"),
    ]
    answer = client.update_all(*rows)
    assert (answer["successCount"], answer["failCount"]) == (1, 7)
    both = {
        "invalidEmails": ["not an email"],
        "invalidUserIds": ["spaced "],
        "forgottenEmails": ["gone@example.com"],
        "forgottenUserIds": ["U-1"],
    }
    assert failed(answer) == both | {"conflictEmails": ["taken@example.com"]}
    assert (answer["invalidEmails"], answer["invalidUserIds"]) == (["not an email"], ["spaced "])
    assert list(client.iterable.users) == ["taken@example.com", "ben@example.com"]
    answer = client.track_all(*rows)
    assert (answer["successCount"], answer["failCount"]) == (1, 7)
    unknown = {"notFoundEmails": ["ann@example.com", "long@example.com"]}
    assert failed(answer) == both | unknown
    assert [event.email for event in client.iterable.events.values()] == ["ben@example.com"]


def test_emails_in_failure_lists_can_be_as_sent_and_are_listed_once_for_each_row(client):
    client.iterable.change(echo_lower_case=False)
    answer = client.update_all(user("Not@Email"), user("not@email"))
    assert failed(answer) == {"invalidEmails": ["Not@Email", "not@email"]}


def test_a_disallowed_event_in_bulk_is_named_once_and_counted(client):
    client.iterable.disallow("page_view")
    client.update()
    answer = client.track_all(event("ann@example.com"), event("ann@example.com"))
    assert answer["disallowedEventNames"] == ["page_view"]
    assert (answer["successCount"], answer["failCount"]) == (0, 2)
    single = client.track()
    assert (single.status_code, single.json()["code"]) == (200, "Success")
    assert "is disallowed from tracking" in single.json()["msg"]
    assert client.iterable.events == {}


# --- Types of fields --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("first", "then", "status"),
    [
        ("text", "2026-01-13", 200),
        ("text", 1, 400),
        (1, 1.5, 400),
        (1, "1", 400),
        (1.5, 1, 200),
        (True, 1, 400),
        ("2026-01-13", "soon", 400),
        ("2026-01-13", "2026-01-13 14:30:45", 200),
        # These five layouts are dates.
        ("2026-01-13", "2020-04-13 13:37:19 +00:00", 200),
        ("2026-01-13", "2020-04-13T13:37:19.039+00:00", 200),
        ("2020-04-13T13:37:19.039Z", "2026-01-13", 200),
        ("2026-01-13", "2020-04-13T13:37:19Z", 400),
        ("2026-01-13", "2020-04-13 13:37:19.039", 400),
        ("2026-01-13", "2020-13-13", 400),
        ({"city": "Bern"}, {"city": 3000}, 400),
        ({"city": "Bern"}, "Bern", 400),
        (["a"], [1], 400),
        ([1], [], 200),
        (None, "anything", 200),
    ],
)
def test_the_first_value_fixes_the_type_of_a_field(client, first, then, status):
    assert client.update("ann@example.com", field=first).status_code == 200
    assert client.update("ben@example.com", field=then).status_code == status


def test_a_value_of_another_type_is_refused_with_a_description(client):
    refused = client.update(signupDate="soon", plan="pro")
    assert (refused.status_code, refused.json()["code"]) == (400, "RequestFieldsTypesMismatched")
    assert refused.json()["params"]["validationErrors"] == {
        "signupDate": {
            "incomingTypes": ["string", "keyword"],
            "expectedType": "date",
            "category": "user",
            "offendingValue": "soon",
            "_type": "UnexpectedType",
        }
    }
    assert client.iterable.users == {}
    assert client.update(plan=1).status_code == 200  # the refused row fixed no type


def test_one_value_of_another_type_refuses_the_whole_bulk_request(client):
    rows = [user("a@example.com", plan="pro"), user("b@example.com", plan=1)]
    refused = client.post("users/bulkUpdate", {"users": rows})
    assert refused.status_code == 400
    assert refused.json()["params"]["validationErrors"]["plan"]["offendingValue"] == 1
    assert client.iterable.users == {}
    assert client.update_all(rows[1])["successCount"] == 1  # it fixed no type either
    rows = [event("b@example.com", dataFields={"page": page}) for page in ("pricing", 7)]
    assert client.track_all(*rows)["code"] == "RequestFieldsTypesMismatched"
    assert client.iterable.events == {}


def test_types_of_event_fields_are_fixed_for_each_event_name(client):
    assert client.track(eventName="a", dataFields={"page": "x"}).status_code == 200
    assert client.track(eventName="b", dataFields={"page": 1}).status_code == 200
    refused = client.track(eventName="a", dataFields={"page": 1}).json()
    assert refused["params"]["validationErrors"]["page"]["category"] == "event"


def test_the_fields_of_profiles_and_their_types_can_be_asked(client):
    client.update(score=1, prefs={"on": True})
    url = f"{client.iterable.url}/api/users/getFields"
    fields = client.session.get(url, timeout=5).json()["fields"]
    assert fields["signupDate"] == "date"
    assert [fields[name] for name in ("score", "prefs", "prefs.on")] == [
        "long",
        "object",
        "boolean",
    ]


# --- State ------------------------------------------------------------------------------------


@pytest.mark.parametrize("endpoint", ["users/update", "users/bulkUpdate"])
def test_omitted_fields_stay_null_deletes_and_objects_are_replaced(client, endpoint):
    client.update(keep=1, drop=1, tags=["a", "b"], address={"city": "Bern"})
    row = user("Ann@example.com", drop=None, tags=["c"], address={"zip": "1"})
    client.post(endpoint, row if endpoint == "users/update" else {"users": [row]})
    held = client.iterable.users["ann@example.com"]
    assert held.data_fields == {"keep": 1, "tags": ["c"], "address": {"zip": "1"}}
    assert held.updates == 2


def test_an_event_sent_again_is_updated_in_place_and_one_without_an_id_is_new(client):
    client.update(plan="pro")
    client.track(id="e-1", createdAt=1, dataFields={"page": "pricing"})
    client.track(id="e-1", createdAt=2, dataFields={"page": "settings"})
    (held,) = client.iterable.events.values()
    assert (held.created_at, held.data_fields, held.received) == (2, {"page": "settings"}, 2)
    client.track()
    client.track_all(event("ann@example.com"))
    assert sorted(each.received for each in client.iterable.events.values()) == [1, 1, 2]
    # For runs of millions, fields need not be kept.
    client.iterable.change(keep_fields=False)
    client.update(plan="pro")
    client.track(id="e-1", dataFields={"page": "x"})
    assert client.iterable.users["ann@example.com"].data_fields == {}
    assert client.iterable.events["e-1"].data_fields == {}


@pytest.mark.parametrize(
    ("in_project", "in_request", "created"),
    [(True, None, True), (True, False, False), (False, None, False), (False, True, True)],
)
def test_new_fields_are_created_or_left_out_as_the_request_or_the_project_says(
    client, in_project, in_request, created
):
    client.update(home={"zip": "1"})
    client.iterable.change(create_new_fields=in_project, limits=False)
    rule = {} if in_request is None else {"createNewFields": in_request}
    row = user("b@example.com", home={"zip": "2", "city": "Bern"}, new=3)
    answer = client.update_all(row, **rule)
    names = ["home.city", "new"]
    assert (answer["createdFields"], answer["filteredOutFields"]) == (
        (names, []) if created else ([], names)
    )
    kept = row["dataFields"] if created else {"home": {"zip": "2"}}
    assert client.iterable.users["b@example.com"].data_fields == kept
    # A single call says nothing, and of events each has its own rule.
    assert client.post("users/update", user("c@example.com", x=1) | rule).json() == SUCCESS
    assert client.iterable.users["c@example.com"].data_fields == ({"x": 1} if created else {})
    row = event("b@example.com", id="e-1", dataFields={"y": 1}) | rule
    assert client.track_all(row)["filteredOutFields"] == ([] if created else ["y"])
    assert client.iterable.events["e-1"].data_fields == ({"y": 1} if created else {})


@pytest.mark.parametrize("endpoint", ["users/update", "users/bulkUpdate"])
def test_a_user_is_unknown_to_events_until_the_lag_is_over(client, endpoint):
    client.iterable.change(lag_s=60)
    client.post(endpoint, example(endpoint))
    assert failed(client.track_all(event("Ann@example.com"))) == {
        "notFoundEmails": ["ann@example.com"]
    }
    assert client.track(id="early").status_code == 200
    client.iterable.change(track_needs_user=True)
    refused = client.track()
    assert (refused.status_code, refused.json()["code"]) == (400, "UnknownEmailError")
    client.iterable.change(lag_s=0)
    assert client.track_all(event("ann@example.com", id="late"))["successCount"] == 1
    assert client.track(id="early").status_code == 200
    existed = {event.id: event.user_existed for event in client.iterable.events.values()}
    assert existed == {"early": False, "late": True}
