"""Parses, checks and answers the bodies of Iterable's write endpoints.

Pure functions, no state. ``project.py`` says which answers are documented, seen or assumed.
"""

import json
import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any, Final, NamedTuple, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.alias_generators import to_camel

Fields = dict[str, Any]  # a JSON object as parsed
Types = dict[str, str]  # dotted field name -> string, date, long, double, boolean or object


class Answer(NamedTuple):
    """One HTTP answer; ``headers`` are those beyond Content-Type, Content-Length and the usual."""

    status: int
    body: bytes
    content_type: str = "application/json"
    headers: Mapping[str, str] = {}
    blanks: int = 0  # number of spaces that follow the body


class RefusedError(Exception):
    """A refused row: *answer* to a single call, *value* in the list *bucket* in bulk."""

    def __init__(self, answer: Answer, bucket: str = "", value: str = "") -> None:
        super().__init__(bucket, value)
        self.answer, self.bucket, self.value = answer, bucket, value


def reply(status: int, document: object) -> Answer:
    """Return a compact JSON answer."""
    return Answer(status, json.dumps(document, separators=(",", ":")).encode())


def envelope(status: int, code: str, msg: str, params: object = None) -> Answer:
    """Return an answer in the shape of all answers except the bulk successes."""
    return reply(status, {"msg": msg, "code": code, "params": params})


# --- Declared fields --------------------------------------------------------------------------


class _Body(BaseModel):
    model_config = ConfigDict(strict=True, alias_generator=to_camel)  # userId, dataFields, ...


class Row(_Body):
    """One user of a request, or the fields that an event shares with it."""

    email: str | None = None
    user_id: str | None = None
    data_fields: Fields | None = None
    create_new_fields: bool | None = None

    @property
    def lowered_email(self) -> str | None:
        """The email as Iterable keeps it."""
        return self.email and self.email.lower()

    @property
    def key(self) -> str:
        """The user's key: the email in lower case, else 'userId:' and the userId."""
        return self.lowered_email or f"userId:{self.user_id}"

    @property
    def identifier(self) -> tuple[str, str]:
        """The kind of failure list that names the row, and the value there."""
        return ("UserIds", self.user_id or "") if self.email is None else ("Emails", self.email)


class EventRow(Row):
    """One event of a request."""

    event_name: str
    id: str | None = None
    created_at: int | None = None


class UserRows(_Body):
    """A request to users/bulkUpdate."""

    users: list[Row]
    create_new_fields: bool | None = None


class EventRows(_Body):
    """A request to events/trackBulk."""

    events: list[EventRow]


BodyT = TypeVar("BodyT", bound=_Body)


def parse(endpoint: str, body: bytes, kind: type[BodyT]) -> BodyT:
    """Return the body; raise RefusedError unless it is JSON with the declared types."""
    try:
        return kind.model_validate_json(body)
    except ValidationError as invalid:
        wrong = [error for error in invalid.errors() if error["type"] != "json_invalid"]
    params = {".".join(["obj", *map(str, error["loc"])]): error["msg"] for error in wrong}
    msg = f"[/api/{endpoint}] Invalid JSON body"
    raise RefusedError(envelope(400, "BadJsonBody", msg, params or None))


# --- Identifiers ------------------------------------------------------------------------------

# After Apache Commons' EmailValidator, without its quoted local parts and address literals.
_ATOM: Final = r"""[^\s\x00-\x1f\x7f-\x9f\ud800-\udfff()<>@,;:\\".\[\]]+"""
_LABEL: Final = r"[^\W_](?:(?:[^\W_]|-){0,61}[^\W_])?"
_EMAIL: Final = re.compile(
    rf"(?=.{{1,254}}\Z)(?=[^@]{{1,64}}@){_ATOM}(?:\.{_ATOM})*"
    rf"@(?:{_LABEL}\.)+(?:xn--[a-z0-9-]+|[^\W\d_]{{2,63}})",
    re.IGNORECASE,
)
_USER_ID: Final = re.compile(r"[ -~]{0,51}[!-~]")  # printable ASCII, no space at the end


@lru_cache(maxsize=10_000)  # an update and its event have the same user
def check_email(email: str) -> None:
    """Raise unless *email* has the form of an address with a top-level domain."""
    if not _EMAIL.fullmatch(email):
        answer = envelope(400, "InvalidEmailAddressError", f"Invalid email: {email.lower()}")
        raise RefusedError(answer, "invalidEmails", email)


def check_user_id(user_id: str) -> None:
    """Raise unless *user_id* is 1 to 52 printable ASCII characters."""
    if not _USER_ID.fullmatch(user_id):
        answer = envelope(400, "InvalidUserIdError", f"Invalid userId: {user_id}")
        raise RefusedError(answer, "invalidUserIds", user_id)


# --- Types of dataFields ----------------------------------------------------------------------

_TIME: Final = r"(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]"
_DATE: Final = re.compile(
    r"[0-9]{4}-(?:0[1-9]|1[0-2])-(?:0[1-9]|[12][0-9]|3[01])"
    rf"(?: {_TIME}(?: [+-][0-9]{{2}}:[0-9]{{2}})?"
    rf"|T{_TIME}\.[0-9]{{3}}(?:Z|[+-][0-9]{{2}}:?[0-9]{{2}}))?"
)
_KINDS: Final[Mapping[type, str]] = {bool: "boolean", int: "long", float: "double", dict: "object"}
_ALSO_FITS: Final = {("double", "long"), ("string", "date")}  # stored type, incoming type


def _kind(value: object) -> str | None:
    """Return the type of a value; None for null, which fits any type and sets none."""
    if isinstance(value, str):
        return "date" if value[4:5] == "-" and _DATE.fullmatch(value) else "string"
    return _KINDS.get(type(value))


def _leaves(fields: Fields, prefix: str = "") -> Iterator[tuple[str, object]]:
    """Yield dotted names and values: objects, their members, and each item of an array."""
    for name, value in fields.items():
        if isinstance(value, list):
            for item in value:
                yield prefix + name, item
        else:
            yield prefix + name, value
            if isinstance(value, dict):
                yield from _leaves(value, f"{prefix}{name}.")


def judge_fields(types: Types, category: str, fields: Fields) -> tuple[Types, Fields]:
    """Return the types that *fields* would add to *types*, and the fields that do not fit.

    These are described as Iterable does: field name -> incomingTypes, expectedType, category (user
    or event), offendingValue, _type.
    """
    new: Types = {}
    wrong: Fields = {}
    for name, value in _leaves(fields):
        kind = _kind(value)
        if kind is None:
            continue
        known = types.get(name) or new.setdefault(name, kind)
        if kind != known and (known, kind) not in _ALSO_FITS:
            wrong[name] = {
                "incomingTypes": ["string", "keyword"] if kind == "string" else [kind],
                "expectedType": known,
                "category": category,
                "offendingValue": value,
                "_type": "UnexpectedType",
            }
    return new, wrong


def known_only(types: Types, fields: Fields, prefix: str = "") -> tuple[Fields, list[str]]:
    """Return *fields* without those missing in *types*, in objects too, and their names."""
    kept: Fields = {}
    dropped: list[str] = []
    for name, value in fields.items():
        full_name = prefix + name
        if full_name not in types:
            dropped.append(full_name)
        elif isinstance(value, dict):
            kept[name], inside = known_only(types, value, f"{full_name}.")
            dropped += inside
        else:
            kept[name] = value
    return kept, dropped
