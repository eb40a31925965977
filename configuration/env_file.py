"""Settings as text, before they are validated: the dotenv file, and the files of secrets.

Whatever is wrong is told as a sentence that names the variable or the line, and quotes no value.
"""

import difflib
import io
from collections.abc import Collection, Mapping
from pathlib import Path

from dotenv.parser import parse_stream

# Each may be read from a file instead, which the variable NAME_FILE names.
SECRETS = ("DB_PASSWORD", "ITERABLE_API_KEY")


class EnvFileError(Exception):
    """The dotenv file as a whole cannot be read. The message says why."""


def read_env_file(path: Path, known: Collection[str]) -> tuple[dict[str, str], list[str]]:
    """Return the variables of a dotenv file, and a problem for each line that cannot be used.

    A line is no use when it is not ``NAME=value``, or its name is not *known*, or not new.

    Raises EnvFileError.
    """
    values: dict[str, str] = {}
    problems = []
    # The parser, not dotenv_values(): that drops duplicates and broken lines in silence, and
    # would replace a ${...} inside a password.
    for binding in parse_stream(io.StringIO(_text_of(path))):
        where = f"{path.name} line {binding.original.line}"
        if binding.error:
            problems.append(f"{where} is not NAME=value")
        elif binding.key is None:  # a comment
            continue
        elif binding.key not in known:
            problems.append(
                f"{where}: {binding.key} is no setting{_suggestion(binding.key, known)}"
            )
        elif binding.key in values:
            problems.append(f"{where}: {binding.key} is set a second time")
        else:
            values[binding.key] = binding.value or ""
    return values, problems


def read_secret_files(
    values: dict[str, str], environ: Mapping[str, str], folder: Path
) -> dict[str, str]:
    """Put the secrets that the ``_FILE`` variables name into *values*.

    Of a secret and its file, one in *environ* wins over the other one in the dotenv file. A
    variable set to nothing is not set. Relative paths start in *folder*.

    Return a problem for each secret that cannot be had, by the secret's name.
    """
    problems = {}
    for name in SECRETS:
        other = f"{name}_FILE"
        given = [each for each in (name, other) if values.get(each, "").strip()]
        if len(given) == 2 and (name in environ) == (other in environ):
            problems[name] = f"{name} and {other} are both set; keep one"
        elif len(given) == 2 and name in environ:
            del values[other]
        elif other in given:
            try:
                values[name] = _secret_in(absolute_path(values[other].strip(), folder))
            except ValueError as error:
                problems[name] = f"{other} {error}"
    return problems


def without_quotes(given: Mapping[str, str]) -> tuple[dict[str, str], list[str]]:
    """Return variables of the environment without quotes around them, and a problem for each.

    A shell or a dotenv file takes quotes off, ``docker --env-file`` leaves them. Those of a
    password may be a part of it.
    """
    names = [name for name in given if is_quoted(given[name]) and name != "DB_PASSWORD"]
    problems = [
        f"{name} has quotes around it in the environment; write it without "
        "(docker --env-file takes them for a part of the value)"
        for name in names
    ]
    return {**given, **{name: given[name].strip()[1:-1] for name in names}}, problems


def is_quoted(value: str) -> bool:
    """Whether *value* begins and ends with the same quote."""
    text = value.strip()
    return len(text) > 1 and text[0] == text[-1] and text[0] in "\"'"


def absolute_path(path: str, folder: Path) -> Path:
    """Return *path*, from *folder* on if it is relative; ``~`` is the user's home.

    Raises ValueError when there is no such home.
    """
    try:
        return folder / Path(path).expanduser()
    except RuntimeError:
        raise ValueError("begins with ~ and a user who has no home here") from None


def _text_of(path: Path) -> str:
    try:
        # utf-8-sig: editors on Windows begin a file with a byte order mark.
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise EnvFileError(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise EnvFileError(f"{path} is not UTF-8; save it as UTF-8") from None
    # No variable of a real environment can hold one, and no file has one in its name.
    if "\0" in text:
        raise EnvFileError(f"{path} holds a NUL byte; save it as UTF-8")
    return text


def _secret_in(path: Path) -> str:
    """Return the text of *path* without its last line's end."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ValueError(f"names a file that cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ValueError("names a file that is not UTF-8") from None
    # Python has read a CRLF as the one "\n".
    text = text.removesuffix("\n")
    if not text:
        raise ValueError("names an empty file")
    return text


def _suggestion(name: str, known: Collection[str]) -> str:
    close = difflib.get_close_matches(name.upper(), known, n=1, cutoff=0.8)
    return f"; did you mean {close[0]}?" if close else ""
