"""Copy the pro users with recent engagement out of MySQL and deliver each of them to Iterable.

The job in six steps, its command line and its exit status. The modules that load a large library
are imported inside the functions that need them, so that --help and --version answer at once.
"""

import argparse
import gc
import os
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from enum import IntEnum
from pathlib import Path
from typing import TYPE_CHECKING

from delivery import Stop, StopReason, deliver, parcels_of
from logger_config import get_file_logger, get_logger, setup_logger
from outcomes import RowOutcome, RowStatus
from payloads import Payloads
from results import ResultsWriter, Run

if TYPE_CHECKING:
    from iterable_client import IterableClient
    from row_spool import RowSpool
    from settings import Settings

__version__ = "1.0.0"

logger, file_logger = get_logger(__name__), get_file_logger()

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
    ExitStatus.STOPPED: "stopped early: Iterable refused the API key, or every row",
    ExitStatus.BUG: "a bug: see the traceback in the log",
    ExitStatus.SIGINT: "interrupted (Ctrl-C); rows in flight were finished",
    ExitStatus.SIGTERM: "terminated; rows in flight were finished",
}


def main(argv: list[str] | None = None) -> int:
    """Do what the command line says and return the exit status."""
    args = parse_args(argv)
    # Results and logs hold customers' data: readable by their owner alone.
    os.umask(0o077)
    setup_logger()
    try:
        return run_demo(args) if args.demo else run_job(args)
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
    parser.add_argument(
        "--bulk",
        action="store_true",
        help="send up to 1000 rows in one request; 5000 users a second instead of 500",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    return parser.parse_args(argv)


def run_job(args: argparse.Namespace) -> ExitStatus:
    """Run the job with the operator's settings."""
    from settings import DEFAULT_ENV_FILE

    return start(args.env_file or DEFAULT_ENV_FILE, os.environ, args)


def run_demo(args: argparse.Namespace) -> ExitStatus:
    """Run the job against the sandbox, which is gone afterwards."""
    from sandbox.database import NoServerError
    from sandbox.demo import demo_environment

    logger.info("Demo: starting a private database and a local Iterable...")
    try:
        with demo_environment() as environ:
            status = start(None, environ, args)
    except NoServerError as error:
        logger.error("%s", error)
        return ExitStatus.USAGE
    if status == ExitStatus.OK:
        logger.info(
            "The demo's results are in the file above. For your own data: "
            "cp .env.example .env, fill it in, then python3 main.py"
        )
    return status


def start(
    env_file: Path | None, environ: Mapping[str, str], args: argparse.Namespace
) -> ExitStatus:
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
    return run_integration(settings, bulk=args.bulk)


def run_integration(settings: "Settings", *, bulk: bool = False) -> ExitStatus:
    """Read the rows, deliver each, save the results; return the exit status.

    Whatever happens on the way, the results file is written and says so.
    """
    from db_connection import DatabaseError

    run, stop = Run(version=__version__, bulk=bulk), Stop()
    try:
        results = ResultsWriter(settings.results_dir, run.started_at)
    except OSError as error:
        logger.error("RESULTS_DIR %s cannot be written: %s", settings.results_dir, error.strerror)
        return ExitStatus.USAGE
    logger.debug("run %s, version %s, Python %s", run.id, __version__, sys.version.split()[0])
    with results, signals_stop(stop):
        try:
            with closing(read_rows(settings, run)) as rows:
                deliver_rows(rows, settings, stop, results, run)
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
        return save(results, run, status, stop)


def read_rows(settings: "Settings", run: Run) -> "RowSpool":
    """Copy all rows of Query 2 to disk. The connection is closed before anything is sent."""
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
        rows = database.get_pro_users_recent_engagement(query, settings.results_dir)
    run.rows_read = len(rows)
    logger.info("Found %d pro user(s) with recent engagement", len(rows))
    return rows


def deliver_rows(
    rows: "RowSpool", settings: "Settings", stop: Stop, results: ResultsWriter, run: Run
) -> None:
    """Send every row and record its outcome as it arrives."""
    logger.info("[STEP 4] Preparing the Iterable client...")
    client = iterable_client(settings, stop)
    logger.info("[STEP 5] Sending users and events to Iterable...")
    stop.finish_rows_first = True
    # What is loaded by now stays; looking through it for garbage would stop all threads at once.
    gc.freeze()
    began_s = time.monotonic()
    try:
        for number, outcome in enumerate(outcomes_of(rows, client, settings, stop, run), 1):
            results.add(outcome)
            log_outcome(outcome, number, len(rows))
    finally:
        run.sending_seconds = time.monotonic() - began_s
        run.requests, run.retries = client.requests, client.retries
        run.rate_limited_seconds = client.rate_limited_seconds
        client.close()


def iterable_client(settings: "Settings", stop: Stop) -> "IterableClient":
    """Return the client that the settings ask for."""
    from iterable_client import IterableClient

    return IterableClient(
        settings.iterable_api_key.get_secret_value(),
        settings.iterable_api_base_url,
        payloads=Payloads(settings.db_name, settings.time_zone),
        timeout_s=settings.iterable_timeout_seconds,
        max_attempts=settings.iterable_max_attempts,
        rate_share=settings.iterable_rate_share,
        connections=settings.iterable_workers,
        wait=stop.wait,
    )


def outcomes_of(
    rows: "RowSpool", client: "IterableClient", settings: "Settings", stop: Stop, run: Run
) -> Iterator[RowOutcome]:
    """Deliver *rows* one by one or in batches; yield their outcomes as they come."""
    if not run.bulk:
        return deliver(
            parcels_of(rows, 1),
            lambda parcel: [client.process_user_record(row) for row in parcel],
            stop,
            workers=settings.iterable_workers,
        )
    from bulk_delivery import WORKERS, BulkDelivery

    return deliver(
        parcels_of(rows, settings.bulk_batch_size),
        BulkDelivery(client, stop).process,
        stop,
        workers=WORKERS,
        # If every row is refused, the first batch tells, before others are under way.
        head_start_s=None,
    )


def log_outcome(outcome: RowOutcome, number: int, total: int) -> None:
    """Log what became of one record: on the console if there are few, else in the file."""
    few = total <= ROWS_ON_CONSOLE
    log = logger if few else file_logger
    if few:
        log.info("Processing record %d/%d", number, total)
    update, track = outcome.users_update, outcome.events_track
    match outcome.status:
        case RowStatus.SUCCESSFUL:
            log.info("✓ Successfully processed user: %s", outcome.email)
        case RowStatus.PARTIAL_FAILURE:
            text = "⚠ Partial failure for user: %s (customer %s): events/track %s"
            log.warning(text, outcome.email, outcome.customer_id, track)
        case RowStatus.TOTAL_FAILURE:
            text = "✗ Total failure for user: %s (customer %s): users/update %s"
            log.error(text, outcome.email, outcome.customer_id, update)
        case RowStatus.NOT_ATTEMPTED:
            log.debug("Not attempted: customer %s", outcome.customer_id)


def exit_status(results: ResultsWriter, stop: Stop) -> ExitStatus:
    """Return the status that tells the truth about a run without a bug."""
    match stop.reason:
        case StopReason.KEY_REFUSED | StopReason.EVERY_ROW_REFUSED:
            return ExitStatus.STOPPED
        case StopReason.SIGINT:
            return ExitStatus.SIGINT
        case StopReason.SIGTERM:
            return ExitStatus.SIGTERM
        case None:
            all_delivered = results.counts.total() == results.counts[RowStatus.SUCCESSFUL]
            return ExitStatus.OK if all_delivered else ExitStatus.NOT_ALL_DELIVERED


def save(results: ResultsWriter, run: Run, status: ExitStatus, stop: Stop) -> ExitStatus:
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
    log_summary(results, run)
    log_advice(status, stop)
    return status


def log_summary(results: ResultsWriter, run: Run) -> None:
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
    logger.info(
        "%d requests in %.1f s, %d of them repeated, %.1f s held back by rate limits",
        run.requests,
        run.sending_seconds,
        run.retries,
        run.rate_limited_seconds,
    )


def log_advice(status: ExitStatus, stop: Stop) -> None:
    """Log what to do if something is wrong."""
    if stop.reason is StopReason.KEY_REFUSED:
        logger.error(
            "Iterable refused the API key. Check ITERABLE_API_KEY, and that "
            "ITERABLE_API_BASE_URL is the data centre of that key's project"
        )
    elif stop.reason is StopReason.EVERY_ROW_REFUSED:
        logger.error("%s", stop.detail)
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
        if not stop.finish_rows_first:
            raise KeyboardInterrupt

    before = {number: signal.signal(number, on_signal) for number in reasons}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


if __name__ == "__main__":
    sys.exit(main())
