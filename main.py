"""Copy the pro users with recent engagement out of MySQL and deliver each of them to Iterable.

The job in six steps, its command line and its exit status. The modules that load a large library
are imported inside the functions that need them, so that --help and --version answer at once.
"""

import argparse
import itertools
import os
import signal
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from enum import IntEnum
from pathlib import Path
from typing import TYPE_CHECKING

from delivery import Stop, StopReason, deliver
from logger_config import get_logger, setup_logger
from outcomes import Row, RowOutcome, RowStatus
from payloads import Payloads
from results import ResultsWriter, Run

if TYPE_CHECKING:
    from settings import Settings

__version__ = "1.0.0"

logger = get_logger(__name__)

# Above this many rows the line of each record goes to the log file only.
ROWS_ON_CONSOLE = 50
RULE = "=" * 60


class ExitStatus(IntEnum):
    """What a caller such as cron learns from the run. The numbers stay as they are."""

    OK = 0
    NOT_ALL_DELIVERED = 1
    USAGE = 2
    DATABASE = 3
    STOPPED = 4
    BUG = 70
    SIGINT = 130
    SIGTERM = 143


MEANINGS = {
    ExitStatus.OK: "every row delivered, or nothing to deliver",
    ExitStatus.NOT_ALL_DELIVERED: "the run finished; some rows were not delivered",
    ExitStatus.USAGE: "usage or settings; nothing was sent",
    ExitStatus.DATABASE: "database: no connection, query failed, columns missing; nothing was sent",
    ExitStatus.STOPPED: "stopped early: Iterable refused the API key",
    ExitStatus.BUG: "a bug: see the traceback in the log",
    ExitStatus.SIGINT: "interrupted (Ctrl-C); the row in flight was finished",
    ExitStatus.SIGTERM: "terminated; the row in flight was finished",
}


def main(argv: list[str] | None = None) -> int:
    """Do what the command line says and return the exit status."""
    args = parse_args(argv)
    # Results and logs hold customers' data: readable by their owner alone.
    os.umask(0o077)
    setup_logger()
    try:
        return run_demo() if args.demo else run_job(args.env_file)
    except KeyboardInterrupt:
        logger.error("Interrupted before anything was sent")
        return ExitStatus.SIGINT
    except Exception:
        logger.exception("A bug in this program:")
        return ExitStatus.BUG


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line; exits with status 2 when it is wrong."""
    statuses = "\n".join(f"  {status:<4} {meaning}" for status, meaning in MEANINGS.items())
    parser = argparse.ArgumentParser(
        prog="main.py",
        description=(__doc__ or "").splitlines()[0],
        epilog=f"exit status:\n{statuses}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--env-file",
        type=Path,
        metavar="PATH",
        help="read the settings from PATH instead of .env beside main.py",
    )
    parser.add_argument(
        "--demo",
        action="store_true",
        help="run the job against a private database and a local Iterable; needs no settings",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    return parser.parse_args(argv)


def run_job(env_file: Path | None) -> ExitStatus:
    """Run the job with the operator's settings."""
    from settings import DEFAULT_ENV_FILE

    return start(env_file or DEFAULT_ENV_FILE, os.environ)


def run_demo() -> ExitStatus:
    """Run the job against the sandbox, which is gone afterwards."""
    from sandbox.database import NoServerError
    from sandbox.demo import demo_environment

    logger.info("Demo: starting a private database and a local Iterable...")
    try:
        with demo_environment() as environ:
            status = start(None, environ)
    except NoServerError as error:
        logger.error("%s", error)
        return ExitStatus.USAGE
    if status == ExitStatus.OK:
        logger.info(
            "The demo's results are in the file above. For your own data: "
            "cp .env.example .env, fill it in, then python3 main.py"
        )
    return status


def start(env_file: Path | None, environ: Mapping[str, str]) -> ExitStatus:
    """Load the settings, open the log file and run the integration."""
    from settings import SettingsError, load_environment_variables

    logger.info("Starting Iterable Integration - Phase 3")
    logger.info("[STEP 1] Loading environment variables...")
    try:
        settings = load_environment_variables(env_file, environ)
        setup_logger(settings.log_level, settings.log_file)
    except SettingsError as error:
        logger.error("%s", error)
        return ExitStatus.USAGE
    except OSError as error:
        logger.error("LOG_FILE %s cannot be written: %s", error.filename, error.strerror)
        return ExitStatus.USAGE
    return run_integration(settings)


def run_integration(settings: "Settings") -> ExitStatus:
    """Read the rows, deliver each, save the results; return the exit status.

    Whatever happens on the way, the results file is written and says so.
    """
    from db_connection import DatabaseError

    run, stop = Run(version=__version__), Stop()
    try:
        results = ResultsWriter(settings.results_dir, run.started_at)
    except OSError as error:
        logger.error("RESULTS_DIR %s cannot be written: %s", settings.results_dir, error.strerror)
        return ExitStatus.USAGE
    logger.debug("run %s, version %s, Python %s", run.id, __version__, sys.version.split()[0])
    with results, signals_stop(stop):
        try:
            deliver_rows(read_rows(settings, run), settings, stop, results, run)
            status = exit_status(results, stop)
        except DatabaseError as error:
            run.error = str(error)
            logger.error("Nothing was sent. %s", error)
            status = ExitStatus.DATABASE
        except KeyboardInterrupt:
            logger.error("Interrupted before anything was sent")
            status = exit_status(results, stop)
        except Exception as error:
            run.error = f"bug: {type(error).__name__}"
            logger.exception("A bug in this program:")
            status = ExitStatus.BUG
        return save(results, run, status)


def read_rows(settings: "Settings", run: Run) -> list[Row]:
    """Return all rows of Query 2. The connection is closed before anything is sent."""
    from db_connection import JOB_QUERY, DatabaseConnection, load_query

    logger.info("[STEP 2] Connecting to the database...")
    query = load_query(JOB_QUERY)
    run.set_query(query)
    with DatabaseConnection(
        host=settings.db_host,
        port=settings.db_port,
        user=settings.db_user,
        password=settings.db_password.get_secret_value(),
        database=settings.db_name,
        ssl_ca=settings.db_ssl_ca,
        time_zone=settings.db_time_zone,
        query_timeout_s=settings.db_query_timeout_seconds,
    ) as database:
        logger.info("[STEP 3] Reading pro users with recent engagement...")
        rows: list[Row] = [*database.get_pro_users_recent_engagement(query)]
    run.rows_read = len(rows)
    logger.info("Found %d pro user(s) with recent engagement", len(rows))
    return rows


def deliver_rows(
    rows: list[Row], settings: "Settings", stop: Stop, results: ResultsWriter, run: Run
) -> None:
    """Send every row and record its outcome as it arrives."""
    from iterable_client import IterableClient

    logger.info("[STEP 4] Preparing the Iterable client...")
    client = IterableClient(
        settings.iterable_api_key.get_secret_value(),
        settings.iterable_api_base_url,
        payloads=Payloads(settings.db_name, settings.utc_offset),
        timeout_s=settings.iterable_timeout_seconds,
        max_attempts=settings.iterable_max_attempts,
        wait=stop.wait,
    )
    logger.info("[STEP 5] Sending users and events to Iterable...")
    file_only = {"file_only": len(rows) > ROWS_ON_CONSOLE}
    numbers = itertools.count(1)

    def process(row: Row) -> RowOutcome:
        logger.info("Processing record %d/%d", next(numbers), len(rows), extra=file_only)
        return client.process_user_record(row)

    stop.finish_row_first = True
    try:
        for outcome in deliver(rows, process, stop):
            results.add(outcome)
            log_outcome(outcome, file_only)
    finally:
        run.rate_limited_seconds = client.rate_limited_seconds
        client.close()


def log_outcome(outcome: RowOutcome, extra: dict[str, bool]) -> None:
    """Log the line of one record."""
    update, track = outcome.users_update, outcome.events_track
    match outcome.status:
        case RowStatus.SUCCESSFUL:
            logger.info("✓ Successfully processed user: %s", outcome.email, extra=extra)
        case RowStatus.PARTIAL_FAILURE:
            text = "⚠ Partial failure for user: %s (customer %s): events/track %s"
            logger.warning(text, outcome.email, outcome.customer_id, track, extra=extra)
        case RowStatus.TOTAL_FAILURE:
            text = "✗ Total failure for user: %s (customer %s): users/update %s"
            logger.error(text, outcome.email, outcome.customer_id, update, extra=extra)
        case RowStatus.NOT_ATTEMPTED:
            logger.debug("Not attempted: customer %s", outcome.customer_id, extra=extra)


def exit_status(results: ResultsWriter, stop: Stop) -> ExitStatus:
    """Return the status that tells the truth about a run without a bug."""
    match stop.reason:
        case StopReason.KEY_REFUSED:
            return ExitStatus.STOPPED
        case StopReason.SIGINT:
            return ExitStatus.SIGINT
        case StopReason.SIGTERM:
            return ExitStatus.SIGTERM
        case None:
            all_delivered = results.counts.total() == results.counts[RowStatus.SUCCESSFUL]
            return ExitStatus.OK if all_delivered else ExitStatus.NOT_ALL_DELIVERED


def save(results: ResultsWriter, run: Run, status: ExitStatus) -> ExitStatus:
    """Write the results file, log the summary and return the final status."""
    logger.info("[STEP 6] Saving results...")
    if not results.adds_up_to(run.rows_read) and status != ExitStatus.BUG:
        run.error = f"bug: {results.counts.total()} outcomes for {run.rows_read} rows"
        logger.error("A bug in this program: %s", run.error)
        status = ExitStatus.BUG
    complete = status in {ExitStatus.OK, ExitStatus.NOT_ALL_DELIVERED}
    try:
        results.finish(run, status, complete=complete)
    except OSError as error:
        logger.error("The results could not be written to %s: %s", results.path, error.strerror)
        status = ExitStatus.BUG
    else:
        logger.info("Results saved to %s", results.path)
    log_summary(results, run, status)
    return status


def log_summary(results: ResultsWriter, run: Run, status: ExitStatus) -> None:
    """Log how many rows ended how, and what to do if something is wrong."""
    count = results.counts
    logger.info(RULE)
    logger.info("INTEGRATION SUMMARY")
    logger.info(RULE)
    logger.info("Total users processed: %d", run.rows_read - count[RowStatus.NOT_ATTEMPTED])
    logger.info("✓ Successful (both API calls): %d", count[RowStatus.SUCCESSFUL])
    logger.info("⚠ Partial failures (one call failed): %d", count[RowStatus.PARTIAL_FAILURE])
    logger.info("✗ Total failures (both calls failed): %d", count[RowStatus.TOTAL_FAILURE])
    if not_attempted := count[RowStatus.NOT_ATTEMPTED]:
        logger.warning("Not attempted: %d of %d users", not_attempted, run.rows_read)
    if status == ExitStatus.STOPPED:
        logger.error(
            "Iterable refused the API key. Check ITERABLE_API_KEY, and that "
            "ITERABLE_API_BASE_URL is the data centre of that key's project"
        )
    elif status == ExitStatus.NOT_ALL_DELIVERED:
        logger.warning("Some rows were not delivered; the results file says why for each")


@contextmanager
def signals_stop(stop: Stop) -> Iterator[None]:
    """Turn the first SIGINT or SIGTERM into a request to stop; a second one ends at once.

    While nothing is being sent the signal interrupts, because a query may take minutes.
    """
    reasons = {signal.SIGINT: StopReason.SIGINT, signal.SIGTERM: StopReason.SIGTERM}

    def on_signal(number: int, _frame: object) -> None:
        for each in reasons:
            signal.signal(each, signal.SIG_DFL)
        stop.request(reasons[signal.Signals(number)])
        if not stop.finish_row_first:
            raise KeyboardInterrupt

    before = {number: signal.signal(number, on_signal) for number in reasons}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


if __name__ == "__main__":
    sys.exit(main())
