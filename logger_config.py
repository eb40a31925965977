"""Where log lines go: a short console for people, a full rotating file for the record."""

import errno
import fcntl
import functools
import io
import logging
import logging.handlers
import os
import select
import stat
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TextIO

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

ConsoleGuard = Callable[[], AbstractContextManager[None]]

# Our loggers hang below this one, so that the libraries' debug lines stay out.
ROOT = "iterable_sync"
# What is logged here goes to the file alone: the lines of single records, when there are many.
FILE_ONLY = "iterable_sync.records"
MAX_BYTES = 10 * 1024 * 1024
OLD_FILES = 5
LINES_BETWEEN_LOOKS = 100
# So long, in all, may one console, pipe or terminal keep a run waiting that has to be read.
PATIENCE_S = 1.0
# What a pipe with any room in it takes without waiting.
CHUNK_BYTES = 4096
LOOK_AGAIN_S = 0.01

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


class PatientFile(io.RawIOBase):
    """Writes to *descriptor*, and never waits for longer than ``PATIENCE_S`` for who reads it.

    What cannot be written is dropped, and ``failure`` says why; if *strict*, that is raised.
    """

    def __init__(self, descriptor: int, *, strict: bool = False) -> None:
        self.failure = ""
        self._descriptor = descriptor
        self._out = _without_waiting(descriptor)
        self._strict = strict
        self._patience_s = PATIENCE_S

    def writable(self) -> bool:
        """Whether it can be written to."""
        return True

    def fileno(self) -> int:
        """Return the descriptor."""
        return self._descriptor

    def isatty(self) -> bool:
        """Whether it is a terminal."""
        return os.isatty(self._descriptor)

    def close(self) -> None:
        """Close what is its own, so none of the three that belong to the process."""
        if not self.closed:
            for own in {self._descriptor, self._out} - {0, 1, 2}:
                os.close(own)
        super().close()

    def write(self, data: "ReadableBuffer", /) -> int:
        """Write *data*; return its size in bytes, also when some of it is dropped.

        Raises:
            OSError: it cannot be written, or nobody reads it; only if strict.

        """
        size = len(rest := memoryview(data).cast("B"))
        try:
            while rest:
                rest = rest[self._write_some(rest[:CHUNK_BYTES]) :]
        except OSError as error:
            self.failure = error.strerror or type(error).__name__
            if self._strict:
                raise
        return size

    def _write_some(self, part: memoryview) -> int:
        look = select.poll()
        look.register(self._out, select.POLLOUT)
        while True:
            began_s = time.monotonic()
            if look.poll(1000 * max(0.0, self._patience_s)):
                # A terminal may have room, and not enough for a line's end.
                with suppress(BlockingIOError):
                    return os.write(self._out, part)
                time.sleep(LOOK_AGAIN_S)
            self._patience_s -= time.monotonic() - began_s
            if self._patience_s <= 0:
                raise TimeoutError(errno.ETIMEDOUT, "nobody reads it")


def _without_waiting(descriptor: int) -> int:
    """Return a descriptor for the same terminal or pipe on which writing never waits.

    The one that is there is shared with other programs, and must stay as it is. It is returned for
    everything else, and where there is no better one.
    """
    try:
        if os.isatty(descriptor):
            name = os.ttyname(descriptor)
        elif stat.S_ISFIFO(os.fstat(descriptor).st_mode):
            name = f"/proc/self/fd/{descriptor}"
        else:
            return descriptor
        return os.open(name, os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError:
        return descriptor


def one_line(text: str) -> str:
    """Return *text* with escapes for what would end a line or steer a terminal."""
    return text.translate(_CONTROLS)


class OneLineFormatter(logging.Formatter):
    """Formats every message as one line, with UTC times; a traceback follows on its own lines."""

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: ARG002, N802
        """Return the time of *record* as 2026-01-13T14:30:45.123Z."""
        return f"{_utc_second(int(record.created))}.{int(record.msecs):03}Z"

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        """Return the line of *record* with control characters escaped."""
        record.message = one_line(record.message)
        return super().formatMessage(record)


@functools.lru_cache(maxsize=2)
def _utc_second(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))


class _RotatingFile(logging.handlers.RotatingFileHandler):
    """Looks only now and then whether to rotate: the look costs more than the line.

    The file is locked as long as it is open, because of two who rotate one file each loses lines of
    the other. Raises BlockingIOError when it is another's.
    """

    _lines = 0
    _failed = False

    def _open(self) -> io.TextIOWrapper:
        stream = super()._open()
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            # While rotating, a moment after the other has come, there is no way back.
            if not self._lines:
                stream.close()
                raise
        except OSError:
            pass  # not every file system can lock
        return stream

    def shouldRollover(self, record: logging.LogRecord) -> bool:  # noqa: N802 - logging's name
        self._lines += 1
        return bool(self._lines % LINES_BETWEEN_LOOKS == 1 and super().shouldRollover(record))

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: ARG002, N802 - logging's name
        if not self._failed:
            self._failed = True
            _tell_of_lost_lines()


class _NoRegularFile(logging.StreamHandler[TextIO]):
    """Writes to a device or a pipe, which is not to be renamed, cut short or waited for."""

    _failed = False

    def __init__(self, path: Path) -> None:
        flags = os.O_WRONLY | os.O_APPEND | os.O_NONBLOCK | os.O_NOCTTY
        file = PatientFile(os.open(path, flags), strict=True)
        super().__init__(_text_file(file, "utf-8"))

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: ARG002, N802 - logging's name
        if not self._failed:
            self._failed = True
            _tell_of_lost_lines()

    def close(self) -> None:
        super().close()
        self.stream.close()


def _tell_of_lost_lines() -> None:
    """Say that the log has gaps; logging would print each lost line, values and all."""
    error = sys.exc_info()[1]
    reason = getattr(error, "strerror", None) or type(error).__name__
    get_logger(__name__).error("LOG_FILE is missing lines: %s. The job goes on", reason)


class _Console(logging.StreamHandler[TextIO]):
    """A console that nobody reads any more must not end the run, nor get a traceback a line."""

    # Steps aside for a line, where something else is being shown.
    guard: ClassVar[ConsoleGuard] = nullcontext

    def emit(self, record: logging.LogRecord) -> None:
        with _Console.guard():
            super().emit(record)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        pass


# Where Python's own warnings go.
_warnings = logging.getLogger("py.warnings")


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
        BlockingIOError: another process is writing to *log_file*.
        OSError: *log_file* cannot be written.

    """
    top, records = logging.getLogger(ROOT), logging.getLogger(FILE_ONLY)
    for logger in (top, records, _warnings):
        for old in logger.handlers[:]:
            logger.removeHandler(old)
            old.close()
        logger.setLevel(logging.DEBUG)
        logger.propagate = False
    # Python itself prints the lines of a logger that has no handler.
    top.addHandler(logging.NullHandler())
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


def open_console() -> None:
    """Make sure that nothing of a run depends on who reads its output, or whether anybody does.

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
            encoding = stream.encoding if stream else "utf-8"
            setattr(sys, name, _text_file(PatientFile(descriptor), encoding))


def note_lost_output() -> None:
    """Tell the log file if the console did not take all that was said."""
    for name in ("stdout", "stderr"):
        file = getattr(getattr(sys, name), "buffer", None)
        if isinstance(file, PatientFile) and file.failure:
            text = "The console, %s, did not take all lines: %s"
            get_file_logger().warning(text, name, file.failure)


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


def _console_handlers(level: str) -> list[logging.Handler]:
    out = _Console(sys.stdout)
    out.addFilter(lambda record: record.levelno <= logging.INFO)
    err = _Console(sys.stderr)
    err.addFilter(lambda record: record.levelno > logging.INFO)
    for handler in (out, err):
        handler.setLevel(level)
        handler.setFormatter(_ConsoleFormatter("%(message)s"))
    return [out, err]


def _file_handler(path: Path) -> logging.Handler:
    path.parent.mkdir(parents=True, exist_ok=True)
    handler: logging.Handler
    if path.exists() and not path.is_file():
        handler = _NoRegularFile(path)
    else:
        handler = _RotatingFile(path, maxBytes=MAX_BYTES, backupCount=OLD_FILES, encoding="utf-8")
        for each in (path, *(Path(f"{path}.{n}") for n in range(1, OLD_FILES + 1))):
            keep_to_owner(each)
    handler.setFormatter(OneLineFormatter("%(asctime)s %(levelname)-8s %(name)s: %(message)s"))
    return handler


def _text_file(file: PatientFile, encoding: str) -> TextIO:
    raw: Any = file  # for the types it would have to be readable
    # A console that cannot show ✓ or a name shows an escape in its place.
    return io.TextIOWrapper(raw, encoding, "backslashreplace", write_through=True)
