"""Look at everything a run will need, and say a line on each thing; nothing is changed.

A check that fails does not keep the others from being made.
"""

import re
import resource
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple

from configuration.command_line import ExitStatus
from configuration.settings import (
    Settings,
    SettingsError,
    exposed_files,
    load_environment_variables,
)
from db_connection import (
    JOB_COLUMNS,
    JOB_QUERY,
    DatabaseConnection,
    DatabaseError,
    PlanStep,
    load_query,
)
from delivery.stopping import Stop, StopReason
from iterable_api.payloads import EVENT_TABLE, Payloads
from iterable_client import IterableClient, UserFields
from logger_config import get_logger
from monitoring.console import advice
from records.delivery_ledger import DeliveryLedger, LedgerBusyError, LedgerError

logger = get_logger(__name__)

MIN_FREE_BYTES = 50_000_000
# A run keeps its rows, reserves twice what its results come to, and remembers what it delivered.
FREE_PER_RESULTS_BYTE = 4
# Fewer are read in no time, whatever the plan.
MANY_ROWS = 100_000
MAX_CLOCK_ERROR_S = 60.0
# Sockets apart: the log, the ledger, the results, and what Python holds.
OTHER_OPEN_FILES = 50
INDEX = "ix_page_views_recent"

# Iterable's names of the types that payloads.py sends.
_TYPE_NAMES = {str: "string", bool: "boolean"}
_SLOW = "gave no answer within ITERABLE_TIMEOUT_SECONDS; check again later"
_NO_ANSWER = {
    "ReadTimeout": _SLOW,
    "ReadTimeoutError": _SLOW,
    "ConnectionError": "ended the connection without an answer; check what stands between",
    "NameResolutionError": "has a name that DNS does not know; check ITERABLE_API_BASE_URL and DNS",
    "SSLError": (
        "failed TLS: its certificate is another host's or not trusted here; check "
        "ITERABLE_API_BASE_URL, this machine's clock and CA certificates, and what stands between"
    ),
}
_UNREACHABLE = (
    "cannot be reached; check ITERABLE_API_BASE_URL and the firewall. The job uses no proxy"
)


class Mark(StrEnum):
    """What a check came to."""

    GOOD = "✓"
    NOTE = "-"  # not looked at
    WARNING = "⚠"  # a run would work, but not as it should
    BAD = "✗"  # a run would fail


class Finding(NamedTuple):
    """The line of one check; ``status`` is what a run would end with, were it bad."""

    mark: Mark
    what: str
    text: str
    status: ExitStatus = ExitStatus.OK

    def __str__(self) -> str:
        return f"{self.mark} {self.what}: {self.text}"


# How a run makes them: with a statement's time limit in seconds, and with what may stop the run.
Connect = Callable[[Settings, int], DatabaseConnection]
MakeClient = Callable[[Settings, Stop], IterableClient]


def check(
    env_file: Path | None, environ: Mapping[str, str], connect: Connect, make_client: MakeClient
) -> ExitStatus:
    """Make all checks and log their findings; return the first kind of failure, OK for none."""
    seen: list[Finding] = []
    for finding in all_findings(env_file, environ, connect, make_client):
        seen.append(finding)
        log = {Mark.BAD: logger.error, Mark.WARNING: logger.warning}.get(finding.mark, logger.info)
        log("%s", finding)
    bad = [finding for finding in seen if finding.mark is Mark.BAD]
    if bad:
        count = f"{len(bad)} checks failed, the first: " if len(bad) > 1 else ""
        logger.error("Not ready for a run. %s%s: %s", count, bad[0].what, bad[0].text)
        return bad[0].status
    warnings = sum(finding.mark is Mark.WARNING for finding in seen)
    logger.info("Ready for a run%s", f", but see the {warnings} warning(s)" if warnings else "")
    return ExitStatus.OK


def all_findings(
    env_file: Path | None, environ: Mapping[str, str], connect: Connect, make_client: MakeClient
) -> Iterator[Finding]:
    """Yield the findings of all checks, in the order of their exit statuses."""
    try:
        settings = load_environment_variables(env_file, environ)
    except SettingsError as error:
        for problem in error.problems:
            yield Finding(Mark.BAD, "Settings", problem, ExitStatus.USAGE)
        text = error.hint or "the rest is checked once the settings are complete"
        yield Finding(Mark.NOTE, "Next", text)
        return
    yield Finding(Mark.GOOD, "Settings", "complete and valid")
    yield from file_findings(settings, env_file)
    yield from database_findings(settings, connect)
    yield from iterable_findings(settings, make_client)


def file_findings(settings: Settings, env_file: Path | None) -> Iterator[Finding]:
    """Look at the files that the run reads and writes; none is made."""
    for path in exposed_files(env_file, settings):
        yield Finding(Mark.WARNING, str(path), "holds secrets and others may read it: chmod 600 it")
    yield _results_finding(settings.results_dir)
    yield _log_finding(settings.log_file)
    yield _ledger_finding(settings)
    if settings.metrics_file:
        yield _metrics_finding(settings.metrics_file)
    if settings.heartbeat_url:
        yield Finding(Mark.NOTE, "HEARTBEAT_URL", "not pinged by a check")
    yield from _open_files_findings(settings.iterable_workers)


def database_findings(settings: Settings, connect: Connect) -> Iterator[Finding]:
    """Log in as the run does; look at Query 2 without running it."""
    query = None
    try:
        query = load_query(JOB_QUERY)
    except DatabaseError as error:
        yield Finding(Mark.BAD, "Query 2", str(error), ExitStatus.DATABASE)
    try:
        with connect(settings, settings.db_query_timeout_seconds) as database:
            yield Finding(Mark.GOOD, "Database", _session_text(settings, database.version))
            ahead_s = (datetime.now(UTC) - database.clock()).total_seconds()
            yield database_clock_finding(ahead_s)
            if query is not None:
                yield from _query_findings(database, query)
    except DatabaseError as error:
        yield Finding(Mark.BAD, "Database", str(error), ExitStatus.DATABASE)


def iterable_findings(settings: Settings, make_client: MakeClient) -> Iterator[Finding]:
    """Ask Iterable for the project's profile fields, which changes nothing there."""
    client = make_client(settings, Stop())
    try:
        answer = client.get_user_fields()
    finally:
        client.close()
    url = settings.iterable_api_base_url
    if answer.types is None:
        yield no_answer_finding(answer, url)
    else:
        text = f"{url} accepts the API key; whether it may write shows with the first row"
        yield Finding(Mark.GOOD, "Iterable", text)
    if answer.types is not None or answer.http_status == 401:
        yield iterable_clock_finding(answer.clock_ahead_s)
    if answer.types is not None:
        yield from field_findings(answer.types)


# --- Files


def _results_finding(folder: Path) -> Finding:
    try:
        free = shutil.disk_usage(_try_folder(folder)).free
        last = max(folder.glob("integration_results_*.json"), default=None)
        last_size = last.stat().st_size if last else 0
    except OSError as error:
        return _unwritable("RESULTS_DIR", folder, error)
    return room_finding(folder, free, last_size)


def room_finding(folder: Path, free: int, last_size: int) -> Finding:
    """Judge the *free* bytes of *folder*, where the last results have *last_size* bytes."""
    needed = max(MIN_FREE_BYTES, FREE_PER_RESULTS_BYTE * last_size)
    if free < needed:
        text = (
            f"{folder} has {_size(free)} of free disk and a run may need {_size(needed)}; "
            "make room, or name another folder"
        )
        return Finding(Mark.BAD, "RESULTS_DIR", text, ExitStatus.USAGE)
    return _writable("RESULTS_DIR", folder, f", {_size(free)} free")


def _log_finding(path: Path) -> Finding:
    try:
        if path.exists():
            path.open("r+b").close()
        else:
            _try_folder(path.parent)
    except OSError as error:
        return _unwritable("LOG_FILE", path, error)
    return _writable("LOG_FILE", path)


def _ledger_finding(settings: Settings) -> Finding:
    path, key = settings.state_file, settings.iterable_api_key.get_secret_value()
    try:
        if not path.exists():
            _try_folder(path.parent)
            return _writable("STATE_FILE", path)
        with DeliveryLedger(path, settings.iterable_api_base_url, key) as ledger:
            ledger.check_room(0)
    except OSError as error:
        return _unwritable("STATE_FILE", path, error)
    except LedgerError as error:
        text = str(error).removeprefix("STATE_FILE ")
        return Finding(Mark.BAD, "STATE_FILE", text, ExitStatus.USAGE)
    except LedgerBusyError:
        text = f"another run is under way and holds {path}; until it ends, no other can begin"
        return Finding(Mark.WARNING, "STATE_FILE", text)
    return Finding(Mark.GOOD, "STATE_FILE", f"{path} is sound and can be written")


def _metrics_finding(path: Path) -> Finding:
    try:
        # Unlike the others, this folder is another program's: the run does not make it.
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        finding = _unwritable("METRICS_FILE", path, error)
        # A run goes on without its metrics.
        return finding._replace(mark=Mark.WARNING)
    return _writable("METRICS_FILE", path)


def _open_files_findings(workers: int) -> Iterator[Finding]:
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = workers + OTHER_OPEN_FILES
    if allowed != resource.RLIM_INFINITY and allowed < needed:
        yield Finding(
            Mark.WARNING,
            "ITERABLE_WORKERS",
            f"{workers} need about {needed} open files and this shell allows {allowed}; "
            f"ulimit -n {needed}, or fewer workers",
        )


def _try_folder(folder: Path) -> Path:
    """Write a file without a name in *folder*, or where it will be made; return where that was.

    Raises OSError.
    """
    place = next(path for path in (folder, *folder.parents) if path.exists())
    with tempfile.TemporaryFile(dir=place):
        return place


def _writable(what: str, path: Path, more: str = "") -> Finding:
    text = "can be written" if path.exists() else "is not there yet; a run can make it"
    return Finding(Mark.GOOD, what, f"{path} {text}{more}")


def _unwritable(what: str, path: Path, error: OSError) -> Finding:
    text = f"{path} cannot be written: {error.strerror}; look at its folder, or name another"
    return Finding(Mark.BAD, what, text, ExitStatus.USAGE)


def _size(bytes_: int) -> str:
    return f"{bytes_ / 1e9:.1f} GB" if bytes_ >= 1e9 else f"{bytes_ / 1e6:.0f} MB"


# --- Database


def _session_text(settings: Settings, version: str) -> str:
    where = settings.db_host
    if not where.startswith("/"):
        where += f":{settings.db_port}"
    return (
        f"{settings.db_user} may log in to {settings.db_name} at {where}, server {version}; "
        f"session read-only, times in {settings.db_time_zone}"
    )


def _query_findings(database: DatabaseConnection, query: str) -> Iterator[Finding]:
    try:
        database.check_query(query)
    except DatabaseError as error:
        yield Finding(Mark.BAD, "Query 2", str(error), ExitStatus.DATABASE)
        return
    yield Finding(Mark.GOOD, "Query 2", f"can be run and returns its {len(JOB_COLUMNS)} columns")
    try:
        yield plan_finding(database.plan(query), query)
    except DatabaseError as error:
        yield Finding(Mark.NOTE, "Query 2's plan", f"not looked at: {error}")


def plan_finding(steps: list[PlanStep], query: str) -> Finding:
    """Say how the server would read the tables; warn if it reads much of page_views itself."""
    what = "Query 2's plan"
    if not steps:
        return Finding(Mark.NOTE, what, "not looked at: this server shows it in a form of its own")
    names = {EVENT_TABLE, *_aliases_of(EVENT_TABLE, query)}
    for step in steps:
        slow = step.rows >= MANY_ROWS and (step.whole or not step.covered)
        if slow and step.table.lower() in names:
            text = (
                f"reads {', '.join(map(_step_text, steps))}: minutes, once {EVENT_TABLE} is larger "
                f"than the server's memory. Create the index {INDEX} as database_setup.sql does, "
                f"or if it is there, run ANALYZE TABLE {EVENT_TABLE}"
            )
            return Finding(Mark.WARNING, what, text)
    return Finding(Mark.GOOD, what, f"reads {', '.join(map(_step_text, steps))}")


def _step_text(step: PlanStep) -> str:
    how = f" by index {step.key}" if step.key else ""
    rows = f" (about {step.rows:,} row{'s' if step.rows != 1 else ''})"
    return f"all of {step.table}{rows}" if step.whole else f"{step.table}{how}{rows}"


def _aliases_of(table: str, query: str) -> set[str]:
    """Return the words after *table* in *query*, its other names among them, in lower case."""
    return set(re.findall(rf"\b{table}`?\s+(?:as\s+)?`?(\w+)", query.lower()))


# --- Clocks


def database_clock_finding(ahead_s: float) -> Finding:
    """Judge by how many seconds this machine's clock is ahead of the database's."""
    if abs(ahead_s) <= MAX_CLOCK_ERROR_S:
        return Finding(Mark.GOOD, "Database clock", "agrees with this machine's")
    text = (
        f"{_difference(-ahead_s)} this machine's; Query 2 counts its seven days by it. "
        "Set both clocks by NTP"
    )
    return Finding(Mark.WARNING, "Database clock", text)


def iterable_clock_finding(ahead_s: float | None) -> Finding:
    """Judge by how many seconds this machine's clock is ahead of Iterable's."""
    what = "This machine's clock"
    if ahead_s is None:
        return Finding(Mark.NOTE, what, "not compared, Iterable's answer has no date")
    if abs(ahead_s) <= MAX_CLOCK_ERROR_S:
        return Finding(Mark.GOOD, what, "agrees with Iterable's")
    text = (
        f"{_difference(ahead_s)} Iterable's; the times in the log and in the names of results "
        "are wrong by that. Set it by NTP"
    )
    return Finding(Mark.WARNING, what, text)


def _difference(ahead_s: float) -> str:
    return f"{abs(ahead_s):,.0f} s {'ahead of' if ahead_s > 0 else 'behind'}"


# --- Iterable


def no_answer_finding(answer: UserFields, url: str) -> Finding:
    """Say why *answer* has no fields, and what to look at."""
    status = answer.http_status
    mark = Mark.BAD
    match status:
        case None:
            text = f"{url} {_NO_ANSWER.get(answer.problem, _UNREACHABLE)} ({answer.problem})"
        case 401:
            stop = Stop()
            stop.request(StopReason.KEY_REFUSED)
            text = advice(stop, url).removeprefix("Iterable ")
        case 429:
            mark = Mark.WARNING
            text = f"{url} is too busy to answer (HTTP 429): the API key was not checked, try again"
        case _ if status >= 500:
            text = f"{url} is down, or a proxy before it (HTTP {status}); check again later"
        case _:
            text = f"what answers at {url} is not Iterable's API (HTTP {status}); "
            text += "check ITERABLE_API_BASE_URL, and what stands between"
    return Finding(mark, "Iterable", text, ExitStatus.STOPPED)


def field_findings(held: Mapping[str, object]) -> Iterator[Finding]:
    """Compare the types of the fields that the project has with those that the job sends."""
    sent = sent_types()
    wrong = [name for name, kind in sent.items() if held.get(name, kind) != kind]
    for name in wrong:
        text = (
            f"the project holds {name} as {held[name]} and the job sends a {sent[name]}: every "
            "row would be refused. Iterable never changes a field's type; use another project, "
            "or another name in payloads.py"
        )
        yield Finding(Mark.BAD, "Profile fields", text, ExitStatus.STOPPED)
    if not wrong:
        texts = []
        if there := [name for name in sent if name in held]:
            texts.append(f"{', '.join(there)} of the right type")
        if new := [name for name in sent if name not in held]:
            texts.append(f"{', '.join(new)} will be created by the first row")
        yield Finding(Mark.GOOD, "Profile fields", "; ".join(texts))


def sent_types() -> dict[str, str]:
    """Return the type of each profile field that the job sends, in Iterable's words."""
    fields = Payloads("").user(dict.fromkeys(JOB_COLUMNS, "x"))["dataFields"]
    return {name: _TYPE_NAMES[type(value)] for name, value in fields.items()}
