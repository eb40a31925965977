"""Settings as text, before they are validated: the dotenv file, and the files of secrets.

Each problem is a sentence that names the variable or the line and quotes no value.
"""

import difflib
import io
import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from dotenv.parser import parse_stream

from records.exit_statuses import RunError
from records.files import text_of

# Each may come from a file instead, which the variable NAME_FILE names.
SECRETS = ("DB_PASSWORD", "ITERABLE_API_KEY")

# Quotes as word processors write them.
TYPOGRAPHIC_QUOTES = tuple("“”„‟‘’‚‛«»‹›")


class SettingsError(RunError):
    """The settings cannot be used.

    ``problems`` has one sentence for each fault, without values; ``hint`` says where to find help.
    """

    def __init__(self, problems: Iterable[str], hint: str = "") -> None:
        self.problems = list(problems)
        super().__init__("; ".join(self.problems) + (f". {hint}" if hint else ""))


def read_env_file(path: Path, known: Collection[str]) -> tuple[dict[str, str], list[str]]:
    """Return the variables of a dotenv file, and a problem for each line that cannot be used.

    A line cannot be used if it is not ``NAME=value``, if its name is not *known* or comes twice, or
    if its value seems to be cut off.

    Raises ValueError when the file as a whole cannot be read.
    """
    values: dict[str, str] = {}
    problems = []
    # Line by line, so that an open quote does not take in the next lines. dotenv_values() would
    # silently drop duplicates and broken lines, and replace a ${...} inside a password.
    for number, line in enumerate(io.StringIO(text_of(path)), 1):
        (binding,) = parse_stream(io.StringIO(line))
        where = f"{path.name} line {number}"
        if not binding.error and binding.key is None:  # a comment
            continue
        name, _, written = map(str.strip, line.partition("="))
        if text := _quoting_problem(written, broken=binding.error):
            problems.append(f"{where}: {text}")
            # So that it is not reported as missing too.
            values.setdefault(name, written)
        elif binding.key is None or binding.value is None:
            problems.append(f"{where} is not NAME=value")
        elif binding.key not in known:
            close = difflib.get_close_matches(binding.key.upper(), known, n=1, cutoff=0.8)
            suggestion = f"; did you mean {close[0]}?" if close else ""
            problems.append(f"{where}: {binding.key} is not a setting{suggestion}")
        elif binding.key in values:
            problems.append(f"{where}: {binding.key} is set twice")
        else:
            values[binding.key] = binding.value
    return values, problems


def merged(file: Mapping[str, str], environ: Mapping[str, str]) -> dict[str, str]:
    """Return the variables of a dotenv *file* and of *environ*, which wins.

    A blank variable counts as not set, because templates leave blanks; only DB_PASSWORD may be
    empty. A secret in *environ*, or its ``_FILE``, replaces both in *file*.
    """
    file, environ = _set_in(file), _set_in(environ)
    for name in SECRETS:
        both = {name, f"{name}_FILE"}
        if any(environ.get(each, "").strip() for each in both):
            file = {key: value for key, value in file.items() if key not in both}
    return file | environ


def _set_in(values: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in values.items() if value.strip() or name == "DB_PASSWORD"}


def read_secret_files(values: dict[str, str], folder: Path) -> dict[str, str]:
    """Put the secrets that the ``_FILE`` variables name into *values*.

    Relative paths start in *folder*. Return a problem for each secret that cannot be read, by
    the secret's name.
    """
    problems = {}
    for name in SECRETS:
        path = values.get(f"{name}_FILE")
        if path and values.get(name, "").strip():
            problems[name] = f"{name} and {name}_FILE are both set; keep one"
        elif path:
            try:
                text = text_of(absolute_path(path.strip(), folder))
                values[name] = text.removesuffix("\n")
            except ValueError as error:
                problems[name] = f"{name}_FILE {path} {error}"
    return problems


def absolute_path(path: str, folder: Path) -> Path:
    """Return *path*, relative to *folder* unless it is absolute; ``~`` is the user's home.

    Raises ValueError if there is no such home.
    """
    try:
        return folder / Path(path).expanduser()
    except RuntimeError:
        raise ValueError("begins with ~ and names a user without a home directory") from None


def _quoting_problem(written: str, *, broken: bool) -> str:
    """Return what is wrong with the quotes of a value as *written*; empty if nothing is.

    *broken*: the line cannot be read.
    """
    if written.startswith(TYPOGRAPHIC_QUOTES):
        return "the value begins with a typographic quote; write ' or \" before and after it"
    if written.startswith(("'", '"')):
        text = "the opening quote of the value is not closed on the same line"
        return text if broken else ""
    if not broken and re.search(r"\s#", written):
        return "a # after a space cuts off the value; quote it, or give the comment its own line"
    return ""
