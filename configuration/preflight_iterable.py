"""What ``--check`` finds at Iterable: the address, the API key, the clock, the profile fields."""

from collections.abc import Iterator, Mapping

from configuration.preflight_finding import Finding, Mark, clock_finding
from configuration.settings import Settings
from db_connection import JOB_COLUMNS
from iterable_api.payloads import Payloads
from iterable_api.user_fields import UserFields, fetch_user_fields
from monitoring.console import key_advice
from records.exit_statuses import ExitStatus

# Iterable's names of the types that the payloads have.
_TYPE_NAMES = {str: "string", bool: "boolean"}
_SLOW = "gave no answer within ITERABLE_TIMEOUT_SECONDS; check again later"
# What a request without an answer failed of, by the error's name.
_NO_ANSWER = {
    "ReadTimeout": _SLOW,
    "ReadTimeoutError": _SLOW,
    "ConnectionError": "ended the connection without an answer; check what stands between",
    "NameResolutionError": "has a name that DNS does not know; check ITERABLE_API_BASE_URL and DNS",
    "SSLError": (
        "failed TLS: its certificate is another host's or not trusted here; check "
        "ITERABLE_API_BASE_URL, this machine's clock and CA certificates, and what stands between"
    ),
}
_UNREACHABLE = (
    "cannot be reached; check ITERABLE_API_BASE_URL and the firewall. The job uses no proxy"
)


def iterable_findings(settings: Settings) -> Iterator[Finding]:
    """Ask Iterable for the project's profile fields, which changes nothing; yield what is found."""
    url = settings.iterable_api_base_url
    key = settings.iterable_api_key.get_secret_value()
    answer = fetch_user_fields(key, url, settings.iterable_timeout_seconds)
    if answer.types is None:
        yield no_answer_finding(answer, url)
    else:
        text = f"{url} accepts the API key; whether it may write shows with the first row"
        yield Finding(Mark.GOOD, "Iterable", text)
    if answer.types is not None or answer.http_status == 401:
        yield _clock_finding(answer.clock_ahead_s)
    if answer.types is not None:
        yield from field_findings(answer.types)


def no_answer_finding(answer: UserFields, url: str) -> Finding:
    """Return why *answer*, from *url*, has no profile fields, and what to look at."""
    status = answer.http_status
    mark = Mark.BAD
    match status:
        case None:
            text = f"{url} {_NO_ANSWER.get(answer.problem, _UNREACHABLE)} ({answer.problem})"
        case 401:
            text = f"refused the API key. {key_advice(url)}"
        case 429:
            mark = Mark.WARNING
            text = f"{url} is too busy to answer (HTTP 429): the API key was not checked, try again"
        case _ if status >= 500:
            text = f"{url} is down, or a proxy before it (HTTP {status}); check again later"
        case _:
            text = (
                f"what answers at {url} is not Iterable's API (HTTP {status}); "
                "check ITERABLE_API_BASE_URL, and what stands between"
            )
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
    wrong = [name for name in known if project_types[name] != sent[name]]
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
            texts.append(f"{', '.join(new)} will be created by the first row")
        yield Finding(Mark.GOOD, "Profile fields", "; ".join(texts))


def sent_types() -> dict[str, str]:
    """Return the type of each profile field that the job sends, in Iterable's words."""
    fields = Payloads("").user(dict.fromkeys(JOB_COLUMNS, "x"))["dataFields"]
    return {name: _TYPE_NAMES[type(value)] for name, value in fields.items()}
