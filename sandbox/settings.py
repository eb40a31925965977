"""Settings of the local Iterable, which can be changed while it runs."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

ProjectType = Literal["email", "hybrid", "userID"]


@dataclass
class Settings:
    """Each default is the likelier case, or the one that most runs need."""

    # The project
    project_type: ProjectType = "email"  # hybrid: by email or userId; userID: by userId only
    create_new_fields: bool = True  # where a request does not say
    track_needs_user: bool = False  # events/track refuses unknown users, as trackBulk always does
    lag_s: float = 0.0  # events do not find a user for this time after the first update
    keep_fields: bool = True  # False holds identifiers only, for runs of millions
    # Bulk requests
    echo_lower_case: bool = True  # emails in failure lists; else as sent
    most_rows_in_bulk: int | None = None  # None: as many as fit into four million bytes
    # Access and rate limits
    api_key: str | None = None  # None: any key that is not empty
    limits: bool = True  # False: any rate is accepted
    limit_scale: float = 1.0
    # Requests a second of other programs, which count against the limit, by endpoint.
    other_clients: Mapping[str, float] = field(default_factory=dict)
    # The server
    latency_ms: float | Mapping[str, float] = 0.0  # of each answer, or by endpoint
    log_requests: int = 10_000  # the latest ones are kept
