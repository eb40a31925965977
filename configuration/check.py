"""``--check`` takes the steps of a run, up to planning its first rows; it changes nothing.

When a step fails, it logs the same error as a run and goes on with the next step.
"""

import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, nullcontext, suppress
from itertools import chain, islice
from pathlib import Path

from configuration import steps, wiring
from configuration.settings import Settings, load_environment_variables
from db_connection import JOB_QUERY, load_query
from iterable_api.answers import Repeat
from iterable_api.mapping import RowMapping
from iterable_api.payloads import Payloads, RowError
from logger_config import get_logger, setup_logger
from records.delivery_ledger import DeliveryLedger
from records.exit_statuses import ExitStatus, RunError
from records.row_spool import RowSpool
from records.run import RunRecord

logger = get_logger(__name__)

FIRST_ROWS = 100
NO_ROTATION = "LOG_FILE %s cannot be rotated and keeps growing: make its folder writable"


def check(env_file: Path | None, environ: Mapping[str, str], run: RunRecord) -> ExitStatus:
    """Take the steps of *run*, log the outcome of each, and return OK.

    Raises RunError if the run would fail, with the status of the first failure.
    """
    settings = load_environment_variables(env_file, environ)
    _log_ok("The settings are complete and valid")
    failures: list[RunError] = []
    steps.warn_of_exposed_files(env_file, settings)
    with _step(failures):
        steps.refuse_root(settings, run)
    _check_lock_and_log(settings, failures, quiet=run.options.quiet)
    _check_folders(settings, failures, demo=run.options.demo)
    look = steps.FirstLook(settings, shown=True)
    _check_query(look, settings, failures)
    mapping = look.payloads.mapping
    # If the ledger cannot be opened, the error is already logged.
    with suppress(RunError), _ledger(settings) as ledger:
        if text := steps.lost_entries(ledger, settings, mapping):
            logger.warning("%s", text)
    _check_project(mapping, settings, failures)
    if failures:
        first, count = failures[0], len(failures)
        more = f"{count} checks failed, the first: " if count > 1 else ""
        raise RunError(f"Not ready for a run. {more}{first}", first.status)
    logger.info("Ready for a run")
    return ExitStatus.OK


@contextmanager
def _step(failures: list[RunError]) -> Iterator[None]:
    """Log why a step failed, add the error to *failures*, and go on."""
    try:
        yield
    except RunError as error:
        failures.append(error)
        logger.error("✗ %s", error)


def _log_ok(text: str) -> None:
    logger.info("✓ %s", text)


def _check_lock_and_log(settings: Settings, failures: list[RunError], *, quiet: bool) -> None:
    with _step(failures), _ledger(settings):
        _log_ok(f"STATE_FILE {settings.state_file} can be used")
    if any(error.status is ExitStatus.BUSY for error in failures):
        return  # the other run holds the log too
    path = settings.log_file
    with _step(failures), steps.writing("LOG_FILE", path):
        if path.exists():
            # Open and lock it as a run does, then close it: a check writes nothing there.
            setup_logger(log_file=path, quiet=quiet)
            setup_logger(quiet=quiet)
        else:
            _try_folder(path.parent)
        _log_ok(f"LOG_FILE {path} can be written")
        # A run continues with a log that it cannot rotate. Only files are rotated.
        if path.is_file() and not os.access(path.parent, os.W_OK, effective_ids=True):
            logger.warning(NO_ROTATION, path)


@contextmanager
def _ledger(settings: Settings) -> Iterator[DeliveryLedger | None]:
    """Open the ledger as a run does; if there is none, test its folder and yield None."""
    path = settings.state_file
    with steps.writing("STATE_FILE", path):
        if not (is_there := path.exists()):
            _try_folder(path.parent)
    with wiring.open_ledger(settings) if is_there else nullcontext() as ledger:
        yield ledger


def _try_folder(folder: Path) -> None:
    """Write an unnamed file in *folder*, or in its nearest existing parent. Raises OSError."""
    place = next(path for path in (folder, *folder.parents) if path.exists())
    with tempfile.TemporaryFile(dir=place) as file:
        # With content: even a full disk has room for a name.
        file.write(bytes(4096))


def _check_folders(settings: Settings, failures: list[RunError], *, demo: bool) -> None:
    with _step(failures), steps.writing("RESULTS_DIR", settings.results_dir):
        _try_folder(settings.results_dir)
        _log_ok(f"RESULTS_DIR {settings.results_dir} can be written")
    if not demo:
        steps.warn_of_other_jobs(settings)
    path = settings.metrics_file
    # This folder belongs to another program, so a run does not create it.
    if path and not os.access(path.parent, os.W_OK, effective_ids=True):
        logger.warning(steps.NO_METRICS, path, "its folder is missing or not writable")


def _check_query(look: steps.FirstLook, settings: Settings, failures: list[RunError]) -> None:
    """Run Query 2 and check its first rows; *look* has its columns then."""
    query = None
    with _step(failures):
        query = load_query(JOB_QUERY, settings.query_file)
    with _step(failures), steps.connected(settings) as database:
        _log_ok(
            f"{settings.db_user} can connect to {settings.db_name} at {settings.db_host} "
            f"(server {database.version}, time zone {settings.db_time_zone})"
        )
        if query:
            rows = database.get_pro_users_recent_engagement(
                query, watch=lambda columns, all_: look.watch(columns, islice(all_, FIRST_ROWS))
            )
            with closing(rows):
                _check_rows(rows, look.payloads, settings)


def _check_rows(rows: RowSpool, payloads: Payloads, settings: Settings) -> None:
    """Plan the first *rows* and log which of them would be refused.

    Raises RunError if the number of rows, or of refused rows, would make the run fail.
    """
    count, refused = len(rows), 0
    # If Query 2 has more rows than were read, assume that they reach MIN_ROWS.
    possible = count if count < FIRST_ROWS else max(count, settings.min_rows)
    if text := steps.row_count_problem(possible, settings):
        raise RunError(text, ExitStatus.DATABASE)
    for row in chain.from_iterable(rows.chunks()):
        try:
            payloads.complete(payloads.prepare(row))
        except RowError as error:
            refused += 1
            customer = payloads.mapping.shown(row, "customer_id")
            logger.warning("Query 2: the row of customer %s would be refused: %s", customer, error)
    text = f"Query 2: {count - refused} of the first {count} rows can be sent"
    if refused > settings.max_refused_rows:
        text += f", and MAX_REFUSED_ROWS is {settings.max_refused_rows}"
        raise RunError(text, ExitStatus.NOT_ALL_DELIVERED)
    _log_ok(text)


def _check_project(mapping: RowMapping, settings: Settings, failures: list[RunError]) -> None:
    """Ask Iterable for the project's profile fields; this changes nothing there."""
    project = wiring.user_fields(settings)
    with _step(failures):
        if project.field_types is not None:
            text = "accepts the API key. Only the first row that is sent shows whether it may write"
            _log_ok(f"{settings.iterable_api_base_url} {text}")
        elif project.repeat is Repeat.THROTTLE or project.outcome.fault is None:
            # A run can continue without the fields.
            logger.warning("%s", steps.no_fields(project, settings))
        else:
            raise RunError(steps.no_fields(project, settings), ExitStatus.STOPPED)
    for text in steps.wrong_types(project.field_types or {}, mapping):
        with _step(failures):
            raise RunError(text, ExitStatus.STOPPED)
