"""Check everything that a run needs, and say a line on each thing; nothing is changed.

A check that fails does not keep the others from being made.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path

from configuration.preflight_database import database_findings
from configuration.preflight_files import file_findings, lost_entries_findings
from configuration.preflight_finding import Finding, Mark
from configuration.preflight_iterable import iterable_findings
from configuration.settings import SettingsError, load_environment_variables
from logger_config import get_logger
from records.exit_statuses import ExitStatus, RunError

logger = get_logger(__name__)


class NotReadyError(RunError):
    """A run would fail. ``status`` is what it would exit with for the first thing that is wrong."""

    def __init__(self, text: str, status: ExitStatus) -> None:
        super().__init__(text)
        self.status = status


def check(env_file: Path | None, environ: Mapping[str, str]) -> ExitStatus:
    """Make all checks, log each finding and then the verdict; return OK.

    Raises NotReadyError when a run would fail.
    """
    findings = []
    for finding in all_findings(env_file, environ):
        findings.append(finding)
        log = {Mark.BAD: logger.error, Mark.WARNING: logger.warning}.get(finding.mark, logger.info)
        log("%s", finding)
    bad = [finding for finding in findings if finding.mark is Mark.BAD]
    if bad:
        count = f"{len(bad)} checks failed, the first: " if len(bad) > 1 else ""
        text = f"Not ready for a run. {count}{bad[0].what}: {bad[0].text}"
        raise NotReadyError(text, bad[0].status)
    warnings = sum(finding.mark is Mark.WARNING for finding in findings)
    logger.info("Ready for a run%s", f", but see the {warnings} warning(s)" if warnings else "")
    return ExitStatus.OK


def all_findings(env_file: Path | None, environ: Mapping[str, str]) -> Iterator[Finding]:
    """Yield the findings of all checks, in the order in which a run would come upon them."""
    try:
        settings = load_environment_variables(env_file, environ)
    except SettingsError as error:
        for problem in error.problems:
            yield Finding(Mark.BAD, "Settings", problem, error.status)
        rest = "The rest is checked once the settings are complete"
        yield Finding(Mark.NOTE, "Next", ". ".join(filter(None, (error.hint, rest))))
        return
    yield Finding(Mark.GOOD, "Settings", "complete and valid")
    yield from file_findings(settings, env_file)
    mapping = yield from database_findings(settings)
    yield from lost_entries_findings(settings, mapping)
    yield from iterable_findings(settings, mapping)
