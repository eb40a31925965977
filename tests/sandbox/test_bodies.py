"""What the local Iterable takes for JSON, an email, a date, and a value of the same type."""

import pytest

from tests.sandbox.conftest import event, user

# --- Bodies (rows 15 and 16) ------------------------------------------------------------------


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


# --- Emails -----------------------------------------------------------------------------------


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


# --- Types (row 36) ---------------------------------------------------------------------------


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


# --- Values that are too long


@pytest.mark.parametrize(
    "fields",
    [{"bio": "x" * 32_769}, {"home": {"street": "é" * 32_769}}, {"tags": ["a", "x" * 32_769]}],
)
@pytest.mark.parametrize("endpoint", ["users/update", "events/track"])
def test_a_string_of_more_than_32_768_characters_is_refused(client, endpoint, fields):
    body = {"email": "ann@example.com", "eventName": "x", "dataFields": fields}
    refused = client.post(endpoint, body)
    assert (refused.status_code, refused.json()["code"]) == (400, "BadParams")
    assert client.iterable.users == client.iterable.events == {}
    client.iterable.change(longest_value=32_769)
    assert client.post(endpoint, body).status_code == 200


def test_a_string_of_32_768_characters_is_taken_and_any_where_no_limit_is_set(client):
    assert client.update(bio="é" * 32_768).status_code == 200
    client.iterable.change(longest_value=None)
    assert client.update(bio="x" * 1_000_000).status_code == 200


def test_a_refused_value_that_is_too_long_fixes_no_type(client):
    client.update(bio="x" * 32_769, age="seven")
    assert client.update(age=7).status_code == 200


def test_in_bulk_a_profile_with_too_long_a_value_is_listed_and_an_event_is_only_counted(client):
    long = {"text": "x" * 32_769}
    updated = client.update_all(user("Ann@example.com", **long), user("ben@example.com")).json()
    assert (updated["successCount"], updated["failCount"]) == (1, 1)
    assert updated["failedUpdates"]["invalidDataEmails"] == ["ann@example.com"]
    rows = event("ben@example.com", dataFields=long), event("ben@example.com")
    tracked = client.track_all(*rows).json()
    assert (tracked["successCount"], tracked["failCount"]) == (1, 1)
    assert not any(tracked["failedUpdates"].values())
