"""The settings of the job: `.env` and the environment become one frozen, validated record.

No other module reads the environment. `.env.example` describes every variable for the operator.
"""

import difflib
import io
import os
import re
from collections.abc import Iterable, Mapping
from datetime import timedelta, timezone
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from dotenv.parser import parse_stream
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    FilePath,
    SecretStr,
    ValidationError,
)
from pydantic_core import ErrorDetails

# Relative paths start here, not in the working folder: cron starts the job in $HOME.
HERE = Path(__file__).resolve().parent
DEFAULT_ENV_FILE = HERE / ".env"

LOOPBACK_HOSTS = frozenset({"localhost", "127.0.0.1", "::1"})
# MySQL's own range of offsets.
OFFSET = re.compile(r"([+-])(0\d|1[0-3]):([0-5]\d)|(\+)(14):(00)")


class SettingsError(Exception):
    """The settings cannot be used. ``problems`` has one sentence per fault, and no values."""

    def __init__(self, problems: Iterable[str], hint: str = "") -> None:
        self.problems = list(problems)
        self.hint = hint
        super().__init__("; ".join(self.problems) + (f". {hint}" if hint else ""))


def _beside_main(path: object) -> object:
    return HERE / Path(path).expanduser() if isinstance(path, str | Path) else path


def _upper(text: object) -> object:
    return text.upper() if isinstance(text, str) else text


def _utc_offset(text: str) -> str:
    if not OFFSET.fullmatch(text):
        raise ValueError("must be an offset from UTC such as +00:00 or -05:30")
    return text


def _header_safe(key: SecretStr) -> SecretStr:
    if not re.fullmatch(r"[!-~]+", key.get_secret_value()):
        raise ValueError("must be the key alone: printable ASCII, no spaces or line breaks")
    return key


def _api_base_url(text: str) -> str:
    """Return scheme and host of *text*; a trailing ``/`` or ``/api`` means the same place."""
    parts = urlsplit(text)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError("must start with https:// and a host, such as https://api.iterable.com")
    if parts.username is not None or parts.password is not None:
        raise ValueError("must not hold a user name or password")
    if parts.path.rstrip("/") not in {"", "/api"} or parts.query or parts.fragment:
        raise ValueError("must end after the host, such as https://api.iterable.com")
    if parts.scheme == "http" and parts.hostname not in LOOPBACK_HOSTS:
        raise ValueError("must use https:// (plain http:// is for this machine alone)")
    return f"{parts.scheme}://{parts.netloc}"


Text = Annotated[str, Field(min_length=1)]
FolderOrFile = Annotated[Path, BeforeValidator(_beside_main)]


class Settings(BaseModel):
    """What one run is told. Field names are the variables' names in lower case.

    Times are in seconds, ports and counts are whole numbers, paths are absolute. The two secrets
    print as asterisks; ``get_secret_value()`` opens them.
    """

    model_config = ConfigDict(
        frozen=True,
        alias_generator=str.upper,
        str_strip_whitespace=True,
        hide_input_in_errors=True,
    )

    db_host: Text
    db_port: Annotated[int, Field(ge=1, le=65535)] = 3306
    db_user: Text
    # May be empty: a local server's root often has none.
    db_password: SecretStr
    db_name: Text
    db_ssl_ca: Annotated[FilePath | None, BeforeValidator(_beside_main)] = None
    db_time_zone: Annotated[str, AfterValidator(_utc_offset)] = "+00:00"
    db_query_timeout_seconds: Annotated[int, Field(ge=1, le=86400)] = 300

    iterable_api_key: Annotated[SecretStr, AfterValidator(_header_safe)]
    iterable_api_base_url: Annotated[str, AfterValidator(_api_base_url)]
    iterable_workers: Annotated[int, Field(ge=1, le=2000)] = 330
    iterable_rate_share: Annotated[float, Field(gt=0, le=1)] = 0.9
    iterable_timeout_seconds: Annotated[float, Field(gt=0, le=600)] = 30
    iterable_max_attempts: Annotated[int, Field(ge=1, le=20)] = 5

    bulk_batch_size: Annotated[int, Field(ge=1, le=10_000)] = 1000

    log_level: Annotated[
        Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"], BeforeValidator(_upper)
    ] = "INFO"
    log_file: FolderOrFile = HERE / "integration.log"
    results_dir: FolderOrFile = HERE

    @property
    def utc_offset(self) -> timezone:
        """``db_time_zone`` as a ``tzinfo``."""
        sign = -1 if self.db_time_zone[0] == "-" else 1
        hours, minutes = self.db_time_zone[1:].split(":")
        return timezone(sign * timedelta(hours=int(hours), minutes=int(minutes)))


VARIABLES = tuple(name.upper() for name in Settings.model_fields)


def load_environment_variables(
    env_file: Path | None = DEFAULT_ENV_FILE, environ: Mapping[str, str] | None = None
) -> Settings:
    """Read *env_file* and the environment; a real environment variable wins over the file.

    *env_file* may be absent when it is the default; None reads the environment alone.

    Raises:
        SettingsError: with every problem found in both places.

    """
    environ = os.environ if environ is None else environ
    from_file, problems = _read_env_file(env_file)
    values = from_file | {name: environ[name] for name in VARIABLES if name in environ}
    try:
        settings = Settings.model_validate(_without_blanks(values))
    except ValidationError as error:
        problems += [_sentence(detail, values) for detail in error.errors()]
    if problems:
        no_file = env_file is not None and not env_file.exists()
        raise SettingsError(problems, _first_steps(env_file) if no_file else "")
    return settings


def _read_env_file(path: Path | None) -> tuple[dict[str, str], list[str]]:
    """Return the variables of a dotenv file and the problems of its lines."""
    if path is None or (path == DEFAULT_ENV_FILE and not path.exists()):
        return {}, []
    values: dict[str, str] = {}
    problems = []
    # The parser, not dotenv_values(): that drops duplicates and broken lines in silence, and
    # would replace a ${...} inside a password.
    for binding in parse_stream(io.StringIO(_text_of(path))):
        where = f"{path.name} line {binding.original.line}"
        if binding.error:
            problems.append(f"{where} is not NAME=value")
        elif binding.key is None:
            continue
        elif binding.key not in VARIABLES:
            problems.append(f"{where}: {binding.key} is no setting{_suggestion(binding.key)}")
        elif binding.key in values:
            problems.append(f"{where}: {binding.key} is set a second time")
        else:
            values[binding.key] = binding.value or ""
    return values, problems


def _text_of(path: Path) -> str:
    try:
        # utf-8-sig: editors on Windows begin a file with a byte order mark.
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise SettingsError([f"{path} cannot be read: {error.strerror}"]) from None
    except UnicodeDecodeError:
        raise SettingsError([f"{path} is not UTF-8; save it as UTF-8"]) from None


def _without_blanks(values: Mapping[str, str]) -> dict[str, str]:
    """Drop variables set to nothing: they mean the default, except for an empty password."""
    return {name: value for name, value in values.items() if value.strip() or name == "DB_PASSWORD"}


def _sentence(detail: ErrorDetails, values: Mapping[str, str]) -> str:
    """Turn one of pydantic's findings into a sentence that begins with the variable's name."""
    name = detail["loc"][0]
    if detail["type"] == "missing":
        return f"{name} is {'empty' if name in values else 'missing'}"
    text = detail["msg"].removeprefix("Value error, ")
    return f"{name} {text.replace('Input should', 'must').replace('Path does', 'does')}"


def _suggestion(name: str) -> str:
    close = difflib.get_close_matches(name.upper(), VARIABLES, n=1, cutoff=0.8)
    return f"; did you mean {close[0]}?" if close else ""


def _first_steps(env_file: Path | None) -> str:
    return (
        f"There is no {env_file}: copy .env.example to .env and fill it in, "
        "or try 'python3 main.py --demo', which needs no settings"
    )
