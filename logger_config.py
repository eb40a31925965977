"""Where log lines go: a short console for people, a full rotating file for the record."""

import fcntl
import io
import logging
import logging.handlers
import os
import stat
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

# Our loggers hang below this one, so that the libraries' debug lines stay out.
ROOT = "iterable_sync"
# The name of the logger whose lines go to the file alone: those of single rows, if there are many.
FILE_ONLY = "records"
MAX_BYTES = 10 * 1024 * 1024
OLD_FILES = 5
# Where Python's own warnings go.
_warnings = logging.getLogger("py.warnings")


def one_line(text: str) -> str:
    """Return *text* with escapes for what would end a line or steer a terminal.

    So no value can forge a log line, or make one look like another by turning its direction.
    """
    return "".join(each if each.isprintable() else repr(each)[1:-1] for each in text)


class OneLineFormatter(logging.Formatter):
    """Formats every message as one line, with UTC times; a traceback follows on its own lines."""

    converter = staticmethod(time.gmtime)
    default_time_format = "%Y-%m-%dT%H:%M:%S"
    default_msec_format = "%s.%03dZ"

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        """Return the line of *record* with control characters escaped."""
        record.message = one_line(record.message)
        return super().formatMessage(record)


class _Console(logging.Handler):
    """Shows warnings and errors on standard error, all else on standard output."""

    def emit(self, record: logging.LogRecord) -> None:
        line, stream = self.format(record), sys.stdout
        if record.levelno > logging.INFO:
            line, stream = f"{record.levelname}: {line}", sys.stderr
        # A progress bar may stand on a terminal's last line; its next update draws it again.
        stream.write(f"\r\x1b[K{line}\n" if stream.isatty() else f"{line}\n")


class _LogFile(logging.handlers.RotatingFileHandler):
    """Locks the file while it is open, as two processes that rotate one file lose lines.

    Says once that lines are lost; logging would print each of them, with its values. Raises
    BlockingIOError if another process has locked the file.
    """

    _has_told = False

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        # In a folder that takes no new file, the log goes on in the one there is.
        size = MAX_BYTES if os.access(path.parent, os.W_OK, effective_ids=True) else 0
        super().__init__(path, maxBytes=size, backupCount=OLD_FILES, encoding="utf-8")
        self._claim()
        keep_to_owner(path)

    def doRollover(self) -> None:  # noqa: N802 - logging's name
        super().doRollover()
        self._claim()

    def _claim(self) -> None:
        try:
            if self.stream and stat.S_ISREG(os.fstat(self.stream.fileno()).st_mode):
                fcntl.flock(self.stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.close()
            raise
        except OSError:
            pass  # not every file system can lock

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: ARG002, N802 - logging's name
        if not self._has_told:
            self._has_told = True
            error = sys.exc_info()[1]
            reason = getattr(error, "strerror", None) or type(error).__name__
            get_logger(__name__).error("LOG_FILE is missing lines: %s. The job goes on", reason)


def setup_logger(
    console_level: str = "INFO", log_file: Path | None = None, *, quiet: bool = False
) -> logging.Logger:
    """Send log lines to the console and, when given, to *log_file*; return the top logger.

    The console shows *console_level* and above, warnings on standard error; nothing at all when
    *quiet*, or when *log_file* is the console itself. The file gets DEBUG and above, and rotates at
    10 MB, unless its folder is read-only or it is no regular file. Calling again replaces what an
    earlier call set up. Raises BlockingIOError if another process is writing to *log_file*,
    OSError if it cannot be written.
    """
    top, records = logging.getLogger(ROOT), get_logger(FILE_ONLY)
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
    # Where the console is a socket, as under systemd, its path cannot be opened.
    console = {"/dev/stdout": sys.stdout, "/dev/stderr": sys.stderr}.get(str(log_file))
    if console is None and not quiet:
        shown = _Console(console_level)
        shown.setFormatter(OneLineFormatter("%(message)s"))
        top.addHandler(shown)
    if log_file is not None:
        handler = logging.StreamHandler(console) if console else _LogFile(log_file)
        handler.setFormatter(OneLineFormatter("%(asctime)s %(levelname)-8s %(name)s: %(message)s"))
        for logger in (top, records, _warnings):
            logger.addHandler(handler)
    return top


class _ForgivingFile(io.FileIO):
    """A console that may be closed or full: what it does not take is dropped."""

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


def keep_to_owner(path: Path) -> None:
    """Take away other users' rights to *path*, if it is a regular file."""
    # Some file systems have no modes, and the file may be another user's.
    with suppress(OSError):
        mode = path.stat().st_mode
        if stat.S_ISREG(mode) and mode & 0o077:
            path.chmod(0o600)
