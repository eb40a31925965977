"""Bad rows through the whole program: each is told, and none hurts another."""

from datetime import UTC, datetime

import pytest

from tests.test_main import job as job  # noqa: PLC0414 - a fixture

NOW = datetime.now(UTC).replace(tzinfo=None, microsecond=0)
NAME = "Zoë 👩‍👩‍👧".encode()
SENT, NOT_SENT = "successful", "total_failure"
BAD_ADDRESS = "Iterable judges"

# What Query 2 returns: email, first name (bytes), event time; then what must become of the row.
ROWS = [
    ("plain@example.com", NAME, NOW, SENT, ""),
    ("twice@example.com", b"First", NOW, SENT, ""),
    ("Twice@example.com", b"Second", NOW, SENT, ""),
    (" blanks-around@example.com\t", NAME, NOW, SENT, ""),
    ("no-name@example.com", None, NOW, SENT, ""),
    ("control@example.com", b"a\0b\n\x1b[31m", NOW, SENT, ""),
    ("earliest@example.com", NAME, datetime(1970, 1, 1, 0, 0, 1), SENT, ""),  # noqa: DTZ001
    (None, NAME, NOW, NOT_SENT, "email is empty"),
    ("a b@example.com", NAME, NOW, NOT_SENT, "email contains a space or an invisible"),
    ("not-an-address", NAME, NOW, NOT_SENT, BAD_ADDRESS),
    (f"{'x' * 300}@example.com", NAME, NOW, NOT_SENT, BAD_ADDRESS),
    ("latin-1@example.com", b"Zo\xeb", NOW, NOT_SENT, "first_name is not valid UTF-8 text"),
    ("no-time@example.com", NAME, None, NOT_SENT, "event_time is not a date and time"),
    ("zero@example.com", NAME, "0000-00-00", NOT_SENT, "event_time is not a date and time"),
    ("old@example.com", NAME, "1969-12-31 23:59:59", NOT_SENT, "event_time is not between 1970"),
]

QUERY = """SELECT id AS customer_id, email, first_name, 'pro' AS plan_type, id AS page_view_id,
    'pricing' AS page, event_time, NULL AS browser, 12.50 AS location, id AS one_more
FROM bad_rows ORDER BY id;
"""


@pytest.fixture
def query_file(database, tmp_path):
    """Make the table of QUERY, in which a row's number, from 1, is its id; return QUERY's file."""
    database.execute(
        "CREATE TABLE bad_rows (id INT AUTO_INCREMENT PRIMARY KEY, "
        "email VARCHAR(400) NULL, first_name VARBINARY(100) NULL, event_time DATETIME NULL)"
    )
    for row in ROWS:
        # IGNORE: or it takes no zero date.
        sql = "INSERT IGNORE INTO bad_rows (email, first_name, event_time) VALUES (%s, %s, %s)"
        database.execute(sql, row[:3])
    path = tmp_path / "own.sql"
    path.write_text(QUERY)
    return str(path)


@pytest.mark.database
@pytest.mark.parametrize("mode", [[], ["--bulk"]], ids=["per user", "bulk"])
def test_a_bad_row_is_refused_by_itself_and_the_others_are_delivered(
    job, iterable, query_file, mode
):
    done = job(*mode, QUERY_FILE=query_file)
    assert done.returncode == 1
    outcomes = {row["customer_id"]: row for row in job.results["results"]}
    for number, row in enumerate(ROWS, 1):
        status, told = row[3:]
        update = outcomes[number]["users_update"]
        assert outcomes[number]["outcome"] == status, number
        arrived = "superseded" if row[1] == b"Second" else "delivered"
        assert update["status"] == (arrived if status == SENT else "refused"), number
        if told == BAD_ADDRESS:
            assert (update["code"], update["attempts"]) == ("InvalidEmailAddressError", 1), number
        else:
            assert update["message"].startswith(told), number
            assert update["attempts"] == (update["status"] == "delivered"), number
    sent = {str(row[0]).strip().lower() for row in ROWS if row[3] == SENT}
    assert set(iterable.users) == sent
    fields = {email: user.data_fields for email, user in iterable.users.items()}
    assert fields["plain@example.com"]["first_name"] == NAME.decode()
    assert fields["twice@example.com"]["first_name"] == "First"
    assert fields["control@example.com"]["first_name"] == "a\0b\n\x1b[31m"
    assert "first_name" not in fields["no-name@example.com"]
    assert len(iterable.events) == len([row for row in ROWS if row[3] == SENT])
    assert {event.data_fields["location"] for event in iterable.events.values()} == {"12.50"}
    # Nothing in a row makes a line of its own.
    assert {line.split(":")[0] for line in done.stderr.splitlines()} == {"ERROR", "WARNING"}
