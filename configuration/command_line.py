"""The options of the command line."""

import argparse
from pathlib import Path

from records.exit_statuses import ExitStatus
from records.run import RunOptions

VERSION = "1.0.0"
DESCRIPTION = (
    "Copy the pro users with recent engagement out of MySQL and deliver each of them to Iterable."
)
AFTER_DEMO = (
    "The results file above shows what was delivered. To use your own data: cp .env.example .env, "
    "fill it in, run python3 main.py --check, then python3 main.py"
)


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Parse the command line; exit with status 2 if it is wrong."""
    statuses = "\n".join(f"  {status:<4} {status.meaning}" for status in ExitStatus)
    parser = argparse.ArgumentParser(
        prog="main.py",
        description=DESCRIPTION,
        epilog=f"exit status:\n{statuses}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--env-file",
        type=Path,
        metavar="PATH",
        help="read the settings from PATH instead of .env beside main.py",
    )
    parser.add_argument(
        "--demo",
        action="store_true",
        help="run the job against a private database and a local Iterable; needs no settings",
    )
    instead = parser.add_mutually_exclusive_group()
    instead.add_argument(
        "--check",
        action="store_true",
        help="check everything a run needs; change nothing",
    )
    instead.add_argument(
        "--dry-run",
        action="store_true",
        help="write the results file with every payload; send nothing",
    )
    instead.add_argument(
        "--report",
        action="store_true",
        help="write report.html from the results files; send nothing",
    )
    parser.add_argument(
        "--bulk",
        action="store_true",
        help="send up to 1000 rows per request: up to 5000 users a second instead of 500",
    )
    parser.add_argument(
        "--limit",
        type=_row_count,
        metavar="N",
        help="send only the first N rows that need sending; with --all, the first N rows",
    )
    parser.add_argument(
        "--all",
        action="store_true",
        help="also send what Iterable already holds; journeys may start again",
    )
    parser.add_argument(
        "--quiet",
        action="store_true",
        help="print nothing, or one line if something needs attention",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {VERSION}")
    return parser.parse_args(argv)


def _row_count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError("must be a whole number, 1 or more")
    return int(text)


def run_options(args: argparse.Namespace) -> RunOptions:
    """Return the options of a run from the command line."""
    return RunOptions(
        bulk=args.bulk,
        dry_run=args.dry_run,
        send_all=args.all,
        limit=args.limit,
        quiet=args.quiet,
        demo=args.demo,
    )
