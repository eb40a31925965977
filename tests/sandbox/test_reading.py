"""The endpoints that only read."""

import pytest
import requests

from sandbox.faults import Fault
from tests.sandbox.conftest import Client, event

# --- The fields of profiles -------------------------------------------------------------------


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


# --- One user


def get(client: Client, path: str, **query: object) -> requests.Response:
    url = f"{client.iterable.url}/api/{path}"
    return client.session.get(url, params={k: str(v) for k, v in query.items()}, timeout=5)


BY_EMAIL = [("users/getByEmail", {"email": "Ann@Example.com"}), ("users/Ann%40Example.com", {})]
BY_USER_ID = [("users/byUserId", {"userId": "a/b"}), ("users/byUserId/a%2Fb", {})]


@pytest.mark.parametrize(("path", "query"), BY_EMAIL + BY_USER_ID)
def test_a_user_is_shown_by_email_or_user_id_in_the_path_or_the_query(client, path, query):
    assert get(client, path, **query).json() == {}
    client.update("ann@example.com", userId="a/b", plan="pro", home={"zip": "1"})
    assert get(client, path, **query).json() == {
        "user": {
            "email": "ann@example.com",
            "userId": "a/b",
            "dataFields": {"plan": "pro", "home": {"zip": "1"}},
        }
    }


def test_what_a_profile_lacks_is_left_out(client):
    client.update("ann@example.com")
    shown = get(client, "users/getByEmail", email="ann@example.com").json()
    assert shown == {"user": {"email": "ann@example.com", "dataFields": {}}}
    client.iterable.change(project_type="userID")
    client.post("users/update", {"userId": "u-1"})
    shown = get(client, "users/byUserId/u-1").json()
    assert shown == {"user": {"userId": "u-1", "dataFields": {}}}


@pytest.mark.parametrize(
    ("path", "query", "code"),
    [
        ("users/getByEmail", {}, "BadParams"),
        ("users/byUserId", {"email": "a@b.co"}, "BadParams"),
        ("users/getByEmail", {"email": ""}, "InvalidEmailAddressError"),
        ("users/000", {}, "InvalidEmailAddressError"),
        ("events/000", {}, "InvalidEmailAddressError"),
        ("events/byUserId/", {}, "InvalidUserIdError"),
        ("events/a@b.co", {"limit": 0}, "BadParams"),
        ("events/a@b.co", {"limit": 201}, "BadParams"),
        ("events/a@b.co", {"limit": "all"}, "BadParams"),
    ],
)
def test_parameters_that_cannot_be_are_refused(client, path, query, code):
    refused = get(client, path, **query)
    assert (refused.status_code, refused.json()["code"]) == (400, code)


@pytest.mark.parametrize("path", ["users/getByEmail?email=a@b.co", "events/a@b.co"])
def test_a_userid_based_project_looks_nobody_up_by_email(client, path):
    client.iterable.change(project_type="userID")
    assert get(client, path).json()["code"] == "BadParams"


# --- The events of one user


def test_events_are_shown_newest_first_with_their_own_times(client):
    client.update("ann@example.com", userId="u-1")
    client.track(id="old", createdAt=1_577_934_245, dataFields={"page": "pricing"})
    client.track("ben@example.com", id="another's")
    client.track(id="now")
    far = {"id": "far", "createdAt": 10**17}
    client.post("events/track", {"userId": "u-1", "eventName": "x"} | far)
    by_email = get(client, "events/Ann@example.com").json()["events"]
    assert [event["_id"] for event in by_email] == ["far", "now", "old"]
    assert by_email[2] == {
        "_id": "old",
        "eventType": "customEvent",
        "eventName": "page_view",
        "email": "ann@example.com",
        "createdAt": "2020-01-02 03:04:05 +00:00",
        "dataFields": {"page": "pricing"},
    }
    assert by_email[0]["createdAt"] == 10**17
    assert by_email[0]["userId"] == "u-1"
    assert get(client, "events/byUserId/u-1").json()["events"] == by_email
    assert get(client, "events/nobody@example.com").json() == {"events": []}


def test_events_are_limited_to_30_or_as_asked(client):
    client.update()
    rows = [event("ann@example.com", id=f"e-{n}", createdAt=n) for n in range(40)]
    client.track_all(*rows)
    shown = get(client, "events/ann@example.com").json()["events"]
    assert [event["_id"] for event in shown] == [f"e-{n}" for n in range(39, 9, -1)]
    assert len(get(client, "events/ann@example.com", limit=200).json()["events"]) == 40
    assert len(get(client, "events/ann@example.com", limit=1).json()["events"]) == 1


def test_events_of_an_unknown_user_are_shown_too(client):
    client.track("ann@example.com", id="a")
    client.post("events/track", {"userId": "u-1", "eventName": "x", "id": "b"})
    for path, event_id in (("ann@example.com", "a"), ("byUserId/u-1", "b")):
        (shown,) = get(client, f"events/{path}").json()["events"]
        assert shown["_id"] == event_id


def test_events_are_shown_by_user_id_where_emails_are_shared(client):
    client.iterable.change(project_type="userID")
    for user_id in ("u-1", "u-2"):
        row = {"userId": user_id, "email": "ann@example.com", "eventName": "x"}
        client.post("users/update", row)
        client.post("events/track", row | {"id": user_id})
    (shown,) = get(client, "events/byUserId/u-2").json()["events"]
    assert shown["_id"] == "u-2"


# --- As of the outside


def test_what_is_read_is_older_than_the_lag(client):
    client.update(plan="free")
    client.iterable.change(lag_s=60)
    client.update(plan="pro")
    client.update("new@example.com")
    client.track(id="e-1")

    def shown():
        users = (get(client, f"users/{name}@example.com").json() for name in ("ann", "new"))
        plans = [user.get("user", {}).get("dataFields") for user in users]
        return [*plans, len(get(client, "events/ann@example.com").json()["events"])]

    assert shown() == [{"plan": "free"}, None, 0]
    client.iterable.change(clock_skew_s=61)
    assert shown() == [{"plan": "pro"}, {}, 1]


LOOKUPS = {
    "users/getByEmail": "users/getByEmail?email=a@b.co",
    "users/byUserId": "users/byUserId?userId=u-1",
    "users/{email}": "users/a@b.co",
    "users/byUserId/{userId}": "users/byUserId/u-1",
    "events/{email}": "events/a@b.co",
    "events/byUserId/{userId}": "events/byUserId/u-1",
}


@pytest.mark.parametrize(("endpoint", "path"), LOOKUPS.items())
def test_a_lookup_has_a_key_a_limit_and_faults_of_its_own(client, endpoint, path):
    client.iterable.change(api_key="secret-key", limit_scale=0.02)
    url = f"{client.iterable.url}/api/{path}"
    assert client.session.get(url, headers={"Api-Key": "another"}, timeout=5).status_code == 401
    assert [get(client, path).status_code for _ in range(3)] == [200, 200, 429]
    client.iterable.change(limits=False)
    client.iterable.set_faults(Fault("gateway", endpoint=endpoint, times=1))
    assert get(client, "users/getFields").status_code == 200
    assert get(client, path).status_code == 502
    answers = {"200": 2, "401": 1, "429": 1, "502": 1}
    assert client.iterable.stats["requests"][endpoint] == answers


@pytest.mark.parametrize("path", ["users/a@b.co", "events/byUserId/u-1", "users/nonsense"])
def test_a_path_with_a_parameter_is_unknown_to_other_methods(client, path):
    assert client.post(path, {}).status_code == 404
