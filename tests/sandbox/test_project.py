"""The local Iterable keeps the contract that the job relies on (iterable-api.md, section 9)."""

import json

import pytest
import requests

from sandbox.faults import Fault
from tests.sandbox.conftest import event, user

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


# --- Success (rows 1 to 4) --------------------------------------------------------------------


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


# --- Requests refused whole (rows 14 and 26) --------------------------------------------------


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


# --- State (rows 36 and 39) -------------------------------------------------------------------


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


def test_a_lost_answer_and_a_retry_hold_one_event_with_an_id_and_two_without(client):
    for event_id in ({"id": "e-1"}, {}):
        client.iterable.set_faults(Fault("reset_after", times=1))
        with pytest.raises(requests.ConnectionError):
            client.track(**event_id)
        client.track(**event_id)
    held = client.iterable.events
    assert held.pop("e-1").received == 2
    assert [event.received for event in held.values()] == [1, 1]


def test_unknown_fields_are_filtered_out_where_none_may_be_created(client):
    client.update(known=1)
    answer = client.update_all(user("b@example.com", known=2, new=3), createNewFields=False).json()
    assert answer["filteredOutFields"] == ["new"]
    assert client.iterable.users["b@example.com"].data_fields == {"known": 2}


@pytest.mark.parametrize("allowed", [None, False])
def test_a_project_can_refuse_to_create_fields_unless_a_request_asks_for_them(client, allowed):
    client.update(known=1, home={"zip": "1"})
    client.iterable.change(create_new_fields=False)
    rows = user("b@example.com", known=2, new=3, home={"zip": "2", "city": "Bern"})
    envelope = {} if allowed is None else {"createNewFields": allowed}
    answer = client.update_all(rows, **envelope).json()
    assert answer["filteredOutFields"] == ["new", "home.city"]
    assert (answer["successCount"], answer["createdFields"]) == (1, [])
    held = client.iterable.users["b@example.com"].data_fields
    assert held == {"known": 2, "home": {"zip": "2"}}
    assert client.update_all(rows, createNewFields=True).json()["createdFields"] == [
        "new",
        "home.city",
    ]


def test_a_single_call_drops_new_fields_without_a_word_where_none_may_be_created(client):
    client.update(known=1)
    client.iterable.change(create_new_fields=False)
    assert client.update(known=2, new=3).json() == SUCCESS
    assert client.iterable.users["ann@example.com"].data_fields == {"known": 2}
    assert client.track(id="e-1", dataFields={"page": "pricing"}).json()["code"] == "Success"
    assert client.iterable.events["e-1"].data_fields == {}


def test_events_in_bulk_say_one_by_one_whether_fields_may_be_created(client):
    client.update()
    answer = client.track_all(
        event("ann@example.com", id="a", dataFields={"x": 1}, createNewFields=False),
        event("ann@example.com", id="b", dataFields={"y": 1}),
    ).json()
    assert (answer["filteredOutFields"], answer["createdFields"]) == (["x"], ["y"])
    held = {id_: event.data_fields for id_, event in client.iterable.events.items()}
    assert held == {"a": {}, "b": {"y": 1}}


# --- Event ids


@pytest.mark.parametrize("event_id", ["a", "0-9", "A" * 512, None, ""])
def test_letters_digits_and_hyphens_are_an_event_id(client, event_id):
    assert client.track(id=event_id).status_code == 200


@pytest.mark.parametrize("event_id", ["a_b", "a:b", "a.b", "a b", "é", "x\n", "x" * 513])
def test_any_other_event_id_is_refused_unless_told_otherwise(client, event_id):
    client.update()
    refused = client.track(id=event_id)
    assert (refused.status_code, refused.json()["code"]) == (400, "BadParams")
    tracked = client.track_all(event("ann@example.com", id=event_id), event("ann@example.com"))
    assert (tracked.json()["successCount"], tracked.json()["failCount"]) == (1, 1)
    assert not any(tracked.json()["failedUpdates"].values())
    client.iterable.change(check_event_ids=False)
    assert client.track(id=event_id).status_code == 200


# --- Users that are not known yet (row 38)


@pytest.mark.parametrize("endpoint", ["users/update", "users/bulkUpdate"])
def test_a_user_is_unknown_to_events_until_the_lag_is_over(client, endpoint):
    client.iterable.change(lag_s=60, track_needs_user=True)
    row = user("Ann@example.com")
    client.post(endpoint, row if endpoint == "users/update" else {"users": [row]})
    early = client.track_all(event("Ann@example.com")).json()
    assert (early["successCount"], early["failCount"]) == (0, 1)
    assert early["failedUpdates"]["notFoundEmails"] == ["ann@example.com"]
    assert client.track().json()["code"] == "UnknownEmailError"
    assert client.iterable.events == {}

    client.iterable.change(clock_skew_s=61)
    assert client.track_all(event("ann@example.com")).json()["successCount"] == 1
    assert client.track().status_code == 200
    client.update_all(row)  # whoever is known stays so
    assert client.track().status_code == 200


def test_an_event_that_comes_within_the_lag_remembers_that_its_user_was_unknown(client):
    client.iterable.change(lag_s=60)
    client.update()
    assert client.track(id="early").status_code == 200
    client.iterable.change(clock_skew_s=61)
    client.track(id="late")
    existed = {event.id: event.user_existed for event in client.iterable.events.values()}
    assert existed == {"early": False, "late": True}


def test_a_lag_is_that_of_the_moment_of_the_write(client):
    client.update("before@example.com")
    client.iterable.change(lag_s=60)
    client.update("within@example.com")
    client.iterable.change(lag_s=0)
    client.update("after@example.com")
    answer = client.track_all(
        *(event(f"{name}@example.com") for name in ("before", "within", "after"))
    ).json()
    assert answer["failedUpdates"]["notFoundEmails"] == ["within@example.com"]


@pytest.mark.parametrize(
    ("row", "code"),
    [({"email": "a@b.co"}, "UnknownEmailError"), ({"userId": "u-1"}, "UnknownUserIdError")],
)
def test_a_single_event_of_an_unknown_user_is_taken_unless_told_otherwise(client, row, code):
    body = {"eventName": "x"} | row
    assert client.post("events/track", body).status_code == 200
    client.iterable.change(track_needs_user=True)
    refused = client.post("events/track", body)
    assert (refused.status_code, refused.json()["code"]) == (400, code)
    assert len(client.iterable.events) == 1


# --- Requests that are too large, and answers that do not add up


@pytest.mark.parametrize("status", [413, 400])
@pytest.mark.parametrize("endpoint", ["users/bulkUpdate", "events/trackBulk"])
def test_the_number_of_rows_in_a_bulk_request_can_be_limited(client, endpoint, status):
    client.update_all(user("a@example.com"))
    client.iterable.change(most_rows_in_bulk=2, too_large_status=status, limits=False)
    name = "users" if endpoint == "users/bulkUpdate" else "events"
    assert client.post(endpoint, {name: [event("a@example.com")] * 2}).status_code == 200
    refused = client.post(endpoint, {name: [event("b@example.com")] * 3})
    assert (refused.status_code, refused.json()["code"]) == (status, "BatchTooLarge")
    assert list(client.iterable.users) == ["a@example.com"]
    client.iterable.change(too_large_as_json=False)
    page = client.post(endpoint, {name: [event("b@example.com")] * 3})
    assert (page.status_code, page.headers["Content-Type"]) == (status, "text/html")


def test_four_million_bytes_can_be_told_as_a_400_too(client):
    client.iterable.change(too_large_status=400)
    refused = client.post("users/bulkUpdate", {"users": [], "pad": "x" * 4_000_000})
    assert (refused.status_code, refused.json()["code"]) == (400, "BatchTooLarge")


@pytest.mark.parametrize("applied", [True, False])
@pytest.mark.parametrize("counts", [{"successCount": 0, "failCount": 0}, {"successCount": 1}])
def test_a_bulk_answer_can_count_other_rows_than_came(client, counts, applied):
    fault = Fault("answer", endpoint="users/bulkUpdate", body=json.dumps(counts), applied=applied)
    client.iterable.set_faults(fault)
    answer = client.update_all(user("a@example.com"), user("b@example.com"))
    assert (answer.status_code, answer.json()) == (200, counts)
    assert len(client.iterable.users) == (2 if applied else 0)
    client.iterable.set_faults()
    client.update_all(user("a@example.com"), user("b@example.com"))
    client.iterable.set_faults(Fault("answer", body=json.dumps(counts), applied=applied))
    assert client.track_all(event("a@example.com"), event("b@example.com")).json() == counts
    assert len(client.iterable.events) == (2 if applied else 0)


def test_a_forgotten_user_id_fails_by_itself_in_bulk(client):
    client.iterable.forget("u-1")
    row = {"userId": "U-1", "preferUserId": True, "eventName": "x"}
    for answer in (client.update_all(row, user("a@example.com")), client.track_all(row)):
        assert answer.json()["failCount"] == 1
        assert answer.json()["failedUpdates"]["forgottenUserIds"] == ["U-1"]
