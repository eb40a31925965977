"""Who is who in the three types of project, and how a profile changes."""

import pytest

from tests.sandbox.conftest import user

# --- Every project (rows 34, 35, 37) ----------------------------------------------------------


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


def test_a_user_id_in_data_fields_becomes_the_users_id(client):
    client.update(userId="u-1", plan="pro")
    held = client.iterable.users["ann@example.com"]
    assert (held.user_id, held.data_fields) == ("u-1", {"plan": "pro"})
    assert client.track_all({"userId": "u-1", "eventName": "x"}).json()["successCount"] == 1


# --- Email-based (row 23) ---------------------------------------------------------------------


def test_an_unknown_user_id_needs_prefer_user_id_in_an_email_based_project(client):
    refused = client.post("users/update", {"userId": "u-1"})
    assert (refused.status_code, refused.json()["code"]) == (400, "UnknownUserIdError")
    client.post("users/update", {"userId": "u-1", "preferUserId": True})
    assert list(client.iterable.users) == ["u-1+0@placeholder.email"]


# --- Hybrid (row 22) --------------------------------------------------------------------------


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


def test_an_email_in_data_fields_moves_the_user_in_a_hybrid_project(client):
    client.iterable.change(project_type="hybrid")
    client.update(userId="u-1")
    client.update(email="New@example.com")
    (held,) = client.iterable.users.values()
    assert (held.email, held.user_id) == ("new@example.com", "u-1")


@pytest.fixture
def hybrid(client):
    client.iterable.change(project_type="hybrid")
    return client


def test_a_user_id_is_enough_in_a_hybrid_project_and_gets_no_placeholder(hybrid):
    assert hybrid.post("users/update", {"userId": "u-1"}).status_code == 200
    (held,) = hybrid.iterable.users.values()
    assert (held.email, held.user_id) == (None, "u-1")
    tracked = hybrid.track_all({"userId": "u-1", "eventName": "x"}).json()
    assert tracked["successCount"] == 1


@pytest.mark.parametrize(
    "row",
    [
        {"userId": "u-1", "email": "Ann@example.com"},
        {"userId": "u-1", "dataFields": {"email": "Ann@example.com"}},
    ],
)
def test_a_hybrid_profile_without_an_email_takes_one(hybrid, row):
    hybrid.post("users/update", {"userId": "u-1", "dataFields": {"plan": "pro"}})
    hybrid.post("users/update", row)
    (held,) = hybrid.iterable.users.values()
    assert held == ("ann@example.com", "u-1", {"plan": "pro"}, 2)
    hybrid.post("users/update", {"userId": "u-1"})
    assert hybrid.iterable.users["ann@example.com"].updates == 3


def test_an_email_and_a_user_id_of_two_users_conflict_in_a_hybrid_project(hybrid):
    hybrid.update("ann@example.com", userId="u-1")
    hybrid.update("ben@example.com", userId="u-2")
    refused = hybrid.post("users/update", {"email": "ben@example.com", "userId": "u-1"})
    assert (refused.status_code, refused.json()["code"]) == (409, "UserIdAlreadyExists")
    in_bulk = hybrid.update_all({"email": "cat@example.com", "userId": "u-1"}).json()
    assert in_bulk["failedUpdates"]["conflictUserIds"] == ["u-1"]


def test_a_user_id_may_be_that_of_several_in_an_email_based_project(client):
    client.update("ann@example.com", userId="u-1")
    client.update("ben@example.com", userId="u-1")
    client.update("ann@example.com", userId="u-2")
    client.post("users/update", {"userId": "u-1", "dataFields": {"plan": "pro"}})
    assert client.iterable.users["ben@example.com"].data_fields == {"plan": "pro"}


def test_a_forgotten_user_is_found_by_no_identifier(client):
    client.update("ann@example.com", userId="u-1")
    client.iterable.forget("u-1")
    assert client.iterable.users == {}
    client.update("ben@example.com", userId="u-2")
    client.iterable.forget("Ben@example.com")
    refused = client.post("users/update", {"userId": "u-2"})
    assert refused.json()["code"] == "UnknownUserIdError"


# --- UserID-based


@pytest.fixture
def by_user_id(client):
    client.iterable.change(project_type="userID")
    return client


def test_a_user_is_known_by_the_user_id_and_needs_no_email(by_user_id):
    by_user_id.post("users/update", {"userId": "u-1", "dataFields": {"a": 1}})
    by_user_id.update_all({"userId": "U-1"}, {"userId": "u-1", "dataFields": {"b": 2}})
    assert by_user_id.iterable.users == {
        "u-1": (None, "u-1", {"a": 1, "b": 2}, 2),
        "U-1": (None, "U-1", {}, 1),
    }
    tracked = by_user_id.track_all({"userId": "u-1", "eventName": "x"})
    assert tracked.json()["successCount"] == 1


def test_an_email_need_not_be_unique_and_can_be_changed(by_user_id):
    for user_id in ("u-1", "u-2"):
        row = {"userId": user_id, "email": "Ann@Example.com"}
        assert by_user_id.post("users/update", row).status_code == 200
    by_user_id.post("users/update", {"userId": "u-2", "dataFields": {"email": "Ben@Example.com"}})
    emails = {key: user.email for key, user in by_user_id.iterable.users.items()}
    assert emails == {"u-1": "ann@example.com", "u-2": "ben@example.com"}


def test_a_user_id_can_be_changed_but_not_into_anothers(by_user_id):
    for user_id in ("old", "taken"):
        by_user_id.post("users/update", {"userId": user_id})
    rename = {"userId": "old", "dataFields": {"userId": "taken"}}
    refused = by_user_id.post("users/update", rename)
    assert (refused.status_code, refused.json()["code"]) == (409, "UserIdAlreadyExists")
    by_user_id.post("users/update", {"userId": "old", "dataFields": {"userId": "new"}})
    assert sorted(by_user_id.iterable.users) == ["new", "taken"]


@pytest.mark.parametrize("known", [True, False])
def test_an_email_alone_names_nobody(by_user_id, known):
    if known:
        by_user_id.post("users/update", {"userId": "u-1", "email": "ann@example.com"})
    refused = by_user_id.update("ann@example.com")
    assert (refused.status_code, refused.json()["code"]) == (400, "UnknownEmailError")
    updated = by_user_id.update_all(user("ann@example.com"), {"userId": "u-2"}).json()
    assert (updated["successCount"], updated["failCount"]) == (1, 1)
    assert updated["failedUpdates"]["invalidEmails"] == ["ann@example.com"]
    tracked = by_user_id.track_all({"email": "ann@example.com", "eventName": "x"}).json()
    assert tracked["failedUpdates"]["notFoundEmails"] == ["ann@example.com"]


def test_failures_are_listed_by_user_id_where_both_are_sent(by_user_id):
    rows = [{"userId": "u-1", "email": "a@b.co", "dataFields": {"bio": "x" * 40_000}}]
    answer = by_user_id.update_all(*rows).json()
    assert answer["failedUpdates"]["invalidDataUserIds"] == ["u-1"]
    unknown = by_user_id.track_all({"userId": "u-1", "email": "a@b.co", "eventName": "x"}).json()
    assert unknown["failedUpdates"]["notFoundUserIds"] == ["u-1"]


@pytest.mark.parametrize("user_id", ["", "x" * 53, "blank ", "müller", "a\tb"])
@pytest.mark.parametrize("project_type", ["email", "hybrid", "userID"])
def test_a_malformed_user_id_is_refused_in_every_project(client, project_type, user_id):
    client.iterable.change(project_type=project_type)
    refused = client.post("users/update", {"userId": user_id, "preferUserId": True})
    assert (refused.status_code, refused.json()["code"]) == (400, "InvalidUserIdError")
    listed = client.update_all({"userId": user_id}).json()["failedUpdates"]["invalidUserIds"]
    assert listed == [user_id]


@pytest.mark.parametrize("user_id", ["x" * 52, "with blank", " x", "~!@/"])
def test_an_unusual_user_id_is_taken(by_user_id, user_id):
    assert by_user_id.post("users/update", {"userId": user_id}).status_code == 200
