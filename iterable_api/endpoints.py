"""Paths of Iterable's endpoints below ``/api/``, and their rate limits.

Source: the endpoints' descriptions, https://api.iterable.com/api/docs
"""

UPDATE_USER = "users/update"
TRACK_EVENT = "events/track"
UPDATE_USERS = "users/bulkUpdate"
TRACK_EVENTS = "events/trackBulk"
# 3 requests a second; --check and a run make a few.
GET_USER_FIELDS = "users/getFields"

# The single call that does the same as a bulk call.
SINGLE = {UPDATE_USERS: UPDATE_USER, TRACK_EVENTS: TRACK_EVENT}

# Requests a second that Iterable allows the whole project.
LIMITS_PER_S = {UPDATE_USER: 500, TRACK_EVENT: 2000, UPDATE_USERS: 5, TRACK_EVENTS: 10}
