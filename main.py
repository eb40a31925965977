"""Copy the pro users with recent engagement out of MySQL and deliver each of them to Iterable.

``run_integration()`` is the job in six steps; ``main()`` runs what the command line asks for.
Large libraries are imported where they are needed, so that --help and --version answer at once.
"""

import argparse
import gc
import hashlib
import logging
import os
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if sys.version_info < (3, 11):
    version = sys.version.split()[0]
    sys.stderr.write(f"main.py: the job needs Python 3.11 or newer, but this is {version}\n")
    sys.exit(2)
# With -I or -P Python does not look for modules in the program's folder.
sys.path.insert(0, str(Path(__file__).resolve().parent))

from configuration.command_line import AFTER_DEMO, VERSION, parse_args, run_options
from logger_config import get_logger, one_line, open_console, setup_logger
from records.exit_statuses import ExitStatus, RunError
from records.run import RunRecord

if TYPE_CHECKING:
    from configuration.settings import Settings

logger = get_logger(__name__)

INTERRUPTED = "Interrupted before anything was sent"
NO_PACKAGE = (
    "%s. Run it with the Python of its .venv, or install the packages: "
    f"{sys.executable} -m pip install -r requirements.txt"
)


def run_integration(
    env_file: Path | None, environ: Mapping[str, str], run: RunRecord
) -> ExitStatus:
    """Do the job in six steps and return how it ended; *run* has the details.

    Once the settings are valid and no other run is in progress, it writes a results file, whatever
    happens then.
    """
    from configuration import steps, wiring
    from db_connection import JOB_QUERY, load_query
    from delivery.project_fields import ProjectFields
    from delivery.recorder import Recorder
    from delivery.stopping import Stop, stopping
    from monitoring.console import RECORDS, ROWS_FOUND, RowLog, log_end, stop_advice

    # Rows leave no reference cycles behind, and each collection would pause all threads.
    gc.freeze()
    gc.set_threshold(50_000)
    logger.info("Starting Iterable Integration - Phase 3")
    logger.info("[STEP 1] Loading environment variables...")
    settings = load_environment_variables(env_file, environ)
    run.job, run.max_refused_rows = settings.job, settings.max_refused_rows
    run.noun = "row" if settings.query_file else "user"
    stop = Stop()
    with ExitStack() as run_time:
        run_time.enter_context(stopping(stop, settings.max_runtime_seconds))
        steps.refuse_root(settings, run)
        ledger = run_time.enter_context(wiring.open_ledger(settings))
        steps.open_log(settings, env_file, run)
        run_time.enter_context(steps.monitored(settings, run))
        run_time.enter_context(noting_end(run))
        results = run_time.enter_context(steps.open_results(settings, run))
        fields = ProjectFields(
            run, ledger, lambda: wiring.user_fields(settings).field_types, stop.wait
        )
        recorder = Recorder(run, stop, ledger, fields, results)
        with noting_end(run, "Nothing was sent: "):
            logger.info("[STEP 2] Connecting to database...")
            query = load_query(JOB_QUERY, settings.query_file)
            run.query_sha256 = hashlib.sha256(query.encode()).hexdigest()
            look = steps.FirstLook(settings, shown=run.options.dry_run or run.options.demo)
            with stop.interrupting(), steps.connected(settings) as database:
                logger.info("[STEP 3] Executing Phase 2 Query 2...")
                rows = database.get_pro_users_recent_engagement(
                    query, settings.results_dir, watch=look.watch
                )
            # The connection is closed: a slow Iterable must not keep a query open on the server.
            with closing(rows):
                logger.info("Found %d %s", len(rows), ROWS_FOUND[run.noun])
                steps.begin_run(rows, look, settings, recorder)
                logger.info("[STEP 4] Initializing Iterable API client...")
                client = wiring.iterable_client(settings, look.payloads, stop)
                logger.info("[STEP 5] Processing %s...", RECORDS[run.noun])
                with RowLog(run) as log, recorder.sending(client, log):
                    pipeline = wiring.pipeline(settings, look.planner(recorder), client, recorder)
                    pipeline.deliver(rows.chunks())
        stop.over = True
        logger.info("[STEP 6] Saving results...")
        advice = stop_advice(stop.reason, stop.detail)
        run.finish(stop.reason, advice)
        if recorder.finish():
            steps.remove_old_results(settings, results.path)
        log_end(run, results.path, advice)
    return run.exit_status


def load_environment_variables(env_file: Path | None, environ: Mapping[str, str]) -> "Settings":
    """Return the validated settings. Raises SettingsError with every problem found."""
    from configuration import settings

    return settings.load_environment_variables(env_file, environ)


@contextmanager
def noting_end(run: RunRecord, before: str = "") -> Iterator[None]:
    """Catch, record and log the error that ends *run*, with *before* in front of its text."""
    try:
        yield
    except (RunError, ImportError) as error:
        text = NO_PACKAGE % error if isinstance(error, ImportError) else str(error)
        run.fail(getattr(error, "status", ExitStatus.USAGE), text)
        logger.error("%s%s", before, text)
    except KeyboardInterrupt:
        run.fail(ExitStatus.SIGINT, INTERRUPTED)
        logger.error(INTERRUPTED)
    except Exception as error:
        run.fail(ExitStatus.BUG, f"bug: {type(error).__name__}")
        logger.exception("A bug in this program:")


def main(argv: list[str] | None = None) -> int:
    """Run the command that the command line asks for and return the exit status."""
    args = parse_args(argv)
    # Results and logs hold customers' data: readable only by their owner.
    os.umask(0o077)
    setup_logger(quiet=args.quiet)
    run = RunRecord(run_options(args), VERSION)
    command = write_report_page if args.report else run_demo if args.demo else run_job
    status = ExitStatus.OK
    with noting_end(run):
        status = command(args, run)
    # If an error ended the command, it returned no status; the error is in the record.
    status = status or run.exit_status
    if args.quiet and (status or run.news):
        text = f"exit status {status}: {run.cause or status.meaning}" if status else run.news
        sys.stderr.write(f"main.py: {one_line(text)}\n")
    return status


def run_job(
    args: argparse.Namespace, run: RunRecord, environ: Mapping[str, str] = os.environ
) -> ExitStatus:
    """Run the job, or with --check only check what it needs."""
    from configuration import settings

    env_file = None if args.demo else args.env_file or settings.DEFAULT_ENV_FILE
    if args.check:
        from configuration.check import check

        return check(env_file, environ, run)
    return run_integration(env_file, environ, run)


def run_demo(args: argparse.Namespace, run: RunRecord) -> ExitStatus:
    """Do the same against the sandbox, which is removed afterwards."""
    from sandbox.database import NoServerError
    from sandbox.demo import demo_environment

    logger.info("Demo: starting a private database and a local Iterable...")
    try:
        with demo_environment() as environ:
            status = run_job(args, run, environ)
    except NoServerError as error:
        raise RunError(str(error)) from None
    if status == ExitStatus.OK and not args.check:
        logger.info(AFTER_DEMO)
    return status


def write_report_page(args: argparse.Namespace, _run: RunRecord) -> ExitStatus:
    """Write report.html beside the results files."""
    from configuration.settings import DEFAULT_ENV_FILE, load_results_dir
    from monitoring.report import write_report

    path = write_report(load_results_dir(args.env_file or DEFAULT_ENV_FILE, os.environ))
    logger.info("Report written to %s", path)
    return ExitStatus.OK


if __name__ == "__main__":
    open_console()
    exit_code = main()
    if threading.active_count() > 1:
        # After a stop, requests that nobody waits for any more must not delay the end.
        logging.shutdown()
        os._exit(exit_code)
    sys.exit(exit_code)
