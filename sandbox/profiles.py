"""The users of one Iterable project: who a row is about, who is known, what a profile holds.

Documented by Iterable: emails are stored in lower case. In an email-based project the email alone
identifies a user, an unknown userId is an error or, with ``preferUserId``, gets a placeholder
address, and userIds need not be unique. In a hybrid project either will do, both are unique, and
nobody gets a placeholder. In a userID-based project requests name users by userId; emails are
optional and need not be unique. ``dataFields.userId`` changes the userId in all of them,
``dataFields.email`` the email in hybrid and userID-based ones. null deletes a profile field, an
omitted one is kept, an object is replaced unless ``mergeNestedObjects``.

Assumed, since nobody says: the bodies of 409; that ``dataFields.email`` is ignored in an
email-based project unless malformed or taken; that in a userID-based project an email alone is
that of an unknown user, and an email beside the userId is stored; that a hybrid profile without an
email takes the first one that comes with its userId, while any other userId that is taken is a
conflict; that ``users/bulkUpdate`` lists unknown users under invalid, as its notFound is documented
for subscriptions only; that a profile whose email or userId changes is known under the new one
alone.
"""

from collections.abc import Callable
from typing import NamedTuple

from sandbox.bodies import Fields, RefusedError, check_email, check_user_id, envelope
from sandbox.lagged import LaggedStore
from sandbox.variants import Variants


class User(NamedTuple):
    """One profile. Never changed in place: an update puts a new one in its stead."""

    email: str | None  # in lower case; None only where a userId is enough
    user_id: str | None
    data_fields: Fields
    updates: int  # how many times the profile was written, its creation included


class Profiles:
    """All profiles by key: the email, in a userID-based project the userId.

    In a hybrid project the key of a profile without an email is its userId after ``userId:``, which
    no email can begin with.
    """

    def __init__(self, variants: Variants, clock: Callable[[], float]) -> None:
        self._variants, self._clock = variants, clock
        self.reset()

    def reset(self) -> None:
        """Forget everything, also who is to be refused."""
        self._store: LaggedStore[User] = LaggedStore(self._clock)
        self.users = self._store.current
        self._key_by_user_id: dict[str, str] = {}  # the latest to get it, where several may
        self._forgotten: set[str] = set()

    def forget(self, identifier: str) -> None:
        """Delete the profile of an email or userId, and refuse it from now on in any case."""
        folded = identifier.strip().lower()
        self._forgotten.add(folded)
        user = self._store.remove(self._key_by_user_id.pop(identifier, folded))
        if user is not None and user.user_id is not None:
            self._key_by_user_id.pop(user.user_id, None)

    # --- Who

    def check(self, row: Fields) -> None:
        """Raise for a row that names nobody, somebody who was forgotten, or no one who can be."""
        email, user_id = row.get("email"), row.get("userId")
        if email is None and user_id is None:
            raise RefusedError(envelope(400, "BadParams", "An email or a userId is required."))
        if self._forgotten:
            self._refuse_forgotten(email, "Emails")
            self._refuse_forgotten(user_id, "UserIds")
        if email is not None:
            check_email(email)
        if user_id is not None:
            check_user_id(user_id)

    def _refuse_forgotten(self, identifier: str | None, kind: str) -> None:
        if identifier is not None and identifier.strip().lower() in self._forgotten:
            answer = envelope(409, "ForgottenUserError", "This user has been forgotten.")
            raise RefusedError(answer, f"forgotten{kind}", identifier)

    def identifier(self, row: Fields) -> tuple[str, str]:
        """Return what *row* is known by in a failure list: the kind of list, and the value."""
        email, user_id = row.get("email"), row.get("userId")
        if email is None or (user_id is not None and self._variants.project_type == "userID"):
            return "UserIds", row["userId"]
        return "Emails", email

    def find(self, row: Fields) -> str | None:
        """Return the key that the user of *row* has or would have; None if no key can be told."""
        project_type = self._variants.project_type
        email: str | None = row.get("email")
        if email is not None and project_type == "email":
            return email.lower()
        user_id: str | None = row.get("userId")
        if project_type == "userID":
            return user_id
        if email is None:
            return None if user_id is None else self._key_by_user_id.get(user_id)
        key, without_email = email.lower(), _key_without_email(user_id or "")
        return without_email if key not in self.users and without_email in self.users else key

    def email_of(self, row: Fields) -> str | None:
        """Return the email that *row* names, or else that of the profile."""
        email: str | None = row.get("email")
        if email is not None:
            return email.lower()
        key = self.find(row)
        user = None if key is None else self.users.get(key)
        return None if user is None else user.email

    def shown(self, row: Fields) -> User | None:
        """Return the profile that *row* is about, as the outside sees it; None for nobody."""
        key = self.find(row)
        return None if key is None else self._store.shown(key)

    def knows(self, row: Fields) -> bool:
        """Whether the user that *row* is about is known to the outside."""
        key = self.find(row)
        return key is not None and self._store.shown(key) is not None

    def unknown(self, row: Fields, bucket: str) -> RefusedError:
        """Return the refusal of a row whose user is unknown."""
        kind, value = self.identifier(row)
        name = "email" if kind == "Emails" else "userId"
        code = "UnknownEmailError" if kind == "Emails" else "UnknownUserIdError"
        answer = envelope(400, code, f"Unknown {name}: {value}")
        return RefusedError(answer, f"{bucket}{kind}", value)

    # --- Writing

    def write(self, row: Fields, fields: Fields) -> None:
        """Create or update one profile; raise for an unknown userId or one identity too many."""
        key = self.find(row)
        if key is None:
            key = self._new_key(row)
        held = self.users.get(key)
        if held is None:
            held = User(key if self._variants.project_type == "email" else None, None, {}, 0)
        new_email, user_id = _text(fields, "email"), _text(fields, "userId")
        if new_email is not None:
            self._refuse_taken_email(key, new_email.lower())
        user_id = user_id or row.get("userId") or held.user_id
        if user_id is not None:
            self._refuse_taken_user_id(key, user_id)
        email = self._email_after(held, new_email or row.get("email"))
        data_fields: Fields = {}
        if self._variants.keep_fields:
            data_fields = _merged(held.data_fields, fields, nested=row.get("mergeNestedObjects"))
            data_fields.pop("email", None)
            data_fields.pop("userId", None)
        self._replace(key, held, User(email, user_id, data_fields, held.updates + 1))

    def _new_key(self, row: Fields) -> str:
        """Return the key for an unknown userId."""
        project_type, user_id = self._variants.project_type, row.get("userId")
        if user_id is not None and project_type == "hybrid":
            return _key_without_email(user_id)
        if user_id is not None and project_type == "email" and row.get("preferUserId"):
            return f"{user_id.lower()}+{len(self.users)}@placeholder.email"
        raise self.unknown(row, "invalid")

    def _refuse_taken_email(self, key: str, email: str) -> None:
        """Raise if the profile under *key* cannot have an email since another has it."""
        if self._variants.project_type != "userID" and email != key and email in self.users:
            answer = envelope(409, "EmailAlreadyExists", f"{email} belongs to another user.")
            raise RefusedError(answer, "conflictEmails", email)

    def _refuse_taken_user_id(self, key: str, user_id: str) -> None:
        """Raise if the profile under *key* cannot have a userId since another has it."""
        if self._variants.project_type == "email":
            return
        if self._key_by_user_id.get(user_id, key) != key:
            answer = envelope(409, "UserIdAlreadyExists", f"{user_id} belongs to another user.")
            raise RefusedError(answer, "conflictUserIds", user_id)

    def _email_after(self, held: User, sent: str | None) -> str | None:
        if sent is None or self._variants.project_type == "email":
            return held.email
        return sent.lower()

    def _replace(self, key: str, held: User, user: User) -> None:
        """Put *user* in the place of *held*, which is under *key* if it is anywhere."""
        new_key = key if self._variants.project_type == "email" else self._key_of(user)
        if new_key != key:
            self._store.remove(key)
        self._store.put(new_key, user, self._variants.lag_s)
        if held.user_id is not None and self._key_by_user_id.get(held.user_id) == key:
            del self._key_by_user_id[held.user_id]
        if user.user_id is not None:
            self._key_by_user_id[user.user_id] = new_key

    def _key_of(self, user: User) -> str:
        identity = user.user_id if self._variants.project_type == "userID" else user.email
        return identity or _key_without_email(user.user_id or "")


def _key_without_email(user_id: str) -> str:
    return f"userId:{user_id}"


def _text(fields: Fields, name: str) -> str | None:
    value = fields.get(name)
    return value if isinstance(value, str) else None


def check_new_identity(fields: Fields) -> None:
    """Raise if dataFields would give a user a malformed email or userId."""
    if (email := _text(fields, "email")) is not None:
        check_email(email)
    if (user_id := _text(fields, "userId")) is not None:
        check_user_id(user_id)


def _merged(held: Fields, sent: Fields, *, nested: bool | None) -> Fields:
    """Return *held* updated by *sent*: null deletes, objects merge one level deep if *nested*."""
    merged = dict(held)
    for name, value in sent.items():
        if value is None:
            merged.pop(name, None)
        elif nested and isinstance(value, dict) and isinstance(merged.get(name), dict):
            merged[name] = _merged(merged[name], value, nested=False)
        else:
            merged[name] = value
    return merged
