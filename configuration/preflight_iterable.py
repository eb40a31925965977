"""What ``--check`` finds at Iterable: the address, the API key, the profile fields."""

from collections.abc import Iterator, Mapping
from urllib.parse import urlsplit

from configuration.preflight_finding import Finding, Mark
from configuration.settings import Settings
from configuration.wiring import user_fields
from iterable_api.answers import Answer, Repeat
from iterable_api.endpoints import TRACK_EVENT
from iterable_api.field_types import FieldType
from iterable_api.mapping import JOB_MAPPING, PROFILE_FIELDS, Identity, RowMapping
from iterable_api.user_fields import UNKNOWN_TYPE
from monitoring.console import data_centre, key_advice
from records.exit_statuses import ExitStatus
from records.outcomes import Fault

IDENTITY = "ITERABLE_IDENTITY"
# The types of a project, besides the same one, that take a value of the job's.
_ALSO_FIT = {
    (FieldType.LONG, "double"),
    (FieldType.DATE, "string"),
    (FieldType.JSON, "nested"),
}


def iterable_findings(settings: Settings, mapping: RowMapping = JOB_MAPPING) -> Iterator[Finding]:
    """Ask Iterable for the project's profile fields, which changes nothing; yield what is found."""
    url = settings.iterable_api_base_url
    fields = user_fields(settings)
    if fields.types is None:
        yield no_fields_finding(fields.answer, url)
    else:
        by = f" by way of the proxy {urlsplit(settings.proxy).hostname}" if settings.proxy else ""
        text = f"{url} accepts the API key{by}; whether it may write shows with the first row"
        yield Finding(Mark.GOOD, "Iterable", text)
        yield from identity_findings(settings)
        yield from field_findings(fields.types, mapping, settings.create_new_fields)
        if event_fields := [each.name for each in mapping.fields if each.call == TRACK_EVENT]:
            names = ", ".join(event_fields)
            text = f"the types of {names} cannot be looked up; try --limit 1 first"
            yield Finding(Mark.NOTE, "Event fields", text)


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


def identity_findings(settings: Settings) -> Iterator[Finding]:
    """Yield what can be told of whether the project takes what tells users apart.

    Nothing that only reads tells a project's kind. But the European data centre has no project that
    is keyed by email.
    """
    if settings.iterable_identity is Identity.EMAIL:
        return
    if data_centre(settings.iterable_api_base_url) == "EU":
        text = "users are told apart by user id, which every project in Europe takes"
        yield Finding(Mark.GOOD, IDENTITY, text)
    else:
        text = (
            "users are told apart by user id: right for a hybrid project and for one keyed by user "
            "id. One keyed by email refuses them; the first row shows it, so try --limit 1"
        )
        yield Finding(Mark.NOTE, IDENTITY, text)


def field_findings(
    project_types: Mapping[str, str],
    mapping: RowMapping = JOB_MAPPING,
    create: bool | None = None,
) -> Iterator[Finding]:
    """Yield each profile field that is of another type in the project than the job sends it.

    If there is none, yield one line on all fields. *create* is whether the job asks for new ones.
    """
    sent = mapping.profile_types()
    known = {name: kind for name, kind in sent.items() if name in project_types}
    wrong = [name for name, kind in known.items() if not _fits(kind, project_types[name])]
    for name in wrong:
        yield _mismatch(name, sent[name], project_types[name])
    if not wrong:
        texts = [f"{', '.join(known)} of the right type"] if known else []
        if new := [name for name in sent if name not in known]:
            are, them = ("is", "it") if len(new) == 1 else ("are", "them")
            texts.append(
                f"{', '.join(new)} {are} new to the project: {_fate(create).format(them=them)}"
            )
        yield Finding(Mark.GOOD, "Profile fields", "; ".join(texts))


def _fits(kind: FieldType, project_type: str) -> bool:
    exact = kind.iterable_name == project_type
    return exact or project_type == UNKNOWN_TYPE or (kind, project_type) in _ALSO_FIT


def _mismatch(name: str, kind: FieldType, project_type: str) -> Finding:
    if kind is FieldType.JSON:
        # Of an array the project tells the type of what is in it.
        text = f"the project has {name} as {project_type}: right for arrays of such values alone"
        return Finding(Mark.WARNING, "Profile fields", text)
    where = "iterable_api/payloads.py"
    if name not in PROFILE_FIELDS:
        where = "Query 2, or its type behind a colon"
    text = (
        f"the project has {name} as {project_type} and the job sends a {kind.iterable_name}: "
        "every row would be refused. Iterable never changes a field's type; use another "
        f"project, or another name in {where}"
    )
    return Finding(Mark.BAD, "Profile fields", text, ExitStatus.STOPPED)


def _fate(create: bool | None) -> str:
    """Return what becomes of fields that are new to the project."""
    if create is None:
        return "whether Iterable adds {them} is the project's setting"
    if create:
        return "Iterable adds {them}, because ITERABLE_CREATE_FIELDS is always"
    return "Iterable leaves {them} out, because ITERABLE_CREATE_FIELDS is never"
