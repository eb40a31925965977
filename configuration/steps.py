"""The steps of a run before it sends anything. A run takes them, and so does ``--check``.

A step raises RunError for what ends a run, and logs what a run warns of.
"""

import json
import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from configuration.settings import Settings
from configuration.wiring import network, user_fields
from delivery.planner import Planner, Repeats, find_suspects, length_to_send
from delivery.recorder import Recorder
from delivery.stopping import Stop
from iterable_api.answers import KEY_LACKS, UNKNOWN_TYPE, Answer, Repeat
from iterable_api.endpoints import TRACK_EVENT, UPDATE_USER
from iterable_api.field_types import FieldType
from iterable_api.mapping import RowMapping
from iterable_api.payloads import Payloads
from logger_config import get_logger, keep_to_owner, setup_logger
from monitoring.console import key_advice, summary_lines, table_lines
from monitoring.heartbeat import Heartbeat
from records.columns import Column, Kind, Row
from records.delivery_ledger import DeliveryLedger
from records.exit_statuses import MEANINGS, ExitStatus, RunError, StopReason
from records.file_owner import in_the_way, owners_command
from records.outcomes import Fault
from records.results_files import other_jobs, remove_old, results_files, tells_of_deliveries
from records.results_writer import ResultsWriter
from records.row_spool import RowSpool
from records.run import RunRecord

logger = get_logger(__name__)

OWN_FILES = "Give each job its own STATE_FILE, LOG_FILE and RESULTS_DIR"
NO_METRICS = "METRICS_FILE %s cannot be written: %s"
EMPTY = (
    "STATE_FILE: {} is empty, but the results in {} show earlier deliveries. Every row is sent "
    "again, and journeys in Iterable may start again"
)
AGAIN = "What they recorded is sent again, and journeys in Iterable may start again"
# Clocks differ by less than the first, and time zones by no more than the second.
LEAST_AHEAD, MOST_AHEAD = timedelta(minutes=5), timedelta(hours=26)
# The other types of a project's field that take a value of the job's.
_ALSO_FIT = {(FieldType.LONG, "double"), (FieldType.DATE, "string")}


@contextmanager
def writing(variable: str, path: Path) -> Iterator[None]:
    """Turn what the system has against writing to *path*, which *variable* names, into RunError."""
    try:
        yield
    except BlockingIOError:
        text = f"Another job is writing to {variable} {path}. {OWN_FILES}"
        raise RunError(text, ExitStatus.BUSY) from None
    except OSError as error:
        advice = in_the_way(variable, path)
        text = f"{variable} {path} cannot be written: {error.strerror}"
        raise RunError(f"{text}. {advice}" if advice else text) from None


def refuse_root(settings: Settings, run: RunRecord) -> None:
    """Raise RunError if root would write among another user's files: that user's runs would fail.

    The demo may.
    """
    if os.geteuid() != 0 or run.options.demo:
        return
    folder = settings.results_dir
    with writing("RESULTS_DIR", folder):
        newest = results_files(folder)[-1:] if folder.is_dir() else []
    files = [("STATE_FILE", settings.state_file), ("LOG_FILE", settings.log_file)]
    for variable, path in [*files, *(("RESULTS_DIR", path) for path in newest)]:
        with writing(variable, path):
            text = owners_command(path)
        if text:
            raise RunError(f"{variable} {path} {text}")


def open_log(settings: Settings, env_file: Path | None, run: RunRecord) -> None:
    """Log to the file too. Only after the lock: another run's log file is not to be touched."""
    keep_to_owner(settings.state_file)
    with writing("LOG_FILE", settings.log_file):
        setup_logger(settings.log_level, settings.log_file, quiet=run.options.quiet)
    logger.debug("run %s, version %s, Python %s", run.id, run.version, platform.python_version())
    warn_of_exposed_files(env_file, settings)


def warn_of_exposed_files(env_file: Path | None, settings: Settings) -> None:
    """Warn of files with secrets that others than their owner may read."""
    # systemd guards its credentials by an access list, which the mode shows as the group's.
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
    # A folder that cannot be looked into is no reason to stop.
    with suppress(OSError):
        for job in other_jobs(settings.results_dir, settings.job)[:1]:
            logger.warning(
                "RESULTS_DIR: %s also holds results of another job (STATE_FILE %s), so the report "
                "mixes the two. %s, or move the old results away",
                settings.results_dir,
                job,
                OWN_FILES,
            )


class FirstLook:
    """Looks at Query 2's rows while they are read, as the server takes its time.

    ``payloads`` makes request bodies of them; ``suspects`` has what may repeat another row.
    """

    payloads: Payloads

    def __init__(self, settings: Settings, *, shown: bool) -> None:
        self._settings = settings
        self._shown = shown
        self.suspects: set[int] = set()

    def watch(self, columns: Sequence[Column], rows: Iterator[Row]) -> Iterator[Row]:
        """Return *rows* as they are. Raises ColumnError if their *columns* cannot be sent."""
        self.payloads = read_columns(columns, self._settings, shown=self._shown)
        return find_suspects(rows, self.payloads, self.suspects)

    def planner(self, recorder: Recorder, **options: bool) -> Planner:
        """Return what plans the rows; *options* say what is otherwise than in the run's own."""
        repeats = Repeats(self.payloads, self.suspects)
        wanted = replace(recorder.run.options, **options)
        return Planner(self.payloads, recorder.ledger, wanted, recorder.fields, repeats)


def read_columns(columns: Sequence[Column], settings: Settings, *, shown: bool) -> Payloads:
    """Return what makes request bodies of rows with *columns*; *shown*: log where each goes.

    Raises ColumnError if they cannot be sent.
    """
    mapping = RowMapping(columns, settings.iterable_identity)
    if shown:
        for line in table_lines(mapping.lines()):
            logger.info("%s", line)
    for remark in mapping.remarks():
        logger.warning("Query 2: %s", remark)
    return Payloads(settings.source, settings.time_zone, mapping)


def warn_of_times_ahead(rows: RowSpool, settings: Settings) -> None:
    """Warn if an event seems to lie ahead by no more than two time zones differ."""
    now = datetime.now(UTC)
    # As MySQL writes times, so that bytes compare as the times do.
    first, last = (
        f"{(now + ahead).astimezone(settings.time_zone):%Y-%m-%d %H:%M:%S}".encode()
        for ahead in (LEAST_AHEAD, MOST_AHEAD)
    )
    place = [column.name for column in rows.columns].index("event_time")
    times = (row[place] for chunk in rows.chunks() for row in chunk)
    count = sum(first <= time <= last for time in times if time)
    if count:
        logger.warning(
            "DB_TIME_ZONE: %s in the future in %s, so this is probably not the time zone of the "
            "data, and every createdAt would be wrong. Correct it before you send anything: "
            "changing it later creates every event a second time",
            "1 event_time is" if count == 1 else f"{count} event_times are",
            settings.db_time_zone,
        )


def row_count_problem(rows: int, settings: Settings) -> str:
    """Return what ends a run that found fewer or more rows than possible; empty if nothing does."""
    least, most = settings.min_rows, settings.max_rows
    if rows < least:
        return f"Query 2 returned fewer rows ({rows}) than MIN_ROWS ({least}); nothing was sent"
    if most is not None and rows > most:
        return f"Query 2 returned more rows ({rows}) than MAX_ROWS ({most}); nothing was sent"
    return ""


def run_notes(settings: Settings, mapping: RowMapping) -> dict[str, str]:
    """Return what the ledger is to note of a run: what its entries depend on."""
    return {
        "SOURCE_NAME": settings.source,
        "DB_TIME_ZONE": settings.db_time_zone,
        "Query 2's profile fields": json.dumps(mapping.shape_of(UPDATE_USER)),
        "Query 2's event fields": json.dumps(mapping.shape_of(TRACK_EVENT)),
    }


def lost_entries(ledger: DeliveryLedger | None, settings: Settings, mapping: RowMapping) -> str:
    """Return why, and how many, entries of *ledger* no longer count; empty if they all do.

    None stands for a ledger that is not there yet.
    """
    own, total = ledger.counts() if ledger else (0, 0)
    if ledger is None or not total:
        told = tells_of_deliveries(settings.results_dir, settings.job)
        return EMPTY.format(settings.state_file, settings.results_dir) if told else ""
    why = "the API key, ITERABLE_PROJECT or ITERABLE_API_BASE_URL"
    if own:
        notes = run_notes(settings, mapping).items()
        changed = [name for name, note in notes if ledger.noted(name) not in {"", note}]
        if not changed:
            return ""
        why = ", ".join(changed)
    # What a change does to an entry is only known when its row is there.
    count = f"up to {own}" if own else total
    return f"STATE_FILE: entries no longer valid: {count}. Changed since then: {why}. {AGAIN}"


def begin_run(rows: RowSpool, look: FirstLook, settings: Settings, recorder: Recorder) -> None:
    """Look at what decides which of *rows* need sending, and begin the run about these.

    Stop it if there are too few or too many. Warn if it sends more than what is new or changed.
    """
    options, stop, mapping = recorder.run.options, recorder.stop, look.payloads.mapping
    if text := row_count_problem(len(rows), settings):
        stop.request(StopReason.ROW_COUNT, text)
    if not options.send_all and (text := lost_entries(recorder.ledger, settings, mapping)):
        logger.warning("%s", text)
    if len(rows) and not options.dry_run and not stop.reason:
        # Nothing is under way yet, and Iterable may take a minute not to answer.
        with stop.interrupting():
            recorder.fields.know(_look_at_project(mapping, settings, stop))
    if options.limit:
        # It counts rows that need sending: otherwise each run would meet the same ones again.
        dry = look.planner(recorder, dry_run=True)
        every = options.send_all
        rows.cut(options.limit if every else length_to_send(options.limit, rows.chunks(), dry))
    recorder.begin(len(rows), run_notes(settings, mapping))


def _look_at_project(
    mapping: RowMapping, settings: Settings, stop: Stop
) -> Mapping[str, str] | None:
    """Return the project's profile fields, None if it does not tell them.

    End the run before anything is sent if the key is refused. One that may not read the fields may
    still be good for what a run sends.
    """
    found = user_fields(settings)
    outcome = found.outcome
    if outcome.key_refused and outcome.message != KEY_LACKS:
        stop.request(StopReason.KEY_REFUSED, outcome.message)
    elif found.field_types is None:
        logger.warning("%s", no_fields(found, settings))
    for text in wrong_types(found.field_types or {}, mapping):
        logger.warning("%s", text)
    return found.field_types


def no_fields(found: Answer, settings: Settings) -> str:
    """Return why the project did not tell its fields, and what to look at.

    Never in Iterable's own words, as it may be logged.
    """
    outcome, cause, url = found.outcome, found.cause, settings.iterable_api_base_url
    if found.repeat is Repeat.THROTTLE:
        return f"{url} does not list the project's fields right now (rate limit); try again later"
    if outcome.key_refused:
        return f"{outcome.message}. {key_advice(url)}"
    if outcome.http_status and outcome.fault in {Fault.NETWORK, Fault.PROJECT}:
        return f"{url}: {outcome.message}"
    return f"{url}: {cause.words}; {cause.advice}"


def wrong_types(types: Mapping[str, str], mapping: RowMapping) -> Iterator[str]:
    """Yield why all rows would be refused: a field that the project has with another type.

    *types* are the project's, by the names of its profile fields. Of JSON nothing can be told: for
    an array the project has the type of what is in it.
    """
    for field in mapping.fields_of(UPDATE_USER):
        name, kind = field.name, field.type
        has = types.get(name, UNKNOWN_TYPE)
        fits = has in {UNKNOWN_TYPE, kind} or (kind, has) in _ALSO_FIT
        if fits or kind is FieldType.JSON or field.column.kind is Kind.NULL:
            continue
        advice = f"In Query 2, give the field another name, or if its values fit, the type :{has}"
        if field in mapping.own:
            advice = (
                f"In Query 2, write NULL AS `user.{name}` and send it as `user.<another name>`, or "
                f"if its values fit, write it AS `user.{name}:{has}`"
            )
        yield (
            f"The profile field {name} has the type {has} in the project, and the job sends a "
            f"{kind}: Iterable refuses every row with it. A field's type cannot be changed. {advice}"
        )


# --- After the last row


def remove_old_results(settings: Settings, own: Path) -> None:
    """Keep as many results files as the settings say, with the run's *own*, or warn."""
    try:
        remove_old(own, settings.results_keep)
    except OSError as error:
        logger.warning("RESULTS_KEEP: %s cannot be removed: %s", error.filename, error.strerror)


@contextmanager
def monitored(settings: Settings, run: RunRecord) -> Iterator[None]:
    """Tell the heartbeat's monitor that the run begins, and it and Prometheus how it ended.

    Of a dry run neither is told.
    """
    if run.options.dry_run:
        yield
        return
    url = settings.heartbeat_url.get_secret_value() if settings.heartbeat_url else ""
    monitor = Heartbeat(url, run.id, network(settings))
    monitor.start()
    yield
    if settings.metrics_file:
        _export_metrics(settings.metrics_file, run, str(settings.state_file))
    meaning = MEANINGS[run.exit_status].summary
    lines = [f"exit status {run.exit_status}: {meaning}", *summary_lines(run)]
    monitor.finish(run.exit_status, "\n".join(lines))


def _export_metrics(path: Path, run: RunRecord, sync: str) -> None:
    """Write METRICS_FILE; a failure is a warning."""
    try:
        from monitoring.metrics import write_metrics  # noqa: PLC0415 - most runs have none

        write_metrics(path, run, sync)
    except (OSError, ImportError) as error:
        reason = getattr(error, "strerror", None) or error
        logger.warning(NO_METRICS, path, reason)
