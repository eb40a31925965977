"""Paths of Iterable's endpoints below ``/api/``, and how often each may be called.

Source: the endpoints' descriptions, https://api.iterable.com/api/docs
"""

UPDATE_USER = "users/update"
TRACK_EVENT = "events/track"
UPDATE_USERS = "users/bulkUpdate"
TRACK_EVENTS = "events/trackBulk"
# 3 requests a second; --check and a run make a few.
GET_USER_FIELDS = "users/getFields"

# The call about one row that does the same as the one about many.
SINGLE = {UPDATE_USERS: UPDATE_USER, TRACK_EVENTS: TRACK_EVENT}

# Requests a second that Iterable allows a project, whoever sends them.
LIMITS_PER_S = {UPDATE_USER: 500, TRACK_EVENT: 2000, UPDATE_USERS: 5, TRACK_EVENTS: 10}
