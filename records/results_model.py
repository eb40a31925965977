"""Models of a results file: its published JSON Schema, and what it is read back with.

The schema says what this version writes. Reading takes more than that. A file of an earlier version
lacks some fields, so nearly every field has a default, and a value of no use counts as missing. A
later version may know more words; so what is given to ``_published()`` only the schema says.
"""

from collections.abc import Iterable
from typing import Annotated, Any, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    ModelWrapValidatorHandler,
    Strict,
    ValidationError,
    WithJsonSchema,
    model_validator,
)
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core.core_schema import ModelSchema, WithDefaultSchema

from records.exit_statuses import ExitStatus
from records.outcomes import CallStatus, Fault, RowStatus
from records.results_files import SCHEMA_VERSION

# No run comes near it, and no plot could show it.
_TOO_MUCH = 1e12


def _published(**keywords: JsonValue) -> object:
    return Field(json_schema_extra=keywords)


def _one_of(words: Iterable[str]) -> object:
    return _published(enum=[*words])


def _optional(*names: str) -> ConfigDict:
    """Return the setting of a model that need not have these fields."""

    def leave_out(schema: JsonSchemaValue) -> None:
        schema["required"] = [name for name in schema["required"] if name not in names]

    return ConfigDict(json_schema_extra=leave_out)


def _plausible(number: float) -> float:
    if number >= _TOO_MUCH:
        raise ValueError
    return number


Count = Annotated[int, Strict(), Field(ge=0), AfterValidator(_plausible)]
Seconds = Annotated[float, Strict(), Field(ge=0, allow_inf_nan=False), AfterValidator(_plausible)]
Moment = Annotated[str, _published(pattern=r"^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}Z$")]
CallWord = Annotated[str, _one_of(CallStatus)]
CallName = Annotated[str, _one_of(["users_update", "events_track"])]
QuantileWord = Annotated[str, _one_of(["p50", "p90", "p95", "p99", "max"])]
_TEXT_BY_NAME: JsonSchemaValue = {"type": "object", "additionalProperties": {"type": "string"}}
# A run that meets another one writes no results file.
_EXIT_STATUSES = [int(status) for status in ExitStatus if status is not ExitStatus.BUSY]


class _Part(BaseModel):
    """An object in a results file."""

    model_config = ConfigDict(
        frozen=True, use_attribute_docstrings=True, json_schema_serialization_defaults_required=True
    )

    @model_validator(mode="wrap")
    @classmethod
    def _unusable_is_missing(cls, value: object, read: ModelWrapValidatorHandler[Self]) -> Self:
        try:
            return read(value)
        except ValidationError as error:
            if not isinstance(value, dict):
                raise
            unusable = {details["loc"][0] for details in error.errors()}
        return read({name: each for name, each in value.items() if name not in unusable})


class Call(_Part):
    """One of the two API calls for a row."""

    model_config = _optional("fault", "fields", "payload")

    status: CallWord
    """What to do about the call: see above."""
    http_status: Annotated[int, Strict(), Field(ge=100, le=999)] | None = None
    """HTTP status of the last answer; null when there was none."""
    code: str | None = None
    """Iterable's code in the last answer, or the name of the list of failures that named the
    row."""
    attempts: Count = 0
    """Requests sent for the call; 0 means that Iterable never saw it."""
    message: str = ""
    """Why the call failed, in Iterable's words or the job's; empty after a success. It may quote a
    customer's value."""
    fault: Annotated[str | None, WithJsonSchema({"type": "string", "enum": [*Fault]})] = None
    """Where the reason lies: in this `row` alone; in a `field`, its value or the type that the
    project has for it; in the API `key`; in the `project`, its settings, its limits or what the key
    may do; in `iterable` itself; in the `network`, also when another server answered. Not there
    when nothing is wrong."""
    fields: Annotated[dict[str, str] | None, WithJsonSchema(_TEXT_BY_NAME)] = None
    """The fields that the answer names, each with the type that the project has for it, or with
    `filtered out`: the project does not take it, although the call was delivered. Not there when
    the answer names none."""
    payload: Annotated[dict[str, Any] | None, WithJsonSchema({"type": "object"})] = None
    """In a dry run: the body that would have been sent."""


class UsersUpdate(Call):
    """The call that writes the profile."""


class EventsTrack(Call):
    """The call that records the page view, after the profile's, with one field more."""

    event_id: Annotated[str, Field(pattern="^[0-9a-f-]{36}$")] | None = None
    """The event's id, the same at every run; null when the row could not be made ready or the run
    did not come to it."""


class ResultRow(_Part):
    """What happened to one row."""

    model_config = _optional("user_id")

    customer_id: Annotated[
        Any, WithJsonSchema({"type": ["integer", "string", "number", "null"]})
    ] = None
    """The column of that name, a whole number in the example database."""
    email: Annotated[Any, WithJsonSchema({"type": ["string", "number", "null"]})] = None
    """The address as it was sent; of a row that could not be sent, the column as it is. With
    `ITERABLE_IDENTITY` `user_id`: the column, which is not sent."""
    user_id: Annotated[Any, WithJsonSchema({"type": ["integer", "string", "number"]})] = None
    """With `ITERABLE_IDENTITY` `user_id`: the user id as it was sent; of a row that could not be
    sent, the column as it is. Not there when users are told apart by email."""
    outcome: Annotated[str, _one_of(RowStatus)]
    """How the row ended; it follows from its two calls."""
    users_update: UsersUpdate
    events_track: EventsTrack


class Endpoint(_Part):
    """How one endpoint answered."""

    requests: Count = 0
    """Requests sent to the endpoint."""
    # With the pattern at the key, pydantic would let other names pass.
    answers: Annotated[
        dict[str, Count], _published(propertyNames={"pattern": "^([1-9][0-9]{2}|no answer)$"})
    ] = {}
    """How many answers had which HTTP status, or `no answer`."""
    latency_seconds: dict[QuantileWord, Seconds] = {}
    """Seconds to the answer that this share of the requests did not exceed: `p50`, `p90`, `p95`,
    `p99`, `max`."""


class Summary(_Part):
    """Counts. The seven outcomes add up to the total."""

    # Files of earlier versions do not have them.
    model_config = _optional("forgotten", "filtered_fields")

    total: Count = 0
    """Rows that Query 2 returned, or the first of them that `--limit` asked for."""
    successful: Count = 0
    """Rows of which Iterable holds both calls now."""
    partial_failures: Count = 0
    """Rows whose profile was delivered and whose event was not."""
    total_failures: Count = 0
    """Rows whose profile was not delivered, so that no event was sent."""
    unchanged: Count = 0
    """Rows of which Iterable held both calls already, so that nothing was sent."""
    forgotten: Count = 0
    """Rows of people who asked Iterable to forget them: they can never be delivered."""
    not_attempted: Count = 0
    """Rows that the run did not come to."""
    planned: Count = 0
    """In a dry run: rows that would have been sent."""
    users_update: dict[CallWord, Count] = {}
    """How many profile calls have which status."""
    events_track: dict[CallWord, Count] = {}
    """How many event calls have which status."""
    requests: Count = 0
    """Requests sent, repeated ones too."""
    retries: Count = 0
    """Those among them that repeated another."""
    rate_limited_seconds: Seconds = 0.0
    """How long answers 429 held the run below its rate."""
    endpoints: dict[str, Endpoint] = {}
    """The requests by endpoint."""
    filtered_fields: dict[CallName, list[str]] = {}
    """By call, the fields that the project does not take, because it creates no new ones. Rows with
    them count as delivered, and are sent once more when the project has the fields."""


class Run(_Part):
    """The run as a whole."""

    id: Annotated[str, Field(pattern="^[0-9a-f]{32}$")] = ""
    """Names the run; the log has it too."""
    started_at: Moment = ""
    """When the run began, in UTC."""
    finished_at: Moment = ""
    """When it was over, in UTC."""
    duration_seconds: Seconds = 0.0
    """How long it took, by a clock that cannot be set."""
    complete: Annotated[bool, Strict()] = False
    """Whether every row was attempted."""
    exit_status: Annotated[
        Count | None, WithJsonSchema({"type": "integer", "enum": _EXIT_STATUSES})
    ] = None
    """The status that the program ended with."""
    tolerated: Count = 0
    """Rows that were refused for a value of their own, and within `MAX_REFUSED_ROWS`, so that the
    run was a success."""
    max_refused_rows: Count = 0
    """`MAX_REFUSED_ROWS` of the run."""
    error: str | None = None
    """Why the run failed as a whole, if it did."""
    sending_seconds: Seconds = 0.0
    """From the first request to the last answer."""
    mode: Annotated[str, _one_of(["per-user", "bulk"])] = "per-user"
    """`bulk` with `--bulk`."""
    dry_run: Annotated[bool, Strict()] = False
    """Whether `--dry-run` was given."""
    all: Annotated[bool, Strict()] = False
    """Whether `--all` was given."""
    limit: Annotated[int, Strict(), Field(ge=1), AfterValidator(_plausible)] | None = None
    """The number given with `--limit`."""
    version: str = ""
    """The program's version."""
    query_sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None = None
    """Which query was run: the SHA-256 of its text; null if none was."""
    job: str = ""
    """Names the job among others that run from one folder: its STATE_FILE. Empty for the
    demo."""


class ResultsFile(_Part):
    """What became of every row of Query 2, of both its calls, and of the run as a whole.

    Fields may be added in later versions; none is changed.
    """

    model_config = ConfigDict(title="Results file of one run")

    schema_version: Annotated[int, _published(const=SCHEMA_VERSION)]
    """Version of this format."""
    results: list[ResultRow]
    """One object for each row of Query 2, in the order in which the rows finished."""
    summary: Summary
    run: Run


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema of a results file; it allows more fields than it describes."""
    schema = ResultsFile.model_json_schema(mode="serialization", schema_generator=_Generator)
    return {"$schema": GenerateJsonSchema.schema_dialect, **schema}


class _Generator(GenerateJsonSchema):
    """Leaves out what is about reading alone, and the line breaks of the docstrings."""

    def default_schema(self, schema: WithDefaultSchema) -> JsonSchemaValue:
        return self.generate_inner(schema["schema"])

    def field_title_should_be_set(self, schema: object) -> bool:  # noqa: ARG002
        return False

    def model_schema(self, schema: ModelSchema) -> JsonSchemaValue:
        found = super().model_schema(schema)
        for part in (found, *found["properties"].values()):
            if "description" in part:
                part["description"] = " ".join(part["description"].split())
        return found
