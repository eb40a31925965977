"""Where log lines go: a short console for people, a full rotating file for the record."""

import fcntl
import io
import logging
import logging.handlers
import os
import stat
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, TextIO

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

ConsoleGuard = Callable[[], AbstractContextManager[None]]

# Our loggers hang below this one, so that the libraries' debug lines stay out.
ROOT = "iterable_sync"
# What is logged here goes to the file alone: the lines of single records, when there are many.
FILE_ONLY = "iterable_sync.records"
MAX_BYTES = 10 * 1024 * 1024
OLD_FILES = 5
NO_ROTATION = "LOG_FILE %s cannot be rotated (%s): it grows until its folder may be written"
# Where Python's own warnings go.
_warnings = logging.getLogger("py.warnings")

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


def one_line(text: str) -> str:
    """Return *text* with escapes for what would end a line or steer a terminal."""
    return text.translate(_CONTROLS)


class OneLineFormatter(logging.Formatter):
    """Formats every message as one line, with UTC times; a traceback follows on its own lines."""

    converter = staticmethod(time.gmtime)
    default_time_format = "%Y-%m-%dT%H:%M:%S"
    default_msec_format = "%s.%03dZ"

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        """Return the line of *record* with control characters escaped."""
        record.message = one_line(record.message)
        return super().formatMessage(record)


class _ConsoleFormatter(OneLineFormatter):
    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        line = super().formatMessage(record)
        return line if record.levelno <= logging.INFO else f"{record.levelname}: {line}"


class _Console(logging.StreamHandler[TextIO]):
    """Steps aside for each line where something else is being shown."""

    guard: ClassVar[ConsoleGuard] = nullcontext

    def emit(self, record: logging.LogRecord) -> None:
        with _Console.guard():
            super().emit(record)


class _LogFile(logging.Handler):
    """Tells once if lines are lost; logging would print each of them, values and all."""

    _has_told = False

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: ARG002, N802 - logging's name
        if not self._has_told:
            self._has_told = True
            error = sys.exc_info()[1]
            reason = getattr(error, "strerror", None) or type(error).__name__
            get_logger(__name__).error("LOG_FILE is missing lines: %s. The job goes on", reason)


class _Device(_LogFile, logging.FileHandler):
    """Writes what is no regular file as it is."""

    def _open(self) -> io.TextIOWrapper:
        console = _console_of(Path(self.baseFilename))
        if console is not None:
            # Opening it anew is not possible for every pipe and socket.
            return os.fdopen(os.dup(console), "w", encoding="utf-8")
        # A pipe that nobody reads is not waited for.
        flags = os.O_WRONLY | os.O_APPEND | os.O_NONBLOCK | os.O_NOCTTY
        return os.fdopen(os.open(self.baseFilename, flags), "w", encoding="utf-8")


class _RotatingFile(_LogFile, logging.handlers.RotatingFileHandler):
    """Keeps the file locked as long as it is open: two who rotate one file lose lines.

    Raises BlockingIOError when another process has it.
    """

    def _open(self) -> io.TextIOWrapper:
        stream = super()._open()
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            stream.close()
            raise
        except OSError:
            pass  # not every file system can lock
        return stream

    def doRollover(self) -> None:  # noqa: N802 - logging's name
        """Begin a new file; go on in the present one where its folder does not allow that."""
        try:
            super().doRollover()
        except OSError as error:
            self.maxBytes = 0  # no further try
            self.stream = self._open()
            get_logger(__name__).warning(NO_ROTATION, self.baseFilename, error.strerror)


def setup_logger(
    console_level: str = "INFO", log_file: Path | None = None, *, quiet: bool = False
) -> logging.Logger:
    """Send log lines to the console and, when given, to *log_file*; return the top logger.

    The console shows *console_level* and above, warnings on standard error; nothing at all when
    *quiet*, or when *log_file* is the console itself. The file gets DEBUG and above, and rotates at
    10 MB; what is no regular file is written as it is. Calling again replaces what an earlier call
    set up. What goes to ``get_file_logger()`` is kept from the console.

    Raises:
        BlockingIOError: another process is writing to *log_file*.
        OSError: *log_file* cannot be written.

    """
    top, records = logging.getLogger(ROOT), logging.getLogger(FILE_ONLY)
    for logger in (top, records, _warnings):
        for old in logger.handlers[:]:
            logger.removeHandler(old)
            with suppress(OSError):  # what it holds back may find no room
                old.close()
        logger.setLevel(logging.DEBUG)
        logger.propagate = False
        # Python itself prints the lines of a logger that has no handler.
        logger.addHandler(logging.NullHandler())
    logging.captureWarnings(capture=True)
    if not (root := logging.getLogger()).handlers:  # where the lines of libraries end up
        root.addHandler(logging.NullHandler())
    if not quiet and (log_file is None or _console_of(log_file) is None):
        _add_console(top, console_level)
    if log_file is not None:
        handler = _file_handler(log_file)
        for logger in (top, records, _warnings):
            logger.addHandler(handler)
    return top


def _add_console(top: logging.Logger, level: str) -> None:
    out, err = _Console(sys.stdout), _Console(sys.stderr)
    out.addFilter(lambda record: record.levelno <= logging.INFO)
    err.addFilter(lambda record: record.levelno > logging.INFO)
    for handler in (out, err):
        handler.setLevel(level)
        handler.setFormatter(_ConsoleFormatter("%(message)s"))
        top.addHandler(handler)


def _file_handler(path: Path) -> logging.Handler:
    path.parent.mkdir(parents=True, exist_ok=True)
    handler: logging.Handler
    if path.exists() and not path.is_file():
        handler = _Device(path)
    else:
        handler = _RotatingFile(path, maxBytes=MAX_BYTES, backupCount=OLD_FILES, encoding="utf-8")
        for each in (path, *(Path(f"{path}.{n}") for n in range(1, OLD_FILES + 1))):
            keep_to_owner(each)
    handler.setFormatter(OneLineFormatter("%(asctime)s %(levelname)-8s %(name)s: %(message)s"))
    return handler


def _console_of(path: Path) -> int | None:
    """Return the descriptor of the console that *path* names, such as /dev/stdout does, or None."""
    with suppress(OSError):
        named, nothing = path.stat(), Path(os.devnull).stat()
        if not stat.S_ISREG(named.st_mode) and not os.path.samestat(named, nothing):
            return next((n for n in (1, 2) if os.path.samestat(named, os.fstat(n))), None)
    return None


class _ForgivingFile(io.FileIO):
    """A console of which nobody minds whether it is there: what it does not take is dropped."""

    def write(self, data: "ReadableBuffer", /) -> int:
        size = memoryview(data).nbytes
        try:
            return super().write(data) or size
        except OSError:
            return size


def open_console() -> None:
    """Make sure that a console that is closed or full changes nothing of a run.

    Standard input, output and error are there afterwards, and writing to them never fails.
    """
    for descriptor, name in enumerate(("stdin", "stdout", "stderr")):
        stream: TextIO | None = getattr(sys, name)
        try:
            os.fstat(descriptor)
        except OSError:
            # Closed: the next file of the run would get its number, and messages would go there.
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
        if name != "stdin":
            file = io.BufferedWriter(_ForgivingFile(descriptor, "w", closefd=False))
            encoding = stream.encoding if stream else "utf-8"
            # A console that cannot show ✓ or a name shows an escape in its place.
            text = io.TextIOWrapper(file, encoding, "backslashreplace", line_buffering=True)
            setattr(sys, name, text)


def get_logger(name: str) -> logging.Logger:
    """Return the logger of the module called *name*, without its package."""
    module = "main" if name == "__main__" else name.rpartition(".")[2]
    return logging.getLogger(f"{ROOT}.{module}")


def guard_console(guard: ConsoleGuard | None) -> None:
    """Write each line on the console inside *guard*'s context, until this is called with None."""
    _Console.guard = guard or nullcontext


def get_file_logger() -> logging.Logger:
    """Return the logger whose lines go to the log file alone."""
    return logging.getLogger(FILE_ONLY)


def keep_to_owner(path: Path) -> None:
    """Take from others what rights they have to *path*, if it is a file and there already."""
    # Some file systems have no modes, and a file may be another user's.
    with suppress(OSError):
        mode = path.stat().st_mode
        if stat.S_ISREG(mode) and mode & 0o077:
            path.chmod(0o600)
