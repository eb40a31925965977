"""Writes the results file: one line of JSON for each row, streamed to disk, and a summary."""

import functools
import json
import os
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from json.encoder import encode_basestring_ascii as quoted
from pathlib import Path
from typing import Any, Self

from records.atomic_file import UNSUPPORTED, publish
from records.outcomes import CallOutcome, CallStatus, RowOutcome, RowStatus
from records.results_files import claim_name, remove_stale
from records.run import SCHEMA_VERSION, RunRecord

# The space that one row may take in the file, with a message at its longest, or with every field of
# both calls filtered out; most take less than half of it.
BYTES_PER_ROW = 1000
# As much as that is for what stands before and behind the rows.
SPARE_ROWS = 100


class ResultsWriter:
    """Writes the results file of one run in *folder*, which is made if it is not there.

    The rows go to a hidden ``.partial`` file beside it, which takes the final name only when it
    is complete and on disk: the results file is whole or it is not there. Both are readable by
    their owner alone. *started_at* is in UTC.

    Raises:
        OSError: *folder* cannot be written.

    """

    def __init__(self, folder: Path, started_at: datetime) -> None:
        self._failure: OSError | None = None
        folder.mkdir(parents=True, exist_ok=True)
        remove_stale(folder)
        self.path, self._partial, descriptor = claim_name(folder, started_at)
        self._file = open(descriptor, "w", encoding="ascii")  # noqa: SIM115, PTH123 - closed by __exit__
        self._file.write(f'{{\n"schema_version": {SCHEMA_VERSION},\n"results": [')
        self._separator = "\n"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Remove the partial file of a run that did not finish its results."""
        with suppress(OSError):
            self._file.close()
        self._partial.unlink(missing_ok=True)

    def reserve(self, rows: int) -> None:
        """Take the disk space that *rows* outcomes need, so that it cannot run out later.

        Raises OSError when it is not there.
        """
        if not hasattr(os, "posix_fallocate"):
            return
        try:
            os.posix_fallocate(self._file.fileno(), 0, (rows + SPARE_ROWS) * BYTES_PER_ROW)
        except OSError as error:
            # Not every file system can. There a disk that fills up stops the run when it does.
            if error.errno not in UNSUPPORTED:
                raise

    def add(self, outcomes: Sequence[RowOutcome]) -> None:
        """Append some rows' outcomes.

        Raises OSError when the disk is full; from then on nothing is written any more.
        """
        if not outcomes or self._failure:
            return
        texts: dict[tuple[int, int, bool], str] = {}
        lines = ",\n".join([_row_json(outcome, texts) for outcome in outcomes])
        try:
            self._file.write(f"{self._separator}{lines}")
        except OSError as error:
            self._failure = error
            raise
        self._separator = ",\n"

    def finish(self, run: RunRecord) -> None:
        """Append the summary of *run* and the run itself, and give the file its name.

        Raises:
            OSError: the disk is or was full, or the folder is no longer writable.

        """
        if self._failure:
            raise self._failure
        self._file.write(f'\n],\n"summary": {json.dumps(run.summary(), indent=2)},\n')
        self._file.write(f'"run": {json.dumps(run.to_json(), indent=2)}\n}}\n')
        # What was reserved and not needed.
        self._file.truncate()
        publish(self._file, self._partial, self.path)


# Made once: json.dumps() with an option makes an encoder at every call.
_encode = json.JSONEncoder(default=str).encode


def _json(value: object) -> str:
    """Return *value* as JSON. The encoder is slow with what needs no options."""
    if type(value) is str:
        return quoted(value)
    return str(value) if type(value) is int else _encode(value)


def _row_json(outcome: RowOutcome, texts: dict[tuple[int, int, bool], str]) -> str:
    """Return the line of one row. Put together by hand, as there may be a million of them.

    *texts* keeps what two calls are as JSON, by ``id()``: rows that end together share them.
    """
    customer, email, update, track, prepared, attempted, user_id = outcome
    who = f'{{"customer_id": {_json(customer)}, "email": {_json(email)}, '
    if user_id is not None:
        who += f'"user_id": {_json(user_id)}, '
    event_id = quoted(name) if (name := outcome.event_id) else "null"
    key = (id(update), id(track), attempted)
    if key in texts:
        return f"{who}{texts[key]}{event_id}}}}}"
    status, user, event = outcome.status, "", ""
    if prepared and update.status is CallStatus.PLANNED:
        user = f', "payload": {prepared.profile.body.decode()}'
    if prepared and track.status is CallStatus.PLANNED:
        event = f', "payload": {prepared.event.body.decode()}'
    calls = (
        f'"outcome": "{status}", "users_update": {{{_call_json(update)}{user}}}, '
        f'"events_track": {{{_call_json(track)}, "event_id": '
    )
    if status is not RowStatus.PLANNED:
        texts[key] = calls
    return f"{who}{calls}{event_id}{event}}}}}"


# Most rows share a few outcomes.
@functools.lru_cache(maxsize=1000)
def _call_json(outcome: CallOutcome) -> str:
    """Return the members of a call's JSON object, without its braces."""
    members: dict[str, Any] = {
        "status": outcome.status,
        "http_status": outcome.http_status,
        "code": outcome.code,
        "attempts": outcome.attempts,
        "message": outcome.message,
    }
    if outcome.fault is not None:
        members["fault"] = outcome.fault
    if outcome.fields:
        members["fields"] = dict(outcome.fields)
    return json.dumps(members)[1:-1]
