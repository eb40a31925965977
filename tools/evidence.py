"""A real run against a real database and the local Iterable, and what the documents show of it.

What differs from run to run is made the same, so that the documents change only with the code: the
times of the run and of the page views, durations, paths and the order in which rows finish.
"""

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import requests

from db_connection import DatabaseConnection
from iterable_api.payloads import Payloads
from records.database_errors import DatabaseError
from sandbox.database import DATABASE_NAME
from sandbox.iterable import IterableSandbox
from tools.structure import ROOT

# What stands in for everything that a clock says.
RUN_ID = "4f9c1d0e6b7a4c55a6a3b0e5d2f18c97"
MOMENT = "2026-01-13T14:30:45Z"
FILE_NAME = "integration_results_20260113_143045.json"
SECONDS = {"duration_seconds": 0.385, "sending_seconds": 0.072}
LATENCIES = {"p50": 0.002, "p90": 0.003, "p95": 0.003, "p99": 0.003, "max": 0.003}
SEEN_AT = datetime(2026, 1, 13, 12, 30, 45)  # noqa: DTZ001 - as MySQL gives it
SEEN = {"timestamp": "2026-01-13 12:30:45", "createdAt": 1768307445}


@dataclass(frozen=True)
class Evidence:
    """What one run left behind: texts, made independent of when and where it ran."""

    console: str
    results: str
    exchanges: str
    schema: str
    indexes: str


def collect(environ: Mapping[str, str], iterable: IterableSandbox, folder: Path) -> Evidence:
    """Run the job as *environ* says, with its files in *folder*, and return what is to be shown.

    The database is as database_setup.sql leaves it, *iterable* has seen nothing yet.
    """
    told = run_job(environ, folder)
    (path,) = folder.glob("integration_results_*.json")
    text = path.read_text(encoding="utf-8")
    ids = event_ids(text)
    shown = exchanges(iterable, environ["ITERABLE_API_KEY"])
    return Evidence(
        console=console(told),
        results=results(_replaced(text, ids)),
        exchanges=_replaced(shown, ids),
        schema=entity_relationships(environ),
        indexes=indexes(environ),
    )


def run_job(environ: Mapping[str, str], folder: Path) -> str:
    """Run main.py once; return what it printed."""
    files = {
        "LOG_FILE": str(folder / "integration.log"),
        "RESULTS_DIR": str(folder),
        "STATE_FILE": str(folder / "state.sqlite3"),
    }
    done = subprocess.run(
        [sys.executable, ROOT / "main.py"],
        cwd=folder,
        env={"PATH": os.defpath, **environ, **files},
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=True,
    )
    return done.stdout


def console(text: str) -> str:
    """Return what a run printed, with its rows in the query's order."""
    told = sorted(re.findall(r"^✓ Successfully .*$", text, flags=re.MULTILINE), key=_rank)
    lines = iter(told)
    text = re.sub(r"^✓ Successfully .*$", lambda _: next(lines), text, flags=re.MULTILINE)
    text = re.sub(r"\S*/integration_results_\S+", f"/srv/iterable-sync/{FILE_NAME}", text)
    return re.sub(r"in \d+\.\d s,", "in 0.1 s,", text).rstrip()


USERS = ("sarah.johnson@email.com", "olivia.brown@email.com", "mia.harris@email.com")


def _rank(text: str) -> int:
    return next(number for number, email in enumerate(USERS) if email in text)


def results(text: str) -> str:
    """Return a results file, with its rows in the query's order and the times of no run."""
    rows = [line.rstrip(",") for line in text.splitlines() if line.startswith('{"customer_id"')]
    ordered = ",\n".join(sorted(rows, key=_rank))
    text = text.replace(text[text.index(rows[0]) : text.index("\n]")], ordered)
    for name, value in (SECONDS | LATENCIES).items():
        text = re.sub(rf'("{name}": )[\d.]+', rf"\g<1>{value}", text)
    text = re.sub(r'("(?:started|finished)_at": )"[^"]+"', rf'\g<1>"{MOMENT}"', text)
    text = re.sub(r'("job": )"[^"]*"', r'\g<1>"sync_state.sqlite3"', text)
    return re.sub(r'("id": )"[0-9a-f]{32}"', rf'\g<1>"{RUN_ID}"', text)


def event_ids(text: str) -> dict[str, str]:
    """Return the event ids of a results file, each with one that is the same for every run."""
    shown = {}
    for row in json.loads(text)["results"]:
        example = {
            "customer_id": row["customer_id"],
            "email": row["email"],
            "page_view_id": row["customer_id"],
            "event_time": SEEN_AT,
            **dict.fromkeys(("page", "browser", "location"), "x"),
        }
        shown[row["events_track"]["event_id"]] = Payloads(DATABASE_NAME).event(example)["id"]
    return shown


def _replaced(text: str, words: Mapping[str, str]) -> str:
    for word, other in words.items():
        text = text.replace(word, other)
    return text


def exchanges(iterable: IterableSandbox, api_key: str) -> str:
    """Return what the first user's two calls looked like on the wire, and four that go wrong.

    The run's own requests are sent again to read their answers, which is harmless.
    """
    sent = {
        request.path: json.loads(request.body)
        for request in iterable.requests
        if USERS[0].encode() in request.body
    }
    user, event = sent["/api/users/update"], sent["/api/events/track"]
    mistyped = {"email": USERS[0], "dataFields": {"plan_type": 7}}
    nobody = {"email": "sarah.johnson@email", "dataFields": {"plan_type": "pro"}}
    parts = [
        ("The profile", "users/update", user, api_key),
        ("The event", "events/track", event, api_key),
        ("Refused: not an address", "users/update", nobody, api_key),
        ("Refused: a number where the project holds text", "users/update", mistyped, api_key),
        ("Refused: the key", "users/update", user, "another-key"),
        ("In bulk, one of two refused", "users/bulkUpdate", {"users": [user, nobody]}, api_key),
    ]
    return "\n\n".join(_exchange(iterable.url, *part) for part in parts)


def _exchange(url: str, title: str, endpoint: str, body: dict[str, Any], api_key: str) -> str:
    headers = {"Api-Key": api_key, "Content-Type": "application/json"}
    answer = requests.post(f"{url}/api/{endpoint}", json=body, headers=headers, timeout=10)
    seen = re.sub(r'("timestamp": )"[^"]+"', rf'\g<1>"{SEEN["timestamp"]}"', _json(body))
    seen = re.sub(r'("createdAt": )\d+', rf"\g<1>{SEEN['createdAt']}", seen)
    return (
        f"**{title}**\n\n"
        f"```http\nPOST /api/{endpoint} HTTP/1.1\nApi-Key: ********\n"
        f"Content-Type: application/json\n\n{seen}\n```\n\n"
        f"```http\nHTTP/1.1 {answer.status_code} {answer.reason}\n"
        f"Content-Type: {answer.headers['Content-Type']}\n\n{_json(_without_blanks(answer.json()))}"
        "\n```"
    )


def _json(document: object) -> str:
    return json.dumps(document, indent=2)


def _without_blanks(document: dict[str, Any]) -> dict[str, Any]:
    """Leave out the empty lists of a bulk answer; there are some twenty."""
    kept = {}
    for name, value in document.items():
        filled = _without_blanks(value) if isinstance(value, dict) else value
        if filled not in ([], {}):
            kept[name] = filled
    return kept


COLUMNS_SQL = """
SELECT table_name AS t, column_name AS c, column_type AS kind, is_nullable AS n, column_key AS k
FROM information_schema.columns WHERE table_schema = DATABASE()
ORDER BY table_name, ordinal_position"""
REFERENCES_SQL = """
SELECT constraint_name AS name, table_name AS child, column_name AS c,
    referenced_table_name AS parent
FROM information_schema.key_column_usage
WHERE table_schema = DATABASE() AND referenced_table_name IS NOT NULL
ORDER BY constraint_name"""
INDEXES_SQL = """
SELECT table_name AS t, index_name AS i, non_unique AS more, column_name AS c
FROM information_schema.statistics WHERE table_schema = DATABASE()
ORDER BY table_name, index_name = 'PRIMARY' DESC, index_name, seq_in_index"""


def _ask(environ: Mapping[str, str], sql: str) -> list[dict[str, Any]]:
    with DatabaseConnection(
        host=environ["DB_HOST"],
        port=int(environ["DB_PORT"]),
        user=environ["DB_USER"],
        password=environ["DB_PASSWORD"],
        database=environ["DB_NAME"],
    ) as database:
        return database.execute_query(sql)


def entity_relationships(environ: Mapping[str, str]) -> str:
    """Return the tables as Mermaid's erDiagram, out of the server's own information_schema."""
    columns, keys = _ask(environ, COLUMNS_SQL), _ask(environ, REFERENCES_SQL)
    if not keys:
        raise DatabaseError("this server does not tell its foreign keys")
    foreign = {(key["child"], key["c"]) for key in keys}
    lines = ["erDiagram", "    direction LR"]
    for key in keys:
        lines.append(f'    {key["parent"]} ||--o{{ {key["child"]} : "{key["c"]}"')
    for table in dict.fromkeys(column["t"] for column in columns):
        lines.append(f"    {table} {{")
        for column in columns:
            if column["t"] == table:
                lines.append(f"        {_attribute(column, foreign)}")
        lines.append("    }")
    return "```mermaid\n" + "\n".join(lines) + "\n```"


def _attribute(column: dict[str, Any], foreign: set[tuple[str, str]]) -> str:
    # MariaDB still tells a width for show, int(10), which MySQL dropped.
    kind = re.sub(r"int\(\d+\)", "int", _text(column["kind"])).replace(" ", "_")
    marks = {"PRI": ["PK"], "UNI": ["UK"]}.get(_text(column["k"]), [])
    marks += ["FK"] if (column["t"], column["c"]) in foreign else []
    null = '"may be NULL"' if column["n"] == "YES" else ""
    return " ".join(filter(None, (kind, column["c"], ", ".join(marks), null)))


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value


def indexes(environ: Mapping[str, str]) -> str:
    """Return the indexes as a table."""
    found: dict[tuple[str, str, str], list[str]] = {}
    for row in _ask(environ, INDEXES_SQL):
        kind = "no" if row["more"] else "yes"
        found.setdefault((row["t"], row["i"], kind), []).append(row["c"])
    lines = ["| table | index | unique | columns |", "| --- | --- | --- | --- |"]
    for (table, index, unique), names in found.items():
        shown = ", ".join(f"`{name}`" for name in names)
        lines.append(f"| `{table}` | `{index}` | {unique} | {shown} |")
    return "\n".join(lines)
