"""The settings of the job: `.env` and the environment become one frozen, validated record.

`.env.example` describes every variable for the operator.
"""

import os
import re
import ssl
import zoneinfo
from collections.abc import Mapping
from contextlib import suppress
from datetime import timedelta, timezone, tzinfo
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import SplitResult, urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic_core import ErrorDetails

from configuration.env_file import (
    SettingsError,
    absolute_path,
    merged,
    read_env_file,
    read_secret_files,
)
from iterable_api.mapping import Identity
from records.files import unreadable

# The folder of main.py. Relative paths start here, not in the working folder: cron starts the job
# in $HOME.
HERE = Path(__file__).resolve().parent.parent
DEFAULT_ENV_FILE = HERE / ".env"

LOOPBACK_HOSTS = frozenset({"localhost", "127.0.0.1", "::1"})
# MySQL's own range of offsets.
OFFSET = re.compile(r"([+-])(0\d|1[0-3]):([0-5]\d)|(\+)(14):(00)")


def _beside_main(path: str) -> Path:
    return absolute_path(path, HERE)


def _from_here(path: Path) -> str:
    return str(path.relative_to(HERE) if path.is_relative_to(HERE) else path)


def _readable(path: Path) -> Path:
    try:
        path.open("rb").close()
    except OSError as error:
        raise ValueError(f"names {path}, which {unreadable(path, error)}") from None
    return path


def _zone_of(text: str) -> tzinfo:
    if not OFFSET.fullmatch(text):
        return zoneinfo.ZoneInfo(text)
    return timezone(timedelta(hours=int(text[:3]), minutes=int(text[0] + text[4:])))


def _time_zone(text: str) -> str:
    try:
        _zone_of(text)
    # A name can also be a folder of the time zone data, or a path outside it.
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError(
            "must be an offset from UTC such as +00:00 or -05:30, or a name such as Europe/Berlin "
            "that this machine knows (by the system's package tzdata)"
        ) from None
    return text


def _header_safe(key: SecretStr) -> SecretStr:
    if not re.fullmatch(r"[!-~]+", key.get_secret_value()):
        raise ValueError("must be only the key: printable ASCII, no spaces or line breaks")
    return key


def _split_url(text: str, example: str) -> SplitResult:
    """Return the parts of an http or https URL; no error quotes any of it."""
    with suppress(ValueError):
        parts = urlsplit(text)
        is_usable = parts.scheme in {"http", "https"} and parts.hostname and parts.port != 0
        if is_usable and re.fullmatch(r"[!-~]+", text):
            return parts
    raise ValueError(f"must be a URL such as {example}, in ASCII and without spaces")


def _api_base_url(text: str) -> str:
    """Return scheme and host of *text*; a trailing ``/`` or ``/api`` is dropped."""
    parts = _split_url(text, "https://api.iterable.com")
    if parts.username is not None or parts.password is not None:
        raise ValueError("must not hold a user name or password")
    if parts.path.rstrip("/") not in {"", "/api"} or parts.query or parts.fragment:
        raise ValueError("must end after the host, such as https://api.iterable.com")
    if parts.scheme == "http" and parts.hostname not in LOOPBACK_HOSTS:
        raise ValueError("must use https:// (plain http:// is only for this machine)")
    return f"{parts.scheme}://{parts.netloc.lower()}"


def _heartbeat_url(url: SecretStr) -> SecretStr:
    _split_url(url.get_secret_value(), "https://hc-ping.com/your-check")
    return url


def _ca_file(path: Path) -> Path:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(_readable(path))
    except ssl.SSLError:
        raise ValueError("names a file without a certificate in PEM format") from None
    return path


def _proxy_url(url: SecretStr) -> SecretStr:
    """Return *url*, which may hold a password: no error quotes any of it."""
    text = url.get_secret_value()
    example = "http://proxy.example:3128"
    parts = _split_url(text, example)
    beyond = parts.path.rstrip("/") or parts.query or parts.fragment
    if parts.scheme != "http" or parts.port is None or beyond:
        raise ValueError(f"must be http:// with a host and a port, such as {example}")
    return url


def _prom_file(path: Path) -> Path:
    if path.suffix != ".prom":
        raise ValueError("must end in .prom; node_exporter reads no other files")
    return path


def _unstripped(text: str) -> SecretStr:
    if re.search(r"[\ud800-\udfff]", text):  # Python's substitutes for bytes that are not UTF-8
        raise ValueError("is not valid UTF-8")
    return SecretStr(text)


Text = Annotated[str, Field(min_length=1)]
FolderOrFile = Annotated[Path, BeforeValidator(_beside_main)]


class Settings(BaseModel):
    """The settings of one run. Field names are the variables' names in lower case.

    Times are in seconds, ports and counts are whole numbers, paths are absolute. Passwords, the API
    key and the heartbeat's URL print as asterisks; ``get_secret_value()`` opens them.
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
    # May be empty: a local server's root often has none. Spaces around it are part of it.
    db_password: Annotated[SecretStr, BeforeValidator(_unstripped)]
    db_password_file: FolderOrFile | None = None
    db_name: Text
    source_name: Text | None = None
    query_file: Annotated[FolderOrFile, AfterValidator(_readable)] | None = None
    db_ssl_ca: Annotated[FolderOrFile, AfterValidator(_readable)] | None = None
    db_time_zone: Annotated[str, AfterValidator(_time_zone)] = "+00:00"
    db_query_timeout_seconds: Annotated[int, Field(ge=1, le=86400)] = 300

    iterable_api_key: Annotated[SecretStr, AfterValidator(_header_safe)]
    iterable_api_key_file: FolderOrFile | None = None
    iterable_api_base_url: Annotated[str, AfterValidator(_api_base_url)]
    iterable_project: str = ""
    iterable_ca_file: Annotated[FolderOrFile, AfterValidator(_ca_file)] | None = None
    iterable_proxy: Annotated[SecretStr, AfterValidator(_proxy_url)] = SecretStr("")
    iterable_identity: Annotated[Identity, BeforeValidator(str.lower)] = Identity.EMAIL
    iterable_create_fields: Annotated[
        Literal["project", "always", "never"], BeforeValidator(str.lower)
    ] = "project"
    # None: as many as the latency needs.
    iterable_workers: Annotated[int | None, Field(ge=1, le=2000)] = None
    iterable_rate_share: Annotated[float, Field(gt=0, le=1)] = 0.9
    iterable_timeout_seconds: Annotated[float, Field(gt=0, le=600)] = 30
    iterable_max_attempts: Annotated[int, Field(ge=1, le=20)] = 5

    bulk_batch_size: Annotated[int, Field(ge=1, le=10_000)] = 1000

    # 0 means no limit.
    max_runtime_seconds: Annotated[float, Field(ge=0, le=604_800)] = 0
    min_rows: Annotated[int, Field(ge=0)] = 0
    max_rows: Annotated[int | None, Field(ge=1)] = None
    max_refused_rows: Annotated[int, Field(ge=0)] = 0

    log_level: Annotated[
        Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"], BeforeValidator(str.upper)
    ] = "INFO"
    log_file: FolderOrFile = HERE / "iterable_integration.log"
    results_dir: FolderOrFile = HERE
    # 0 means all.
    results_keep: Annotated[int, Field(ge=0)] = 0
    state_file: FolderOrFile = HERE / "sync_state.sqlite3"
    heartbeat_url: Annotated[SecretStr, AfterValidator(_heartbeat_url)] = SecretStr("")
    metrics_file: Annotated[FolderOrFile, AfterValidator(_prom_file)] | None = None

    @field_validator("max_rows")
    @classmethod
    def _not_below_min_rows(cls, value: int | None, info: ValidationInfo) -> int | None:
        if value is not None and value < info.data.get("min_rows", 0):
            raise ValueError("must not be less than MIN_ROWS")
        return value

    @property
    def source(self) -> str:
        """The name of the data's source, which is part of each event's identity."""
        return self.source_name or self.db_name

    @property
    def query_name(self) -> str:
        """The file of Query 2, relative to main.py's folder: the job's name in its ledger."""
        return _from_here(self.query_file or Path("phase2_queries.sql"))

    @property
    def job(self) -> str:
        """The ledger, relative to main.py's folder: the job's name in its results."""
        return _from_here(self.state_file)

    @property
    def create_new_fields(self) -> bool | None:
        """Whether Iterable creates fields that it does not have; None: as the project is set."""
        return {"always": True, "never": False}.get(self.iterable_create_fields)

    @property
    def time_zone(self) -> tzinfo:
        """``db_time_zone`` as a ``tzinfo``."""
        return _zone_of(self.db_time_zone)


VARIABLES = tuple(name.upper() for name in Settings.model_fields)


def load_environment_variables(
    env_file: Path | None = DEFAULT_ENV_FILE, environ: Mapping[str, str] | None = None
) -> Settings:
    """Return the settings in *env_file* and the environment.

    The environment wins, unless its value is blank; DB_PASSWORD wins even then. *env_file* may be
    absent if it is the default; None reads the environment alone.

    Raises SettingsError with every problem found in both places.
    """
    environ = os.environ if environ is None else environ
    values, problems = _values_of(env_file)
    values = merged(values, {name: environ[name] for name in VARIABLES if name in environ})
    unread = read_secret_files(values, HERE)
    problems += unread.values()
    try:
        settings = Settings.model_validate(values)
    except ValidationError as error:
        for detail in error.errors():
            # If its file cannot be read, a secret is not reported as missing too.
            if str(detail["loc"][0]).removesuffix("_FILE") not in unread:
                problems.append(_sentence(detail))
    if problems:
        hint = ".env.example explains every variable"
        if env_file is not None and not env_file.exists():
            hint = (
                f"There is no {env_file}: copy .env.example to .env and fill it in, "
                "or try 'python3 main.py --demo', which needs no settings"
            )
        raise SettingsError(problems, hint)
    return settings


def load_results_dir(env_file: Path | None, environ: Mapping[str, str]) -> Path:
    """Return the folder of the results files, even if other variables are invalid.

    Raises SettingsError if *env_file* cannot be read, or the ``~`` in the folder is no home.
    """
    values = merged(_values_of(env_file)[0], environ)
    try:
        return _beside_main(values.get("RESULTS_DIR", str(HERE)).strip())
    except ValueError as error:
        raise SettingsError([f"RESULTS_DIR {error}"]) from None


def _values_of(env_file: Path | None) -> tuple[dict[str, str], list[str]]:
    """Return the variables of *env_file* and its problems; the default file may be absent."""
    if env_file is None or (env_file == DEFAULT_ENV_FILE and not env_file.exists()):
        return {}, []
    try:
        return read_env_file(env_file, VARIABLES)
    except ValueError as error:
        raise SettingsError([f"{env_file} {error}"]) from None


def _sentence(detail: ErrorDetails) -> str:
    """Turn one of pydantic's findings into a sentence that begins with the variable's name."""
    name = detail["loc"][0]
    if detail["type"] == "missing":
        return f"{name} is missing or empty"
    text = detail["msg"].removeprefix("Value error, ").partition(", unable to parse")[0]
    return f"{name} {text.replace('Input should', 'must')}"
