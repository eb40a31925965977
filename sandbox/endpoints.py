"""Iterable's endpoints, as far as the stand-in has them, and which of them a path belongs to.

Their names are Iterable's paths without ``/api/``, with what varies in braces.
"""

from collections.abc import Mapping
from typing import Final
from urllib.parse import unquote

USERS_UPDATE: Final = "users/update"
EVENTS_TRACK: Final = "events/track"
USERS_BULK_UPDATE: Final = "users/bulkUpdate"
EVENTS_TRACK_BULK: Final = "events/trackBulk"
USERS_GET_FIELDS: Final = "users/getFields"
USERS_GET_BY_EMAIL: Final = "users/getByEmail"  # ?email=
USERS_GET_BY_USER_ID: Final = "users/byUserId"  # ?userId=
USERS_BY_USER_ID: Final = "users/byUserId/{userId}"
USERS_BY_EMAIL: Final = "users/{email}"
EVENTS_BY_USER_ID: Final = "events/byUserId/{userId}"  # both take ?limit=
EVENTS_BY_EMAIL: Final = "events/{email}"

# Those that write.
ENDPOINTS: Final = (USERS_UPDATE, EVENTS_TRACK, USERS_BULK_UPDATE, EVENTS_TRACK_BULK)
# Those that look up one user, or one user's events. The first that fits a path is meant.
LOOKUPS: Final = (
    USERS_GET_BY_EMAIL,
    USERS_GET_BY_USER_ID,
    USERS_BY_USER_ID,
    USERS_BY_EMAIL,
    EVENTS_BY_USER_ID,
    EVENTS_BY_EMAIL,
)
METHODS: Final = {
    **dict.fromkeys(ENDPOINTS, "POST"),
    **dict.fromkeys((USERS_GET_FIELDS, *LOOKUPS), "GET"),
}

_NONE: Final[Mapping[str, str]] = {}
_PATHS: Final = {f"/api/{name}": (name, _NONE) for name in METHODS if "{" not in name}
_PREFIXES: Final = {f"/api/{name.partition('{')[0]}": name for name in LOOKUPS if "{" in name}


def endpoint_of(method: str, path: str) -> tuple[str, Mapping[str, str]] | None:
    """Return the endpoint of a path and the parameters that are part of the path, if there is one.

    Only a GET is taken for one that has its parameter in the path.
    """
    if (found := _PATHS.get(path)) is not None:
        return found
    for prefix, name in _PREFIXES.items():
        if method == "GET" and path.startswith(prefix):
            parameter = name.partition("{")[2].rstrip("}")
            return name, {parameter: unquote(path.removeprefix(prefix))}
    return None
