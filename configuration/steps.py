"""The steps of a run before it sends anything; ``--check`` takes them too.

A step raises RunError if the run must end, and logs warnings.
"""

import json
import os
import platform
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from configuration.settings import Settings
from configuration.wiring import database_connection, network, user_fields
from db_connection import LOAD_ZONES, DatabaseConnection
from delivery.planner import Planner, Repeats, find_suspects, length_to_send
from delivery.recorder import Recorder
from delivery.stopping import Stop
from iterable_api.answers import KEY_LACKS, UNKNOWN_TYPE, Answer, Repeat
from iterable_api.endpoints import TRACK_EVENT, UPDATE_USER
from iterable_api.field_types import FieldType
from iterable_api.mapping import RowMapping
from iterable_api.payloads import Payloads
from logger_config import get_logger, keep_to_owner, setup_logger
from monitoring.console import KEY_ADVICE, summary_lines, table_lines
from monitoring.heartbeat import ping
from records.columns import Column, Kind, Row
from records.delivery_ledger import DeliveryLedger
from records.exit_statuses import DatabaseError, ExitStatus, RunError, StopReason
from records.files import in_the_way, name_of
from records.outcomes import CallStatus, Fault
from records.results_files import ResultsWriter, results_files, runs_in
from records.row_spool import RowSpool
from records.run import RunRecord

logger = get_logger(__name__)

OWN_FILES = "Give each job its own STATE_FILE, LOG_FILE and RESULTS_DIR"
NO_METRICS = "METRICS_FILE %s cannot be written: %s"
EMPTY = (
    "STATE_FILE: {} is empty, but the results in {} show earlier deliveries. Every row is sent "
    "again, and journeys in Iterable may start again"
)
AGAIN = "The rows of these entries are sent again, and journeys in Iterable may start again"
FUTURE = (
    "DB_TIME_ZONE: %s in the future in %s, so this is probably not the time zone of the data, and "
    "every createdAt would be wrong. Correct it before you send anything: changing it later "
    "creates every event a second time"
)
# Number of results files in which other jobs and deliveries are looked for.
LATEST = 20
# Clocks differ by less than the first, and time zones by no more than the second.
LEAST_AHEAD, MOST_AHEAD = timedelta(minutes=5), timedelta(hours=26)
# The job's type, and another type in the project that accepts its values.
_ALSO_FIT = {(FieldType.LONG, "double"), (FieldType.DATE, "string")}


@contextmanager
def writing(variable: str, path: Path) -> Iterator[None]:
    """Turn an OSError from writing to *path*, the value of *variable*, into RunError."""
    try:
        yield
    except BlockingIOError:
        text = f"Another job is writing to {variable} {path}. {OWN_FILES}"
        raise RunError(text, ExitStatus.BUSY) from None
    except OSError as error:
        advice = in_the_way(path)
        text = f"{variable} {path} cannot be written: {error.strerror}"
        raise RunError(f"{text}. {advice}" if advice else text) from None


def refuse_root(settings: Settings, run: RunRecord) -> None:
    """Raise RunError if root would write among another user's files: that user's runs would fail.

    The demo is exempt.
    """
    if os.geteuid() != 0 or run.options.demo:
        return
    folder = settings.results_dir
    with writing("RESULTS_DIR", folder):
        newest = results_files(folder)[-1:] if folder.is_dir() else []
    files = [("STATE_FILE", settings.state_file), ("LOG_FILE", settings.log_file)]
    for variable, path in [*files, *(("RESULTS_DIR", path) for path in newest)]:
        with writing(variable, path):
            owner = path.stat().st_uid if path.is_file() else 0
        if owner:
            name = name_of(owner)
            command = shlex.join(["runuser", "-u", name, "--", *sys.orig_argv])
            raise RunError(
                f"{variable} {path} belongs to {name}, whose runs would fail after a run as root. "
                f"As {name}: {command}"
            )


def open_log(settings: Settings, env_file: Path | None, run: RunRecord) -> None:
    """Log to the file too; call it after the lock, as another run's log must not be touched."""
    keep_to_owner(settings.state_file)
    with writing("LOG_FILE", settings.log_file):
        setup_logger(settings.log_level, settings.log_file, quiet=run.options.quiet)
    logger.debug("run %s, version %s, Python %s", run.id, run.version, platform.python_version())
    warn_of_exposed_files(env_file, settings)


def warn_of_exposed_files(env_file: Path | None, settings: Settings) -> None:
    """Warn of files with secrets that other users can read."""
    # systemd protects its credentials by an access list, which the mode shows as group rights.
    guarded = os.environ.get("CREDENTIALS_DIRECTORY", "/nowhere")
    files = (env_file, settings.db_password_file, settings.iterable_api_key_file)
    for path in filter(None, files):
        if path.is_file() and not path.is_relative_to(guarded) and path.stat().st_mode & 0o044:
            logger.warning(
                "Other users can read %s, which holds secrets: run chmod 600 on it", path
            )


def open_results(settings: Settings, run: RunRecord) -> ResultsWriter:
    """Return the writer of the run's results file, which has claimed its name."""
    with writing("RESULTS_DIR", settings.results_dir):
        writer = ResultsWriter(settings.results_dir, run.started_at)
    if not run.options.demo:
        warn_of_other_jobs(settings)
    return writer


def warn_of_other_jobs(settings: Settings) -> None:
    """Warn if another job has its results in the same folder."""
    folder = settings.results_dir
    if others := {run.job for run in runs_in(folder, LATEST)} - {settings.job, ""}:
        text = (
            "RESULTS_DIR: %s also holds results of another job (STATE_FILE %s), so the report "
            "mixes the two. %s, or move the old results away"
        )
        logger.warning(text, folder, min(others), OWN_FILES)


@contextmanager
def connected(settings: Settings) -> Iterator[DatabaseConnection]:
    """Yield an open connection to the database.

    Raises DatabaseError also if the server's time zone tables differ from this machine's.
    """
    with database_connection(settings) as database:
        if settings.db_time_zone[0] not in "+-":
            _check_time_zone(database, settings)
        yield database


def _check_time_zone(database: DatabaseConnection, settings: Settings) -> None:
    now = datetime.now(UTC).replace(microsecond=0, tzinfo=None)
    for when in (now, now.replace(month=1, day=15), now.replace(month=7, day=15)):
        sql = f"SELECT CONVERT_TZ('{when}', '+00:00', @@time_zone) AS there"
        there = database.execute_query(sql)[0]["there"]
        here = when.replace(tzinfo=UTC).astimezone(settings.time_zone).replace(tzinfo=None)
        if str(there) != str(here):
            raise DatabaseError(
                f"DB_TIME_ZONE {settings.db_time_zone}: at {when} UTC it is {there} on the server "
                f"and {here} on this machine; use an offset, update this machine's tzdata, or "
                f"{LOAD_ZONES}"
            )


class FirstLook:
    """Looks at Query 2's columns and rows while the server sends them, which saves time.

    ``payloads`` builds their bodies; before ``watch()`` it knows the job's own columns only.
    ``suspects`` has what may repeat another row. *shown*: log where each column goes.
    """

    def __init__(self, settings: Settings, *, shown: bool) -> None:
        self._settings = settings
        self._shown = shown
        self.payloads = self._payloads(RowMapping(identity=settings.iterable_identity))
        self.suspects: set[int] = set()

    def _payloads(self, mapping: RowMapping) -> Payloads:
        return Payloads(self._settings.source, self._settings.time_zone, mapping)

    def watch(self, columns: Sequence[Column], rows: Iterator[Row]) -> Iterator[Row]:
        """Yield *rows* as they are; warn of times in the future, as a wrong zone makes them.

        Raises RunError if *columns* cannot be sent.
        """
        self._map(columns)
        now, zone = datetime.now(UTC), self._settings.time_zone
        # Written as MySQL does, so that comparing bytes compares the times.
        first, last = (
            f"{(now + ahead).astimezone(zone):%Y-%m-%d %H:%M:%S}".encode()
            for ahead in (LEAST_AHEAD, MOST_AHEAD)
        )
        place, count = self.payloads.mapping.places["event_time"], 0
        for row in find_suspects(rows, self.payloads, self.suspects):
            if (time := row[place]) and first <= time <= last:
                count += 1
            yield row
        if count:
            times = "1 event_time is" if count == 1 else f"{count} event_times are"
            logger.warning(FUTURE, times, self._settings.db_time_zone)

    def _map(self, columns: Sequence[Column]) -> None:
        mapping = RowMapping(columns, self._settings.iterable_identity)
        if self._shown:
            for line in table_lines(mapping.lines()):
                logger.info("%s", line)
        for remark in mapping.remarks():
            logger.warning("Query 2: %s", remark)
        self.payloads = self._payloads(mapping)

    def planner(self, recorder: Recorder, **options: bool) -> Planner:
        """Return the planner of the rows; *options* override those of the run."""
        repeats = Repeats(self.payloads, self.suspects)
        wanted = replace(recorder.run.options, **options)
        return Planner(self.payloads, recorder.ledger, wanted, recorder.fields, repeats)


def row_count_problem(rows: int, settings: Settings) -> str:
    """Return why a run with this number of *rows* must end; empty if it need not."""
    least, most = settings.min_rows, settings.max_rows
    if rows < least:
        return f"Query 2 returned fewer rows ({rows}) than MIN_ROWS ({least}); nothing was sent"
    if most is not None and rows > most:
        return f"Query 2 returned more rows ({rows}) than MAX_ROWS ({most}); nothing was sent"
    return ""


def run_notes(settings: Settings, mapping: RowMapping) -> dict[str, str]:
    """Return the notes of a run for the ledger: the settings that its entries depend on."""
    return {
        "SOURCE_NAME": settings.source,
        "DB_TIME_ZONE": settings.db_time_zone,
        "Query 2's profile fields": json.dumps(mapping.shape_of(UPDATE_USER)),
        "Query 2's event fields": json.dumps(mapping.shape_of(TRACK_EVENT)),
    }


def lost_entries(ledger: DeliveryLedger | None, settings: Settings, mapping: RowMapping) -> str:
    """Return how many entries of *ledger* are no longer valid, and why; empty if all are valid.

    *ledger* is None if the file does not exist yet.
    """
    own, total = ledger.counts() if ledger else (0, 0)
    if ledger is None or not total:
        runs = [run for run in runs_in(settings.results_dir, LATEST) if run.job == settings.job]
        told = any((run.users_update + run.events_track)[CallStatus.DELIVERED] for run in runs)
        return EMPTY.format(settings.state_file, settings.results_dir) if told else ""
    why = "the API key, ITERABLE_PROJECT or ITERABLE_API_BASE_URL"
    if own:
        notes = run_notes(settings, mapping).items()
        changed = [name for name, note in notes if ledger.notes.get(name, note) != note]
        if not changed:
            return ""
        why = ", ".join(changed)
    # Only the row of an entry shows whether the change affects it.
    count = f"up to {own}" if own else total
    return f"STATE_FILE: outdated entries: {count}. Changed since the last run: {why}. {AGAIN}"


def begin_run(rows: RowSpool, look: FirstLook, settings: Settings, recorder: Recorder) -> None:
    """Check what decides which of *rows* need sending, and begin the run.

    Stop it if there are too few or too many rows. Warn if it sends more than new and changed rows.
    """
    options, stop, mapping = recorder.run.options, recorder.stop, look.payloads.mapping
    if text := row_count_problem(len(rows), settings):
        stop.request(StopReason.ROW_COUNT, text)
    if not options.send_all and (text := lost_entries(recorder.ledger, settings, mapping)):
        logger.warning("%s", text)
    if len(rows) and not options.dry_run and not stop.reason:
        # No request of a row is in flight yet, and a timeout may take a minute.
        with stop.interrupting():
            recorder.fields.know(_look_at_project(mapping, settings, stop))
    if options.limit:
        # The limit counts rows that need sending: otherwise each run would take the same rows.
        dry = look.planner(recorder, dry_run=True)
        every = options.send_all
        rows.cut(options.limit if every else length_to_send(options.limit, rows.chunks(), dry))
    recorder.begin(len(rows), run_notes(settings, mapping))


def _look_at_project(
    mapping: RowMapping, settings: Settings, stop: Stop
) -> Mapping[str, str] | None:
    """Return the project's profile fields, None if Iterable does not list them.

    Stop the run before anything is sent if Iterable refuses the key. A key that may not list the
    fields may still be allowed to send.
    """
    found = user_fields(settings)
    outcome = found.outcome
    if outcome.fault is Fault.KEY and outcome.message != KEY_LACKS:
        stop.request(StopReason.KEY_REFUSED, outcome.message)
    elif found.field_types is None:
        logger.warning("%s", no_fields(found, settings))
    for text in wrong_types(found.field_types or {}, mapping):
        logger.warning("%s", text)
    return found.field_types


def no_fields(found: Answer, settings: Settings) -> str:
    """Return why Iterable did not list the project's fields, and what to check.

    The text goes to the log, so it never quotes Iterable's own message.
    """
    outcome, cause, url = found.outcome, found.cause, settings.iterable_api_base_url
    if found.repeat is Repeat.THROTTLE:
        return f"{url} does not list the project's fields right now (rate limit); try again later"
    if outcome.fault is Fault.KEY:
        return f"{outcome.message}. {KEY_ADVICE}"
    if outcome.http_status and outcome.fault in {Fault.NETWORK, Fault.PROJECT}:
        return f"{url}: {outcome.message}"
    return f"{url}: {cause.words}; {cause.advice}"


def wrong_types(types: Mapping[str, str], mapping: RowMapping) -> Iterator[str]:
    """Yield each field whose other type in the project would make Iterable refuse all rows.

    *types* are the project's, by the names of its profile fields. JSON is left out: for an array
    the project lists the type of its items.
    """
    for field in mapping.fields_of(UPDATE_USER):
        name, kind = field.name, field.type
        has = types.get(name, UNKNOWN_TYPE)
        fits = has in {UNKNOWN_TYPE, kind} or (kind, has) in _ALSO_FIT
        if fits or kind is FieldType.JSON or field.column.kind is Kind.NULL:
            continue
        change = f"give the field another name, or if its values fit, the type :{has}"
        if field in mapping.own:
            change = (
                f"write NULL AS `user.{name}` and send it as `user.<another name>`, or if its "
                f"values fit, write it AS `user.{name}:{has}`"
            )
        yield (
            f"The profile field {name} has the type {has} in the project, and the job sends a "
            f"{kind}: Iterable refuses every row with it. A type cannot be changed. In Query 2, "
            f"{change}"
        )


# --- After the last row


def remove_old_results(settings: Settings, own: Path) -> None:
    """Keep RESULTS_KEEP results files of the job, among them the run's *own*.

    Files that are dated later were written while the clock was ahead: they go first. A failure is a
    warning.
    """
    runs = runs_in(settings.results_dir) if settings.results_keep else ()
    others = [run.file for run in runs if run.file not in {None, own} and run.job == settings.job]
    others.sort(key=lambda path: path < own)
    try:
        for path in others[: max(0, len(others) + 1 - settings.results_keep)]:
            path.unlink(missing_ok=True)
    except OSError as error:
        logger.warning("RESULTS_KEEP: %s cannot be removed: %s", error.filename, error.strerror)


@contextmanager
def monitored(settings: Settings, run: RunRecord) -> Iterator[None]:
    """Ping HEARTBEAT_URL at the start and the end of the run, and write METRICS_FILE.

    A dry run does neither.
    """
    if run.options.dry_run:
        yield
        return
    url = settings.heartbeat_url.get_secret_value()
    ping(url, run.id, network(settings), "start")
    yield
    if settings.metrics_file:
        _export_metrics(settings.metrics_file, run, str(settings.state_file))
    status = run.exit_status
    lines = [f"exit status {status}: {status.meaning}", *summary_lines(run)]
    ping(url, run.id, network(settings), int(status), "\n".join(lines))


def _export_metrics(path: Path, run: RunRecord, sync: str) -> None:
    """Write METRICS_FILE; a failure is a warning."""
    try:
        from monitoring.metrics import write_metrics  # noqa: PLC0415 - most runs have none

        write_metrics(path, run, sync)
    except (OSError, ImportError) as error:
        reason = getattr(error, "strerror", None) or error
        logger.warning(NO_METRICS, path, reason)
