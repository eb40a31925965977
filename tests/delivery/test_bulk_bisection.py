"""The search for bad rows, with any mixture of them and whatever Iterable answers.

The project answers without a socket in between, because there are thousands of requests.
"""

import json
import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from delivery.batching import BatchLimits
from delivery.bulk_bisection import Bisection
from delivery.bulk_verdicts import Endpoint
from delivery.stopping import Stop
from iterable_api.answers import judge_response
from iterable_api.endpoints import UPDATE_USERS
from iterable_api.payloads import bulk_body
from iterable_api.transport import Response
from records.outcomes import CallStatus
from sandbox.project import Project
from tests.rows import make_prepared

DELIVERED, REFUSED, FORGOTTEN = CallStatus.DELIVERED, CallStatus.REFUSED, CallStatus.FORGOTTEN
UNAVAILABLE, UNKNOWN = CallStatus.UNAVAILABLE, CallStatus.UNKNOWN
ROWS = 120

# What can be wrong with a row, and the verdict on it.
VERDICTS = {
    "good": DELIVERED,
    "type": REFUSED,
    "same type": REFUSED,
    "address": REFUSED,
    "nameless": REFUSED,
    "forgotten": FORGOTTEN,
    "5xx": UNAVAILABLE,
    "unaccounted": UNKNOWN,
}


def row_of(number, kind):
    changes = {
        "type": {"first_name": f"Name {number}"},
        "same type": {"first_name": "Zoë"},
        "address": {"email": f"nobody{number}"},
        "forgotten": {"email": f"gone{number}@example.com"},
        "5xx": {"plan_type": "5xx"},
        "unaccounted": {"plan_type": "unaccounted"},
    }.get(kind, {})
    row = make_prepared(number, **{"first_name": None} | changes)
    return row._replace(user=b'{"dataFields":{}}') if kind == "nameless" else row


class World:
    """A project with a field that is a number for good, and a count of what was asked of it."""

    def __init__(self, quotes=True, most_rows=ROWS):
        self.requests = 0
        self._quotes = quotes
        self._most_rows = most_rows
        self._project = Project()
        self._project.handle(
            UPDATE_USERS, b'{"users":[{"email":"a@b.com","dataFields":{"first_name":1}}]}'
        )

    def send(self, bodies):
        self.requests += 1
        status, body = self._answer(bodies)
        return judge_response(Response(status, {}, body), len(bodies))

    def _answer(self, bodies):
        if len(bodies) > self._most_rows:
            return 400, b'{"code":"BatchTooLarge"}'
        if any(b"5xx" in body for body in bodies):
            return 500, b'{"code":"GenericError"}'
        for number in range(ROWS):
            self._project.forget(f"gone{number}@example.com")
        answer = self._project.handle(UPDATE_USERS, bulk_body("users", bodies))
        if any(b"unaccounted" in body for body in bodies) and answer.status == 200:
            return 200, b'{"successCount":0,"failCount":0}'
        text = answer.body if self._quotes else answer.body.replace(b"offendingValue", b"other")
        return answer.status, text

    def judge(self, rows, stop):
        endpoint = Endpoint("users", lambda row: row.user, self.send)
        outcomes = Bisection(endpoint, rows, BatchLimits(len(rows)), stop).outcomes()
        assert outcomes.keys() == {id(row) for row in rows}
        return [outcomes[id(row)] for row in rows]


kinds = st.lists(
    st.sampled_from(["good"] * 12 + [*VERDICTS]),
    min_size=1,
    max_size=ROWS,
)


@settings(deadline=None, max_examples=150)
@given(kinds, st.booleans(), st.integers(1, ROWS))
def test_every_row_of_any_mixture_has_its_own_verdict(kinds, quotes, most_rows):
    rows = [row_of(number, kind) for number, kind in enumerate(kinds)]
    outcomes = World(quotes, most_rows).judge(rows, Stop())
    unsettled = {"5xx", "unaccounted"} & set(kinds)
    for kind, outcome in zip(kinds, outcomes, strict=True):
        if outcome.status is not VERDICTS[kind]:
            # Where nothing is settled anywhere, good rows are not called anything else.
            assert unsettled
            assert outcome.status in {UNAVAILABLE, UNKNOWN}


@pytest.mark.parametrize("quotes", [True, False])
@pytest.mark.parametrize("bad", [0, 1, 2, 3, 7, 20, 60, 100])
def test_the_number_of_requests_grows_with_that_of_bad_rows(quotes, bad):
    for seed in range(10):
        wrong = set(random.Random(seed).sample(range(ROWS), bad))
        rows = [row_of(n, "type" if n in wrong else "good") for n in range(ROWS)]
        world = World(quotes)
        outcomes = world.judge(rows, Stop())
        found = [outcome.status for outcome in outcomes]
        assert found == [REFUSED if n in wrong else DELIVERED for n in range(ROWS)]
        assert world.requests <= most_requests(bad)


def most_requests(bad):
    """Return 2 k log2(n / k), beyond a third of all what each row by itself takes, and a few."""
    search = 2 * bad * math.log2(ROWS / bad) if 0 < bad < ROWS / 3 else bad and ROWS
    return 1.1 * search + 20


@pytest.mark.parametrize("kind", ["5xx", "unaccounted"])
def test_bad_rows_next_to_each_other_are_told_apart_from_an_outage(kind):
    rows = [row_of(n, kind if 40 <= n < 44 else "good") for n in range(ROWS)]
    world = World()
    outcomes = world.judge(rows, Stop())
    assert [n for n in range(ROWS) if outcomes[n].status is not DELIVERED] == [40, 41, 42, 43]
    assert world.requests < 50


scalars = st.none() | st.booleans() | st.integers(-2, 4) | st.text(max_size=3)
addresses = st.lists(
    st.sampled_from([f"user{number}@example.com" for number in range(4)]) | scalars, max_size=4
)
names = st.sampled_from(
    ["invalidEmails", "forgottenEmails", "conflictEmails", "disallowedEventNames", "unheardOf"]
)
answers = st.tuples(
    st.sampled_from([200, 200, 200, 207, 302, 400, 401, 404, 409, 413, 429, 500, 503]),
    st.fixed_dictionaries(
        {},
        optional={
            "successCount": scalars,
            "failCount": scalars,
            "code": scalars | st.sampled_from(["Success", "BadJsonBody", "BatchTooLarge"]),
            "failedUpdates": scalars | addresses | st.dictionaries(names, addresses | scalars),
            "invalidEmails": addresses | scalars,
            "disallowedEventNames": addresses | scalars,
            "filteredOutFields": addresses | scalars | st.just(["candidate", "plan_type"]),
        },
    ),
)


@settings(deadline=None, max_examples=300)
@given(st.lists(answers, min_size=1, max_size=12))
def test_whatever_iterable_answers_no_row_is_lost_and_none_delivered_without_proof(script):
    proven, asked = set(), 0

    def send(bodies):
        nonlocal asked
        status, document = script[asked % len(script)]
        asked += 1
        answer = judge_response(Response(status, {}, json.dumps(document).encode()), len(bodies))
        if answer.outcome.status is DELIVERED:
            proven.update(bodies)
        return answer

    rows = [make_prepared(number) for number in range(4)]
    endpoint = Endpoint("users", lambda row: row.user, send)
    outcomes = Bisection(endpoint, rows, BatchLimits(4), Stop()).outcomes()
    assert outcomes.keys() == {id(row) for row in rows}
    assert CallStatus.NOT_SENT not in {outcome.status for outcome in outcomes.values()}
    assert all(row.user in proven for row in rows if outcomes[id(row)].status is DELIVERED)
    assert asked < 60
