"""What ``--check`` finds of the database: the login, its clock, Query 2 and its execution plan."""

import re
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from configuration.preflight_finding import Finding, Mark, clock_finding
from configuration.settings import Settings
from configuration.wiring import database_connection
from db_connection import DatabaseConnection
from iterable_api.mapping import RowMapping, read_mapping
from iterable_api.payloads import EVENT_TABLE
from records.columns import JOB_COLUMNS, Column, ColumnError, Kind, as_text, check_columns
from records.database_errors import DatabaseError
from records.exit_statuses import ExitStatus
from records.least_versions import old_server
from records.query_file import JOB_QUERY, load_query

# Fewer are read in no time, whatever the execution plan.
MANY_ROWS = 100_000
INDEX = "ix_page_views_recent"
# MySQL 9 shows a tree otherwise.
EXPLAIN = "EXPLAIN FORMAT=TRADITIONAL"
EXPLAIN_COLUMNS = {"id", "table", "type", "key", "rows", "Extra"}
PLAN = "Query 2's plan"
COLUMNS = "Query 2's columns"


@dataclass(frozen=True, slots=True)
class TableAccess:
    """How the server reads one table of a query: a line of its execution plan.

    *name* is the table's, in the query. *index* is empty for none. *rows* is how many rows are read
    in all, by the server's estimate. *whole*: these are all that there are. *covered*: the index
    has all that is asked for, so that the table itself is not read.
    """

    name: str
    index: str
    rows: int
    whole: bool = False
    covered: bool = False

    @property
    def is_slow(self) -> bool:
        """Whether this takes minutes when the table is not in the server's memory."""
        return self.rows >= MANY_ROWS and (self.whole or not self.covered)

    def __str__(self) -> str:
        index = f" by index {self.index}" if self.index else ""
        rows = f" (about {self.rows:,} row{'s' if self.rows != 1 else ''})"
        return f"all of {self.name}{rows}" if self.whole else f"{self.name}{index}{rows}"


def database_findings(settings: Settings) -> Generator[Finding, None, RowMapping]:
    """Log in as a run does and yield what is found; Query 2 is prepared and not run.

    Return where its columns go; that of the job's own nine if it cannot be had.
    """
    query = None
    mapping = read_mapping(identity=settings.iterable_identity)
    try:
        query = load_query(JOB_QUERY, settings.query_file)
    except DatabaseError as error:
        yield Finding(Mark.BAD, "Query 2", str(error), error.status)
    try:
        with database_connection(settings, settings.db_query_timeout_seconds) as database:
            yield Finding(Mark.GOOD, "Database", _session_text(settings, database.version))
            if old := old_server(database.version):
                yield Finding(Mark.WARNING, "Database", old)
            yield _clock_finding(database)
            if query is not None:
                columns = yield from query_findings(database, query)
                mapping = (yield from column_findings(columns, settings)) or mapping
    except DatabaseError as error:
        yield Finding(Mark.BAD, "Database", str(error), error.status)
    return mapping


def _session_text(settings: Settings, version: str) -> str:
    where = settings.db_host
    if not where.startswith("/"):
        where += f":{settings.db_port}"
    return (
        f"{settings.db_user} may log in to {settings.db_name} at {where}, server {version}; "
        f"session read-only, times in {settings.db_time_zone}"
    )


def _clock_finding(database: DatabaseConnection) -> Finding:
    (row,) = database.execute_query("SELECT UTC_TIMESTAMP() AS now")
    if isinstance(row["now"], datetime):
        return database_clock_finding(row["now"].replace(tzinfo=UTC))
    return Finding(Mark.NOTE, "Database clock", "not compared: the server shows it as no time")


def database_clock_finding(now: datetime) -> Finding:
    """Compare *now* by the database's clock, which is exact to the second, with this machine's."""
    ahead_s = (now - datetime.now(UTC)).total_seconds()
    advice = "Query 2 counts its seven days by it. Set both clocks by NTP"
    return clock_finding("Database clock", ahead_s, "this machine's", advice)


def query_findings(
    database: DatabaseConnection, query: str
) -> Generator[Finding, None, Sequence[Column]]:
    """Yield whether *query* would give a run its rows, and how it would find them.

    Return its columns, none if it cannot be run.
    """
    try:
        columns = database.columns_of(query)
        check_columns(columns)
    except DatabaseError as error:
        yield Finding(Mark.BAD, "Query 2", str(error), error.status)
        return ()
    more = f" and {n} more" if (n := len(columns) - len(JOB_COLUMNS)) else ""
    text = f"can be run and returns its {len(JOB_COLUMNS)} columns{more}"
    yield Finding(Mark.GOOD, "Query 2", text)
    try:
        plan = database.execute_query(f"{EXPLAIN} {query}")
        yield execution_plan_finding(execution_plan(plan), query)
    except DatabaseError as error:
        yield Finding(Mark.NOTE, PLAN, f"not looked at: {error}")
    return columns


def column_findings(
    columns: Sequence[Column], settings: Settings
) -> Generator[Finding, None, RowMapping | None]:
    """Yield what is to be said of where *columns* go, and return that; None if it is nowhere."""
    if not columns:
        return None
    try:
        mapping = read_mapping(columns, settings.iterable_identity)
    except ColumnError as error:
        yield Finding(Mark.BAD, COLUMNS, str(error), error.status)
        return None
    yield from own_column_findings(columns, mapping)
    for remark in mapping.remarks():
        yield Finding(Mark.WARNING, COLUMNS, remark)
    if mapping.fields:
        sent = ", ".join(f"{field.column.name} as {field.type}" for field in mapping.fields)
        yield Finding(Mark.GOOD, COLUMNS, f"sends {sent}")
    return mapping


def own_column_findings(columns: Sequence[Column], mapping: RowMapping) -> Iterator[Finding]:
    """Yield which of the job's own columns are of a type for which rows will be refused."""
    for column in columns:
        if column.name == "event_time":
            if column.kind not in {Kind.DATE, Kind.MOMENT}:
                text = f"event_time is {column.kind}, no date and time: every row would be refused"
                yield Finding(Mark.BAD, COLUMNS, text, ExitStatus.NOT_ALL_DELIVERED)
        elif column.name in mapping.texts and column.kind is Kind.OTHER:
            text = f"{column.name} is of a type that cannot be sent: every row would be refused"
            yield Finding(Mark.BAD, COLUMNS, text, ExitStatus.NOT_ALL_DELIVERED)
        elif column.name in mapping.texts and column.kind is Kind.BINARY:
            text = (
                f"{column.name} holds bytes: rows in which they are no text in UTF-8 are refused; "
                f"use BIN_TO_UUID({column.name}) in Query 2, on MariaDB HEX({column.name})"
            )
            yield Finding(Mark.WARNING, COLUMNS, text)


def execution_plan(plan: Sequence[Mapping[str, object]]) -> list[TableAccess]:
    """Return how the server would read each table, by the rows of its EXPLAIN.

    The list is empty if the server describes its execution plans in a form of its own.
    """
    tables = []
    # The tables of one SELECT are read for each row of those above them.
    times: dict[object, int] = {}
    for row in plan:
        if not row.keys() >= EXPLAIN_COLUMNS:
            return []
        rows = times[row["id"]] = times.get(row["id"], 1) * _row_count(row["rows"])
        table = as_text(row["table"] or "<>")
        # What is between < and > is the query's own, such as a common table expression.
        if not table.startswith("<"):
            whole = as_text(row["type"]).partition("|")[0] in {"ALL", "index"}
            covered = "Using index" in as_text(row["Extra"]).split("; ")
            tables.append(TableAccess(table, as_text(row["key"] or ""), rows, whole, covered))
    return tables


def _row_count(shown: object) -> int:
    """Return the number of rows that *shown* begins with; 1 if it begins with none.

    What EXPLAIN shows is for people: MariaDB says ``15 (9%)`` where it filters rows by an index.
    """
    number = re.match(r"\d+", as_text(shown))
    return max(1, int(number[0])) if number else 1


def execution_plan_finding(tables: Sequence[TableAccess], query: str) -> Finding:
    """Return how the server reads the tables; a warning if it reads much of page_views itself."""
    if not tables:
        return Finding(Mark.NOTE, PLAN, "not looked at: this server shows it in a form of its own")
    reads = f"reads {', '.join(map(str, tables))}"
    names = {EVENT_TABLE, *_aliases_of(EVENT_TABLE, query)}
    if any(table.is_slow and table.name.lower() in names for table in tables):
        text = (
            f"{reads}: minutes, once {EVENT_TABLE} is larger than the server's memory. Create the "
            f"index {INDEX} as database_setup.sql does, or if it is there, run ANALYZE TABLE "
            f"{EVENT_TABLE}"
        )
        return Finding(Mark.WARNING, PLAN, text)
    return Finding(Mark.GOOD, PLAN, reads)


def _aliases_of(table: str, query: str) -> set[str]:
    """Return the words after *table* in *query*, its other names among them, in lower case."""
    return set(re.findall(rf"\b{table}`?\s+(?:as\s+)?`?(\w+)", query.lower()))
