"""Where log lines go: a short console for people, a full rotating file for the record."""

import functools
import io
import logging
import logging.handlers
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import ClassVar, TextIO

ConsoleGuard = Callable[[], AbstractContextManager[None]]

# Our loggers hang below this one, so that the libraries' debug lines stay out.
ROOT = "iterable_sync"
# What is logged here goes to the file alone: the lines of single records, when there are many.
FILE_ONLY = "iterable_sync.records"
MAX_BYTES = 10 * 1024 * 1024
OLD_FILES = 5
LINES_BETWEEN_LOOKS = 100

# What could end a line or steer a terminal, and what cannot be written as UTF-8, is shown as an
# escape: no value can forge a log line or lose one.
_CONTROLS = {
    code: f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"
    for code in [
        *range(32), *range(127, 160), 0x2028, 0x2029, *range(0xD800, 0xE000),
        # What turns the direction of text: it could make one line look like another.
        0x061C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A),
    ]
}  # fmt: skip
_CONTROLS[ord("\n")] = "\\n"


class OneLineFormatter(logging.Formatter):
    """Formats every message as one line, with UTC times; a traceback follows on its own lines."""

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: ARG002, N802
        """Return the time of *record* as 2026-01-13T14:30:45.123Z."""
        return f"{_utc_second(int(record.created))}.{int(record.msecs):03}Z"

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        """Return the line of *record* with control characters escaped."""
        record.message = record.message.translate(_CONTROLS)
        return super().formatMessage(record)


@functools.lru_cache(maxsize=2)
def _utc_second(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))


class _RotatingFile(logging.handlers.RotatingFileHandler):
    """Looks only now and then whether to rotate: the look costs more than the line."""

    _lines = 0
    _failed = False

    def shouldRollover(self, record: logging.LogRecord) -> bool:  # noqa: N802 - logging's name
        self._lines += 1
        return bool(self._lines % LINES_BETWEEN_LOOKS == 1 and super().shouldRollover(record))

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: ARG002, N802 - logging's name
        """Say once that the log has gaps; logging would print each lost line, values and all."""
        if not self._failed:
            self._failed = True
            error = sys.exc_info()[1]
            reason = getattr(error, "strerror", None) or type(error).__name__
            get_logger(__name__).error("LOG_FILE is missing lines: %s", reason)


class _Console(logging.StreamHandler[TextIO]):
    """A console that nobody reads any more must not end the run, nor get a traceback a line."""

    # Steps aside for a line, where something else is being shown.
    guard: ClassVar[ConsoleGuard] = nullcontext

    def emit(self, record: logging.LogRecord) -> None:
        with _Console.guard():
            super().emit(record)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        pass


class _LastProblem(logging.Handler):
    """Keeps the last warning or error."""

    text = ""

    def emit(self, record: logging.LogRecord) -> None:
        self.text = self.format(record)


# Where Python's own warnings go.
_warnings = logging.getLogger("py.warnings")
_last_problem = _LastProblem(logging.WARNING)
_last_problem.setFormatter(OneLineFormatter("%(message)s"))


class _ConsoleFormatter(OneLineFormatter):
    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        line = super().formatMessage(record)
        return line if record.levelno <= logging.INFO else f"{record.levelname}: {line}"


def setup_logger(
    console_level: str = "INFO", log_file: Path | None = None, *, quiet: bool = False
) -> logging.Logger:
    """Send log lines to the console and, when given, to *log_file*; return the top logger.

    The console shows *console_level* and above, warnings on standard error; nothing at all when
    *quiet*. The file gets DEBUG and above, and rotates at 10 MB. Calling again replaces what an
    earlier call set up. What goes to ``get_file_logger()`` is kept from the console.

    Raises:
        OSError: *log_file* cannot be written.

    """
    top, records = logging.getLogger(ROOT), logging.getLogger(FILE_ONLY)
    for logger in (top, records, _warnings):
        for old in logger.handlers[:]:
            logger.removeHandler(old)
            old.close()
        logger.setLevel(logging.DEBUG)
        logger.propagate = False
    top.addHandler(_last_problem)
    if not quiet:
        for handler in _console_handlers(console_level):
            top.addHandler(handler)
    records.addHandler(logging.NullHandler())
    _keep_libraries_quiet()
    if log_file is not None:
        file_handler = _file_handler(log_file)
        top.addHandler(file_handler)
        records.addHandler(file_handler)
        _warnings.addHandler(file_handler)
    return top


def _keep_libraries_quiet() -> None:
    """Keep what libraries say off the console, where Python by itself would print it."""
    logging.captureWarnings(capture=True)
    for logger in (logging.getLogger(), _warnings):
        if not logger.handlers:
            logger.addHandler(logging.NullHandler())


def get_logger(name: str) -> logging.Logger:
    """Return the logger of the module called *name*, without its package."""
    module = "main" if name == "__main__" else name.rpartition(".")[2]
    return logging.getLogger(f"{ROOT}.{module}")


def guard_console(guard: ConsoleGuard | None) -> None:
    """Write each line on the console inside *guard*'s context, until this is called with None."""
    _Console.guard = guard or nullcontext


def last_problem() -> str:
    """Return the last warning or error that was logged, on one line; "" if there was none."""
    return _last_problem.text


def get_file_logger() -> logging.Logger:
    """Return the logger whose lines go to the log file alone."""
    return logging.getLogger(FILE_ONLY)


def _console_handlers(level: str) -> list[logging.Handler]:
    out = _Console(sys.stdout)
    out.addFilter(lambda record: record.levelno <= logging.INFO)
    err = _Console(sys.stderr)
    err.addFilter(lambda record: record.levelno > logging.INFO)
    for handler in (out, err):
        if isinstance(handler.stream, io.TextIOWrapper):
            # A console that cannot show ✓ or a name shows an escape in its place.
            handler.stream.reconfigure(errors="backslashreplace")
        handler.setLevel(level)
        handler.setFormatter(_ConsoleFormatter("%(message)s"))
    return [out, err]


def _file_handler(path: Path) -> logging.Handler:
    path.parent.mkdir(parents=True, exist_ok=True)
    handler = _RotatingFile(path, maxBytes=MAX_BYTES, backupCount=OLD_FILES, encoding="utf-8")
    handler.setFormatter(OneLineFormatter("%(asctime)s %(levelname)-8s %(name)s: %(message)s"))
    return handler
