"""Two jobs of one checkout: what they must not share, and what they are told if they do."""

import subprocess
import sys

import pytest

from configuration.settings import HERE
from configuration.steps import warn_of_other_jobs
from configuration.wiring import open_ledger
from logger_config import setup_logger
from records.delivery_ledger import LedgerError
from records.exit_statuses import ExitStatus
from tests.configuration.conftest import settings_of
from tests.results import save


@pytest.fixture
def other_query(tmp_path):
    path = tmp_path / "orders.sql"
    path.write_text("SELECT 1")
    return str(path)


def test_a_ledger_is_that_of_one_query(environ, other_query):
    first = settings_of(environ)
    # One that no job has used becomes that of the first to begin a run.
    for _ in range(2):
        with open_ledger(first) as ledger:
            ledger.begin_run({})
    other = settings_of(environ, QUERY_FILE=other_query, ITERABLE_API_KEY="f" * 32)
    with pytest.raises(LedgerError, match="give each job its own STATE_FILE") as caught:
        open_ledger(other)
    text = str(caught.value)
    assert "belongs to the job of phase2_queries.sql, but this is the job of" in text
    assert other_query in text
    assert caught.value.status is ExitStatus.USAGE
    open_ledger(
        settings_of(environ, QUERY_FILE=other_query, STATE_FILE=other_query + "ite")
    ).close()


def test_a_log_is_free_again_after_its_process_and_stays_ones_own_when_it_rotates(tmp_path):
    path = tmp_path / "job.log"
    logger = setup_logger("INFO", path)
    (handler,) = [each for each in logger.handlers if hasattr(each, "doRollover")]
    handler.doRollover()
    logger.info("after it")
    probe = f"from logger_config import *; setup_logger('INFO', Path({str(path)!r}))"
    held = subprocess.run([sys.executable, "-c", probe], cwd=HERE, capture_output=True, check=False)
    assert b"BlockingIOError" in held.stderr
    setup_logger()
    subprocess.run([sys.executable, "-c", probe], cwd=HERE, check=True)


def test_results_of_two_jobs_in_one_folder_are_told(environ, tmp_path, warned):
    settings = settings_of(environ, RESULTS_DIR=str(tmp_path))
    save(tmp_path, job=settings.job)
    save(tmp_path)
    warn_of_other_jobs(settings)
    assert warned == []
    save(tmp_path, job="orders.sqlite3")
    warn_of_other_jobs(settings)
    (text,) = warned
    assert "also holds results of another job (STATE_FILE orders.sqlite3)" in text
    assert "the report mixes the two" in text


def test_a_job_is_named_from_the_folder_of_main(environ):
    settings = settings_of({**environ, "STATE_FILE": "orders/state.sqlite3"})
    assert (settings.job, settings.query_name) == ("orders/state.sqlite3", "phase2_queries.sql")
