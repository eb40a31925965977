"""Copy the pro users with recent engagement out of MySQL and deliver each of them to Iterable.

The job in six steps. The modules that load a large library are imported inside the functions that
need them, so that --help and --version answer at once.
"""

import argparse
import gc
import itertools
import logging
import math
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from configuration.command_line import MEANINGS, VERSION, ExitStatus, parse_args
from delivery.planner import Plan
from delivery.recorder import Recorder
from delivery.stopping import Stop, StopReason, deadline_stops, signals_stop
from delivery.worker_pool import deliver
from iterable_api.payloads import Payloads
from logger_config import get_logger, last_problem, setup_logger
from monitoring.console import RowLog, advice, log_summary, summary_lines
from records.delivery_ledger import DeliveryLedger, LedgerBusyError, LedgerError
from records.outcomes import Row, RowOutcome, RowStatus
from records.results_writer import ResultsWriter, Run, remove_old

if TYPE_CHECKING:
    from configuration.settings import Settings
    from db_connection import DatabaseConnection
    from iterable_client import IterableClient
    from records.row_spool import RowSpool

logger = get_logger(__name__)


class NothingSentError(Exception):
    """The run ends before anything was sent; ``status`` says why in a word, the text in full."""

    def __init__(self, status: ExitStatus, text: str) -> None:
        super().__init__(text)
        self.status = status


def main(argv: list[str] | None = None) -> int:
    """Do what the command line says and return the exit status."""
    args = parse_args(argv)
    # Results and logs hold customers' data: readable by their owner alone.
    os.umask(0o077)
    setup_logger(quiet=args.quiet)
    try:
        status = command_of(args)(args)
    except KeyboardInterrupt:
        logger.error("Interrupted before anything was sent")
        status = ExitStatus.SIGINT
    except Exception:
        logger.exception("A bug in this program:")
        status = ExitStatus.BUG
    if args.quiet and status != ExitStatus.OK:
        why = last_problem() or MEANINGS[status]
        sys.stderr.write(f"main.py: exit status {status}: {why}\n")
    return status


def command_of(args: argparse.Namespace) -> Callable[[argparse.Namespace], ExitStatus]:
    """Return what the command line asks for."""
    if args.report:
        return write_report_page
    return run_demo if args.demo else run_job


def write_report_page(args: argparse.Namespace) -> ExitStatus:
    """Write report.html beside the results files."""
    from configuration.settings import DEFAULT_ENV_FILE, SettingsError, load_results_dir
    from monitoring.report import ReportError, write_report

    try:
        path = write_report(load_results_dir(args.env_file or DEFAULT_ENV_FILE))
    except (SettingsError, ReportError) as error:
        logger.error("%s", error)
        return ExitStatus.USAGE
    logger.info("Report written to %s", path)
    return ExitStatus.OK


def run_job(args: argparse.Namespace) -> ExitStatus:
    """Run the job with the operator's settings."""
    from configuration.settings import DEFAULT_ENV_FILE

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
    if status == ExitStatus.OK and not args.check:
        logger.info(
            "The demo's results are in the file above. For your own data: "
            "cp .env.example .env, fill it in, then python3 main.py"
        )
    return status


def start(
    env_file: Path | None, environ: Mapping[str, str], args: argparse.Namespace
) -> ExitStatus:
    """Load the settings, keep other runs out, open the log file and run the integration."""
    if args.check:
        from configuration import preflight

        return preflight.check(env_file, environ, database_connection, iterable_client)
    from configuration.settings import SettingsError, exposed_files, load_environment_variables

    run = Run(
        version=VERSION,
        bulk=args.bulk,
        dry_run=args.dry_run,
        changed_only=args.changed_only,
        limit=args.limit,
        quiet=args.quiet,
    )
    logger.info("Starting Iterable Integration - Phase 3")
    logger.info("[STEP 1] Loading environment variables...")
    try:
        settings = load_environment_variables(env_file, environ)
        # Before the log file: another run's files are not to be touched.
        with open_ledger(settings) as ledger:
            open_log_file(settings, quiet=args.quiet)
            for path in exposed_files(env_file, settings):
                logger.warning("%s holds secrets and others may read it: chmod 600 it", path)
            return run_integration(settings, run, ledger)
    except LedgerBusyError:
        logger.error("Another run is under way: it holds %s", settings.state_file)
        return ExitStatus.BUSY
    except (SettingsError, LedgerError) as error:
        logger.error("%s", error)
        return ExitStatus.USAGE


def open_log_file(settings: "Settings", *, quiet: bool) -> None:
    """Log to the file too, from here on."""
    from configuration.settings import SettingsError

    try:
        setup_logger(settings.log_level, settings.log_file, quiet=quiet)
    except OSError as error:
        text = f"LOG_FILE {settings.log_file} cannot be written: {error.strerror}"
        raise SettingsError([text]) from None


def open_ledger(settings: "Settings") -> DeliveryLedger:
    """Return the ledger, which holds the lock until it is closed."""
    key = settings.iterable_api_key.get_secret_value()
    return DeliveryLedger(settings.state_file, settings.iterable_api_base_url, key)


def run_integration(settings: "Settings", run: Run, ledger: DeliveryLedger) -> ExitStatus:
    """Do the job and tell the monitors; return the exit status."""
    from monitoring.heartbeat import Heartbeat

    url = settings.heartbeat_url.get_secret_value() if settings.heartbeat_url else ""
    heartbeat = Heartbeat("" if run.dry_run else url, run.id)
    heartbeat.start()
    status = integrate(settings, run, ledger)
    if settings.metrics_file and not run.dry_run:
        export_metrics(settings.metrics_file, run, status)
    summary = "\n".join(summary_lines(run))
    heartbeat.finish(status, f"exit status {status}: {MEANINGS[status]}\n{summary}")
    return status


def integrate(settings: "Settings", run: Run, ledger: DeliveryLedger) -> ExitStatus:
    """Read the rows, deliver each and save the results.

    Whatever happens on the way, the results file is written and says so.
    """
    stop = Stop()
    try:
        results = ResultsWriter(settings.results_dir, run.started_at)
    except OSError as error:
        logger.error("RESULTS_DIR %s cannot be written: %s", settings.results_dir, error.strerror)
        return ExitStatus.USAGE
    logger.debug("run %s, version %s, Python %s", run.id, VERSION, sys.version.split()[0])
    with results, signals_stop(stop), deadline_stops(stop, settings.max_runtime_seconds):
        try:
            with closing(read_rows(settings, run, stop)) as rows:
                wanted = len(rows) if run.limit is None else min(run.limit, len(rows))
                make_room(wanted, settings, results, ledger)
                run.rows_read = wanted
                deliver_rows(rows, settings, stop, Recorder(run, stop, ledger, results))
            status = exit_status(results, stop)
        except NothingSentError as error:
            run.error = str(error)
            logger.error("Nothing was sent. %s", error)
            status = error.status if stop.reason is None else exit_status(results, stop)
        except KeyboardInterrupt:
            logger.error("Interrupted before anything was sent")
            status = exit_status(results, stop)
        except Exception as error:
            run.error = f"bug: {type(error).__name__}"
            logger.exception("A bug in this program:")
            status = ExitStatus.BUG
        # From here on a first signal no longer interrupts: the results are being written.
        stop.finish_rows_first = True
        return save(settings, results, run, status, stop)


def export_metrics(path: Path, run: Run, status: ExitStatus) -> None:
    """Write the metrics; a failure is told and changes nothing."""
    from monitoring.metrics import write_metrics

    document = {"run": run.to_json(status), "summary": run.summary}
    try:
        write_metrics(path, document, status)
    except OSError as error:
        logger.warning("METRICS_FILE %s cannot be written: %s", path, error.strerror)


def read_rows(settings: "Settings", run: Run, stop: Stop) -> "RowSpool":
    """Copy all rows of Query 2 to disk. The connection is closed before anything is sent."""
    from db_connection import JOB_QUERY, DatabaseError, load_query

    logger.info("[STEP 2] Connecting to the database...")
    limit_s = settings.db_query_timeout_seconds
    if settings.max_runtime_seconds:
        limit_s = min(limit_s, math.ceil(settings.max_runtime_seconds))
    try:
        query = load_query(JOB_QUERY)
        run.set_query(query)
        with database_connection(settings, limit_s) as database:
            logger.info("[STEP 3] Reading pro users with recent engagement...")
            rows = database.get_pro_users_recent_engagement(query, settings.results_dir)
        rows.flush()
    except DatabaseError as error:
        raise NothingSentError(ExitStatus.DATABASE, str(error)) from None
    except OSError as error:
        text = f"The rows cannot be kept in RESULTS_DIR {settings.results_dir}: {error.strerror}"
        raise NothingSentError(ExitStatus.USAGE, text) from None
    logger.info("Found %d pro user(s) with recent engagement", len(rows))
    check_count(len(rows), settings, stop)
    return rows


def database_connection(settings: "Settings", query_timeout_s: int) -> "DatabaseConnection":
    """Return the connection that the settings ask for, not opened yet."""
    from db_connection import DatabaseConnection

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


def check_count(rows: int, settings: "Settings", stop: Stop) -> None:
    """Stop the run if Query 2 found fewer or more rows than the operator thinks possible."""
    if rows < settings.min_rows:
        stop.request(
            StopReason.ROW_COUNT,
            f"Query 2 found {rows} rows and MIN_ROWS is {settings.min_rows}; nothing was sent",
        )
    elif settings.max_rows is not None and rows > settings.max_rows:
        stop.request(
            StopReason.ROW_COUNT,
            f"Query 2 found {rows} rows and MAX_ROWS is {settings.max_rows}; nothing was sent",
        )


def make_room(
    rows: int, settings: "Settings", results: ResultsWriter, ledger: DeliveryLedger
) -> None:
    """Make sure of the disk space for all outcomes before the first request leaves."""
    try:
        results.reserve(rows)
        ledger.check_room(rows)
    except OSError as error:
        text = f"RESULTS_DIR {settings.results_dir} has no room for {rows} rows: {error.strerror}"
        raise NothingSentError(ExitStatus.USAGE, text) from None
    except LedgerError as error:
        raise NothingSentError(ExitStatus.USAGE, str(error)) from None


def deliver_rows(rows: "RowSpool", settings: "Settings", stop: Stop, recorder: Recorder) -> None:
    """Send every row and record its outcome as it arrives."""
    logger.info("[STEP 4] Preparing the Iterable client...")
    client, run = iterable_client(settings, stop), recorder.run
    logger.info("[STEP 5] Sending users and events to Iterable...")
    stop.finish_rows_first = True
    # What is loaded by now stays; looking through it for garbage would stop all threads at once.
    # Rows leave no cycles behind, so a look now and then is enough.
    gc.freeze()
    gc.set_threshold(50_000)
    began_s = time.monotonic()
    try:
        with RowLog(run) as log:
            first_rows = itertools.islice(rows, run.limit)
            plan = recorder.planner(client.payloads)
            for outcomes in outcomes_of(first_rows, plan, client, settings, stop, run):
                recorder.add(outcomes)
                log.add(outcomes)
    finally:
        run.sending_seconds = time.monotonic() - began_s
        client.close()
        run.endpoints, run.retries = client.tally.to_json(), client.retries
        run.rate_limited_seconds = client.rate_limited_seconds


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


def outcomes_of(  # noqa: PLR0913, PLR0917 - what the two modes need
    rows: Iterator[Row],
    plan: Callable[[Sequence[Row]], Plan],
    client: "IterableClient",
    settings: "Settings",
    stop: Stop,
    run: Run,
) -> Iterator[list[RowOutcome]]:
    """Deliver *rows* one by one or in batches; yield their outcomes as they come."""
    if not run.bulk:
        return deliver(
            rows,
            plan=plan,
            process=lambda parcel: [client.process_task(task) for task in parcel],
            stop=stop,
            workers=settings.iterable_workers,
        )
    from delivery.bulk import WORKERS, BulkDelivery

    return deliver(
        rows,
        plan=plan,
        process=BulkDelivery(client, stop).process,
        stop=stop,
        workers=WORKERS,
        parcel_size=settings.bulk_batch_size,
        # If every row is refused, the first batch tells, before others are under way.
        head_start_s=None,
    )


def exit_status(results: ResultsWriter, stop: Stop) -> ExitStatus:
    """Return the status that tells the truth about a run without a bug."""
    match stop.reason:
        case None:
            good = (RowStatus.SUCCESSFUL, RowStatus.UNCHANGED, RowStatus.PLANNED)
            all_good = results.counts.total() == sum(results.counts[status] for status in good)
            return ExitStatus.OK if all_good else ExitStatus.NOT_ALL_DELIVERED
        case StopReason.ROW_COUNT:
            return ExitStatus.DATABASE
        case StopReason.SIGINT:
            return ExitStatus.SIGINT
        case StopReason.SIGTERM:
            return ExitStatus.SIGTERM
        case _:
            return ExitStatus.STOPPED


def save(
    settings: "Settings", results: ResultsWriter, run: Run, status: ExitStatus, stop: Stop
) -> ExitStatus:
    """Write the results file, log the summary and return the final status."""
    logger.info("[STEP 6] Saving results...")
    if not results.adds_up_to(run.rows_read) and status != ExitStatus.BUG:
        run.error = f"bug: {results.counts.total()} outcomes for {run.rows_read} rows"
        logger.error("A bug in this program: %s", run.error)
        status = ExitStatus.BUG
    why = advice(stop, settings.iterable_api_base_url)
    run.error = run.error or why or None
    run.complete = status in {ExitStatus.OK, ExitStatus.NOT_ALL_DELIVERED}
    try:
        results.finish(run, status)
    except OSError as error:
        text = "The results could not be written to %s: %s. STATE_FILE knows what was delivered"
        logger.error(text, results.path, error.strerror)
        status = ExitStatus.STOPPED
    else:
        logger.info("Results saved to %s", results.path)
        remove_old_results(settings)
    log_summary(run)
    if why:
        logger.error("%s", why)
    elif status == ExitStatus.NOT_ALL_DELIVERED:
        logger.warning("Some rows were not delivered; %s says why for each", results.path)
    return status


def remove_old_results(settings: "Settings") -> None:
    """Keep as many results files as the settings say; a failure is told and changes nothing."""
    try:
        remove_old(settings.results_dir, settings.results_keep)
    except OSError as error:
        logger.warning("RESULTS_KEEP: %s cannot be removed: %s", error.filename, error.strerror)


if __name__ == "__main__":
    exit_code = main()
    if threading.active_count() > 1:
        # Requests that nobody waits for any more, after a stop. They must not hold up the end.
        logging.shutdown()
        sys.stdout.flush()
        os._exit(exit_code)
    sys.exit(exit_code)
