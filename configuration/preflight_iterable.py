"""What ``--check`` finds at Iterable: the address, the API key, the clock, the profile fields."""

from collections.abc import Iterator, Mapping
from urllib.parse import urlsplit

from configuration.preflight_finding import Finding, Mark, clock_finding
from configuration.settings import Settings
from configuration.wiring import user_fields
from db_connection import JOB_COLUMNS
from iterable_api.answers import Answer, Repeat
from iterable_api.payloads import Payloads
from iterable_api.user_fields import UNKNOWN_TYPE
from monitoring.console import key_advice
from records.exit_statuses import ExitStatus
from records.outcomes import Fault

# Iterable's names of the types that the payloads have.
_TYPE_NAMES = {str: "string", bool: "boolean"}


def iterable_findings(settings: Settings) -> Iterator[Finding]:
    """Ask Iterable for the project's profile fields, which changes nothing; yield what is found."""
    url = settings.iterable_api_base_url
    fields = user_fields(settings)
    if fields.types is None:
        yield no_fields_finding(fields.answer, url)
    else:
        by = f" by way of the proxy {urlsplit(settings.proxy).hostname}" if settings.proxy else ""
        text = f"{url} accepts the API key{by}; whether it may write shows with the first row"
        yield Finding(Mark.GOOD, "Iterable", text)
    if fields.types is not None or fields.answer.outcome.fault is Fault.KEY:
        yield _clock_finding(fields.clock_ahead_s)
    if fields.types is not None:
        yield from field_findings(fields.types)


def no_fields_finding(answer: Answer, url: str) -> Finding:
    """Return why *answer*, from *url*, has no profile fields, and what to look at."""
    outcome, mark = answer.outcome, Mark.BAD
    if outcome.http_status is None:
        text = f"{url}: {answer.cause.words}; {answer.cause.advice}"
    elif outcome.fault is Fault.KEY:
        text = f"refused the API key: {outcome.message}. {key_advice(url)}"
    elif answer.repeat is Repeat.THROTTLE:
        mark = Mark.WARNING
        text = f"{url} is too busy to answer: the API key was not checked, try again"
    elif outcome.http_status >= 500:
        status = f"HTTP {outcome.http_status}"
        text = f"{url} is down, or a proxy before it ({status}); check again later"
    elif outcome.fault in {Fault.NETWORK, Fault.PROJECT}:
        text = f"{url}: {outcome.message}"
    else:
        # A run can do without them.
        mark = Mark.WARNING
        text = f"{url} {answer.cause.words}, but not with the project's fields; check again later"
    return Finding(mark, "Iterable", text, ExitStatus.STOPPED)


def _clock_finding(ahead_s: float | None) -> Finding:
    what = "This machine's clock"
    if ahead_s is None:
        return Finding(Mark.NOTE, what, "not compared, Iterable's answer has no date")
    advice = "the times in the log and in the names of results are wrong by that. Set it by NTP"
    return clock_finding(what, ahead_s, "Iterable's", advice)


def field_findings(project_types: Mapping[str, str]) -> Iterator[Finding]:
    """Yield each field that is of another type in the project than the job sends it.

    If there is none, yield one line on all fields.
    """
    sent = sent_types()
    known = [name for name in sent if name in project_types]
    wrong = [name for name in known if project_types[name] not in {sent[name], UNKNOWN_TYPE}]
    for name in wrong:
        text = (
            f"the project has {name} as {project_types[name]} and the job sends a {sent[name]}: "
            "every row would be refused. Iterable never changes a field's type; use another "
            "project, or another name in iterable_api/payloads.py"
        )
        yield Finding(Mark.BAD, "Profile fields", text, ExitStatus.STOPPED)
    if not wrong:
        texts = [f"{', '.join(known)} of the right type"] if known else []
        if new := [name for name in sent if name not in known]:
            are, them = ("is", "it") if len(new) == 1 else ("are", "them")
            texts.append(
                f"{', '.join(new)} {are} new to the project: "
                f"whether Iterable adds {them} is the project's setting"
            )
        yield Finding(Mark.GOOD, "Profile fields", "; ".join(texts))


def sent_types() -> dict[str, str]:
    """Return the type of each profile field that the job sends, in Iterable's words."""
    fields = Payloads("").user(dict.fromkeys(JOB_COLUMNS, "x"))["dataFields"]
    return {name: _TYPE_NAMES[type(value)] for name, value in fields.items()}
