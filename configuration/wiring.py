"""Makes the objects of a run out of its settings. Nothing here decides or sends anything."""

import functools
import gc
import math
import platform
import resource
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

from configuration.lost_entries import lost_entries, run_notes
from configuration.settings import Settings, exposed_files, password_in_quotes
from db_connection import DatabaseConnection
from delivery.bulk import BatchLimit, BulkDelivery
from delivery.pipeline import Pipeline
from delivery.planner import Planner, length_to_send
from delivery.project_fields import ProjectFields
from delivery.recorder import Recorder
from delivery.repeats import Repeats
from delivery.stopping import Stop
from delivery.worker_pool import WorkerPool
from iterable_api.answers import KEY_LACKS
from iterable_api.mapping import read_mapping
from iterable_api.payloads import Payloads
from iterable_api.transport import Transport
from iterable_api.user_fields import UserFields, fetch_user_fields, refuses_emails
from iterable_client import IterableClient
from logger_config import get_logger, keep_to_owner, setup_logger
from monitoring.console import summary_lines, table_lines
from monitoring.heartbeat import Heartbeat
from records.delivery_ledger import DeliveryLedger
from records.exit_statuses import MEANINGS, ExitStatus, RunError, StopReason
from records.results_files import other_jobs, remove_old
from records.results_writer import ResultsWriter
from records.row_spool import RowSpool
from records.run import RunOptions, RunRecord

logger = get_logger(__name__)

# Enough for 500 users a second at 1.5 s an answer, each with two calls.
MOST_WORKERS = 1500
# Fewer than for 500 users a second at 300 ms are worth a word.
USUAL_WORKERS = 330
IN_QUOTES = (
    "has quotes around it in the environment, and they are taken for a part of it: "
    "docker --env-file does not take them off"
)
# The most that ITERABLE_WORKERS can be.
MOST_WORKERS_SETTABLE = 2000
# Sockets apart: the log, the ledger, the results, and what Python holds.
OTHER_OPEN_FILES = 50
OWN_FILES = "Give each job a STATE_FILE, a LOG_FILE and a RESULTS_DIR of its own"


class LogBusyError(RunError):
    """Another job is writing to the log file."""

    status = ExitStatus.BUSY


def open_ledger(settings: Settings) -> DeliveryLedger:
    """Return the ledger, which keeps other runs out until it is closed."""
    key = settings.iterable_api_key.get_secret_value()
    return DeliveryLedger(
        settings.state_file,
        settings.destination,
        key,
        settings.query_name,
        settings.iterable_project or "",
    )


@contextmanager
def only_run(settings: Settings, env_file: Path | None, run: RunRecord) -> Iterator[DeliveryLedger]:
    """Keep other runs out, then log to the file too; yield the ledger.

    The lock comes first, because the log file of another run is not to be touched.
    """
    with open_ledger(settings) as ledger:
        keep_to_owner(settings.state_file)
        try:
            setup_logger(settings.log_level, settings.log_file, quiet=run.options.quiet)
        except BlockingIOError:
            text = f"LOG_FILE {settings.log_file} is being written by another job. {OWN_FILES}"
            raise LogBusyError(text) from None
        except OSError as error:
            text = f"LOG_FILE {settings.log_file} cannot be written: {error.strerror}"
            raise RunError(text) from None
        logger.debug(
            "run %s, version %s, Python %s", run.id, run.version, platform.python_version()
        )
        for path in exposed_files(env_file, settings):
            logger.warning("%s holds secrets and others may read it: chmod 600 it", path)
        if password_in_quotes(settings):
            logger.warning("DB_PASSWORD %s", IN_QUOTES)
        yield ledger


def open_results(settings: Settings, run: RunRecord) -> ResultsWriter:
    """Return the writer of the run's results file, which has claimed its name."""
    try:
        writer = ResultsWriter(settings.results_dir, run.started_at)
        if not run.options.demo and (mixed := mixed_results(settings)):
            logger.warning("RESULTS_DIR: %s", mixed)
        return writer  # noqa: TRY300 - what fails is the same for all of it
    except OSError as error:
        text = f"RESULTS_DIR {settings.results_dir} cannot be written: {error.strerror}"
        raise RunError(text) from None


def mixed_results(settings: Settings) -> str:
    """Return what is to be said if another job has its results in the same folder.

    Raises OSError when it cannot be looked into.
    """
    others = other_jobs(settings.results_dir, settings.job)
    if not others:
        return ""
    return (
        f"{settings.results_dir} holds results of another job too, that of STATE_FILE {others[0]}: "
        f"the report takes both for one job. {OWN_FILES}, or move old results away"
    )


def remove_old_results(settings: Settings, own: Path) -> None:
    """Keep as many results files as the settings say, the run's *own* among them.

    A failure is a warning.
    """
    try:
        remove_old(own, settings.results_keep)
    except OSError as error:
        logger.warning("RESULTS_KEEP: %s cannot be removed: %s", error.filename, error.strerror)


def collect_less_garbage() -> None:
    """Let Python look for garbage only now and then: rows leave none behind that needs a look.

    What is loaded by now stays; looking through it would stop all threads at once.
    """
    gc.freeze()
    gc.set_threshold(50_000)


def database_connection(settings: Settings, query_timeout_s: int) -> DatabaseConnection:
    """Return the connection that the settings ask for, not opened yet."""
    return DatabaseConnection(
        host=settings.db_host,
        port=settings.db_port,
        user=settings.db_user,
        password=settings.db_password.get_secret_value(),
        database=settings.db_name,
        ssl_ca=settings.db_ssl_ca,
        time_zone=settings.db_time_zone,
        query_timeout_s=query_timeout_s,
    )


def query_limit_s(settings: Settings) -> int:
    """Return how long Query 2 may take: its own limit, and never longer than the whole run."""
    if not settings.max_runtime_seconds:
        return settings.db_query_timeout_seconds
    return min(settings.db_query_timeout_seconds, math.ceil(settings.max_runtime_seconds))


def checked_payloads(
    rows: RowSpool, settings: Settings, stop: Stop, options: RunOptions
) -> Payloads:
    """Return what makes request bodies of *rows*, and tell once where their columns go.

    Stop the run if there are too few or too many. Raises ColumnError when they cannot be sent.
    """
    mapping = read_mapping(rows.columns, settings.iterable_identity, settings.time_zone)
    if options.dry_run or options.demo:
        for line in table_lines(mapping.lines()):
            logger.info("%s", line)
    for remark in mapping.remarks():
        logger.warning("Query 2: %s", remark)
    check_row_count(len(rows), settings, stop)
    return Payloads(settings.source, settings.time_zone, mapping)


def check_row_count(rows: int, settings: Settings, stop: Stop) -> None:
    """Stop the run if Query 2 found fewer or more rows than the operator thinks possible."""
    found = f"Query 2 found {rows} rows and"
    if rows < settings.min_rows:
        text = f"{found} MIN_ROWS is {settings.min_rows}; nothing was sent"
        stop.request(StopReason.ROW_COUNT, text)
    elif settings.max_rows is not None and rows > settings.max_rows:
        text = f"{found} MAX_ROWS is {settings.max_rows}; nothing was sent"
        stop.request(StopReason.ROW_COUNT, text)


def project_fields(
    settings: Settings, run: RunRecord, ledger: DeliveryLedger, stop: Stop
) -> ProjectFields:
    """Return what is to be known of the project's fields; nothing was asked yet."""
    return ProjectFields(run, ledger, lambda: user_fields(settings).types, stop.wait)


def begin_run(rows: RowSpool, make: Payloads, settings: Settings, recorder: Recorder) -> None:
    """Look at what decides which of *rows* need sending, and begin the run about these.

    Warn if that is more than what is new or changed.
    """
    options, ledger = recorder.run.options, recorder.ledger
    if not options.send_all and (text := lost_entries(ledger, settings, make.mapping)):
        logger.warning("%s", text)
    if len(rows) and not options.dry_run and not recorder.stop.reason:
        _look_at_project(settings, recorder)
        if not ledger.is_empty:
            planner = _planner(make, recorder, Repeats(make))
            recorder.refusals.accept(planner.held_at(rows.chunks()))
    if options.limit:
        rows.cut(_rows_to_send(options.limit, rows, make, recorder))
    recorder.begin(len(rows), run_notes(settings, make.mapping))


def _look_at_project(settings: Settings, recorder: Recorder) -> None:
    """Ask for the project's fields; end the run before anything is sent if the key is refused.

    A key that may not read them may still be good for what the run sends.
    """
    # Nothing is under way yet, and Iterable may take a minute not to answer.
    with recorder.stop.interrupting():
        found = user_fields(settings)
    recorder.fields.know(found.types)
    outcome = found.answer.outcome
    if outcome.key_refused and outcome.message != KEY_LACKS:
        recorder.stop.request(StopReason.KEY_REFUSED, outcome.message)


def _rows_to_send(limit: int, rows: RowSpool, make: Payloads, recorder: Recorder) -> int:
    """Return how many of *rows* the run is about.

    The limit counts rows that need sending: otherwise each run would meet the same ones again.
    With --all every row does.
    """
    if recorder.run.options.send_all:
        return limit
    planner = _planner(make, recorder, repeats_in(rows, make), dry_run=True)
    return length_to_send(limit, rows.chunks(), planner)


def repeats_in(rows: RowSpool, make: Payloads) -> Repeats:
    """Return which of *rows* have the address or the event of a row before them."""
    return Repeats(make, make.suspects(rows.values(make.suspect_places())))


def _planner(make: Payloads, recorder: Recorder, repeats: Repeats, **options: bool) -> Planner:
    wanted = replace(recorder.run.options, **options)
    return Planner(make, recorder.ledger, wanted, recorder.fields, repeats)


def most_workers(settings: Settings) -> int:
    """Return how many rows may be in flight: as the settings say, and as files may be open."""
    return min(settings.iterable_workers or MOST_WORKERS, most_sockets())


@functools.cache
def most_sockets() -> int:
    """Return how many sockets this process may have.

    The soft limit of open files is raised for that, once, as far as the hard one allows: it takes
    no special right. Other programs of this machine, and slow ones, mind a limit without bounds.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_WORKERS_SETTABLE + OTHER_OPEN_FILES
    possible = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < possible:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (possible, hard))
        except (OSError, ValueError):  # a sandbox may forbid it
            possible = soft
    return max(1, possible - OTHER_OPEN_FILES)


def iterable_client(settings: Settings, stop: Stop) -> IterableClient:
    """Return the client that the settings ask for; its waits end early when the run is to stop."""
    return IterableClient(
        settings.iterable_api_key.get_secret_value(),
        settings.iterable_api_base_url,
        payloads=Payloads(settings.source, settings.time_zone),
        timeout_s=settings.iterable_timeout_seconds,
        max_attempts=settings.iterable_max_attempts,
        rate_share=settings.iterable_rate_share,
        connections=most_workers(settings),
        wait=stop.wait,
        outage=functools.partial(stop.request, StopReason.OUTAGE),
        create_new_fields=settings.create_new_fields,
        ca_file=settings.iterable_ca_file,
        proxy=settings.proxy,
    )


def user_fields(settings: Settings) -> UserFields:
    """Return the project's profile fields, or why they cannot be had."""
    with closing(_reading(settings)) as transport:
        return fetch_user_fields(transport)


def emails_refused(settings: Settings) -> bool:
    """Return whether the project will not even look for a user by email."""
    with closing(_reading(settings)) as transport:
        return refuses_emails(transport)


def _reading(settings: Settings) -> Transport:
    """Return a connection for requests that read; the caller closes it."""
    return Transport(
        settings.iterable_api_base_url,
        settings.iterable_api_key.get_secret_value(),
        settings.iterable_timeout_seconds,
        connections=1,
        ca_file=settings.iterable_ca_file,
        proxy=settings.proxy,
    )


def deliver_rows(
    rows: RowSpool,
    make: Payloads,
    settings: Settings,
    client: IterableClient,
    recorder: Recorder,
) -> None:
    """Send the rows of the run, one by one or in batches; *recorder* is told every outcome."""
    options = recorder.run.options
    if not options.bulk and (few := few_workers(settings)):
        logger.warning("ITERABLE_WORKERS: %s", few)
    limit = BatchLimit(settings.bulk_batch_size if options.bulk else 1)
    bulk = BulkDelivery(client, recorder.stop, limit) if options.bulk else None
    pool = WorkerPool(
        recorder.stop,
        client.process_prepared,
        bulk.process if bulk else None,
        most_workers(settings),
        client.waiting,
    )
    planner = _planner(make, recorder, repeats_in(rows, make))
    Pipeline(planner, pool, recorder, limit, settings.results_dir).deliver(rows.chunks())
    recorder.stop.over = True


def few_workers(settings: Settings) -> str:
    """Return what is to be said of the limit of open files; empty if it is no hindrance."""
    wanted, possible = settings.iterable_workers or USUAL_WORKERS, most_sockets()
    if possible >= wanted:
        return ""
    return (
        f"only {possible} rows can be in flight, because {possible + OTHER_OPEN_FILES} files may "
        f"be open; ulimit -n {wanted + OTHER_OPEN_FILES} allows {wanted}"
    )


@contextmanager
def monitored(settings: Settings, run: RunRecord) -> Iterator[None]:
    """Tell the heartbeat's monitor that the run begins, and it and Prometheus how it ended."""
    url = settings.heartbeat_url.get_secret_value() if settings.heartbeat_url else ""
    heartbeat = Heartbeat(
        "" if run.options.dry_run else url,
        run.id,
        ca_file=settings.iterable_ca_file,
        proxy=settings.proxy,
    )
    heartbeat.start()
    yield
    if settings.metrics_file and not run.options.dry_run:
        _export_metrics(settings.metrics_file, run, str(settings.state_file))
    meaning = MEANINGS[run.exit_status].summary
    lines = [f"exit status {run.exit_status}: {meaning}", *summary_lines(run)]
    heartbeat.finish(run.exit_status, "\n".join(lines))


def _export_metrics(path: Path, run: RunRecord, sync: str) -> None:
    """Write METRICS_FILE; a failure is a warning."""
    try:
        from monitoring.metrics import write_metrics  # noqa: PLC0415 - most runs have none

        write_metrics(path, run, sync)
    except (OSError, ImportError) as error:
        reason = getattr(error, "strerror", None) or error
        logger.warning("METRICS_FILE %s cannot be written: %s", path, reason)
