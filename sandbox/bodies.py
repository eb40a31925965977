"""The bodies of Iterable's four write endpoints: reading, judging and answering them.

Pure functions, no state. A request that can change nothing raises :class:`RefusedError`.

Documented by Iterable: the form of emails, userIds and event ids; about 32,000 characters for the
value of a field. Assumed, since nobody says: the answers to a malformed userId or event id and to
a value that is too long, and that 32,768 characters are still taken. What is known of the other
answers stands in ``project.py``.
"""

import json
import re
import sys
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any, Final, NamedTuple, NoReturn

Fields = dict[str, Any]  # a JSON object as parsed
Types = dict[str, str]  # dotted field name -> string, date, long, double, boolean or object

_BLANKS: Final = b" " * 65_536


class Answer(NamedTuple):
    """One HTTP answer; ``headers`` are those beyond Content-Type, Content-Length and the usual."""

    status: int
    body: bytes
    content_type: str = "application/json"
    headers: Mapping[str, str] = {}
    blanks: int = 0  # that follow the body, and are never in memory as a whole

    def blank_parts(self) -> Iterator[bytes]:
        """Yield the blanks in parts."""
        for sent in range(0, self.blanks, len(_BLANKS)):
            yield _BLANKS[: self.blanks - sent]


class RefusedError(Exception):
    """A row that changes nothing: *answer* when sent alone, *value* under *bucket* in bulk."""

    def __init__(self, answer: Answer, bucket: str = "", value: str = "") -> None:
        super().__init__(bucket, value)
        self.answer, self.bucket, self.value = answer, bucket, value


def reply(status: int, document: object) -> Answer:
    """Return a compact JSON answer."""
    return Answer(status, json.dumps(document, separators=(",", ":")).encode())


def envelope(status: int, code: str, msg: str, params: object = None) -> Answer:
    """Return an answer of the shape that all share but the bulk successes."""
    return reply(status, {"msg": msg, "code": code, "params": params})


# --- Declared fields --------------------------------------------------------------------------

_COMMON: Final = {"email": str, "userId": str, "dataFields": dict, "createNewFields": bool}
USER: Final = _COMMON | {"mergeNestedObjects": bool, "preferUserId": bool}
EVENT: Final = _COMMON | {
    "eventName": str,
    "id": str,
    "createdAt": int,
    "campaignId": int,
    "templateId": int,
}
_JSON_NAMES: Final = {str: "String", dict: "Object", bool: "Boolean", int: "Number", list: "Array"}


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


# Left alone, Python's reader takes NaN and Infinity, which are not JSON.
_DECODER: Final = json.JSONDecoder(parse_constant=_refuse_constant)


def bad_json(endpoint: str, params: Mapping[str, str] | None = None) -> RefusedError:
    """Return the refusal of a body; *params* maps paths such as ``obj.email`` to what is wrong."""
    msg = f"[/api/{endpoint}] Invalid JSON body"
    return RefusedError(envelope(400, "BadJsonBody", msg, params))


def _wrong_fields(
    row: object, declared: Mapping[str, type], required: str | None, path: str
) -> dict[str, str]:
    if not isinstance(row, dict):
        return {path: "Object value expected"}
    wrong = {
        f"{path}.{name}": f"{_JSON_NAMES[declared[name]]} value expected"
        for name, value in row.items()
        # type(), not isinstance(): true is no number.
        if name in declared and type(value) is not declared[name] and value is not None
    }
    if required is not None and row.get(required) is None:
        wrong[f"{path}.{required}"] = "Missing value"
    return wrong


def parse(
    endpoint: str, body: bytes, declared: Mapping[str, type], required: str | None = None
) -> Fields:
    """Return the body as an object whose declared fields are of the declared types, or raise."""
    try:
        document = _DECODER.decode(body.decode())
    except (ValueError, RecursionError):
        raise bad_json(endpoint) from None
    if wrong := _wrong_fields(document, declared, required, "obj"):
        raise bad_json(endpoint, wrong)
    return dict(document)


def parse_bulk(
    endpoint: str, body: bytes, name: str, declared: Mapping[str, type], required: str | None = None
) -> tuple[Fields, list[Fields]]:
    """Return the outer object and its rows, or raise if but one row has a field of a wrong type."""
    document = parse(endpoint, body, {name: list, "createNewFields": bool}, name)
    wrong: dict[str, str] = {}
    for index, row in enumerate(document[name]):
        wrong |= _wrong_fields(row, declared, required, f"obj.{name}[{index}]")
    if wrong:
        raise bad_json(endpoint, wrong)
    return document, document[name]


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
_EVENT_ID: Final = re.compile(r"[A-Za-z0-9-]{0,512}")  # empty is as good as none


@lru_cache(maxsize=10_000)  # an update and its event name the same user
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


def check_event_id(event_id: str) -> None:
    """Raise unless *event_id* is letters, digits and hyphens, 512 at most; no list is for these."""
    if not _EVENT_ID.fullmatch(event_id):
        msg = "An id is at most 512 bytes: letters, digits and hyphens."
        raise RefusedError(envelope(400, "BadParams", msg))


# --- Types of dataFields ----------------------------------------------------------------------

_TIME: Final = r"(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]"
_DATE: Final = re.compile(
    r"[0-9]{4}-(?:0[1-9]|1[0-2])-(?:0[1-9]|[12][0-9]|3[01])"
    rf"(?: {_TIME}(?: [+-][0-9]{{2}}:[0-9]{{2}})?"
    rf"|T{_TIME}\.[0-9]{{3}}(?:Z|[+-][0-9]{{2}}:?[0-9]{{2}}))?"
)
_KINDS: Final[Mapping[type, str]] = {bool: "boolean", int: "long", float: "double", dict: "object"}
_ALSO_FITS: Final = {("double", "long"), ("string", "date")}  # stored type, incoming type


def _kind(value: object, longest: int) -> str | None:
    """Return the type of a value, None for null, and nothing for a string that is too long."""
    if isinstance(value, str):
        if len(value) > longest:
            return ""
        return "date" if value[4:5] == "-" and _DATE.fullmatch(value) else "string"
    return _KINDS.get(type(value))


def _leaves(fields: Fields, prefix: str = "") -> Iterator[tuple[str, object]]:
    """Yield dotted names and values: of objects and what is in them, and each item of an array."""
    for name, value in fields.items():
        if isinstance(value, list):
            for item in value:
                yield prefix + name, item
        else:
            yield prefix + name, value
            if isinstance(value, dict):
                yield from _leaves(value, f"{prefix}{name}.")


class TooLongError(Exception):
    """The field whose name is the message holds too long a string."""


def judge_fields(
    types: Types, category: str, fields: Fields, longest_value: int | None
) -> tuple[Types, Fields]:
    """Return the types that *fields* would add to *types*, and those that do not fit.

    The latter as Iterable describes them: field name -> incomingTypes, expectedType, category
    (user or event), offendingValue, _type.

    Raises:
        TooLongError: a string has more characters than *longest_value*.
    """
    new: Types = {}
    wrong: Fields = {}
    longest = sys.maxsize if longest_value is None else longest_value
    for name, value in _leaves(fields):
        kind = _kind(value, longest)
        if not kind:
            if kind is None:  # null fits any type and fixes none
                continue
            raise TooLongError(name)
        known = types.get(name) or new.setdefault(name, kind)
        if kind != known and (known, kind) not in _ALSO_FITS:
            wrong[name] = _mismatch(kind, known, value) | {"category": category}
    return new, wrong


def _mismatch(kind: str, known: str, value: object) -> Fields:
    return {
        "incomingTypes": ["string", "keyword"] if kind == "string" else [kind],
        "expectedType": known,
        "offendingValue": value,
        "_type": "UnexpectedType",
    }


def known_only(types: Types, fields: Fields, prefix: str = "") -> tuple[Fields, list[str]]:
    """Return *fields* without those that *types* lacks, in objects too, and the names of these."""
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
