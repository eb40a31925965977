"""What Iterable leaves open or a project may choose, as switches of the stand-in."""

from dataclasses import dataclass
from typing import Literal

ProjectType = Literal["email", "hybrid", "userID"]
TooLargeStatus = Literal[413, 400]


@dataclass(slots=True)
class Variants:
    """Each default is the likelier case, or the one that most runs want."""

    project_type: ProjectType = "email"  # to be chosen before the first user comes
    echo_lower_case: bool = True  # emails in failure lists; else as sent
    mismatch_rejects_batch: bool = True  # bulkUpdate; else the row is listed as invalidData
    disallowed_counted: bool = True  # in failCount; else in no count
    create_new_fields: bool = True  # where a request does not say
    keep_fields: bool = True  # False holds identifiers only, for runs of millions
    # Requests that are too large
    too_large_as_json: bool = True  # else HTML
    too_large_status: TooLargeStatus = 413
    most_rows_in_bulk: int | None = None  # None: as many as four million bytes hold
    # Rows that are refused
    check_event_ids: bool = True  # False takes any id
    longest_value: int | None = 32_768  # characters of a string in dataFields; None: any number
    # Writes are answered at once and seen later
    lag_s: float = 0.0  # of what is written from now on
    track_needs_user: bool = False  # events/track refuses unknown users, as trackBulk always does
