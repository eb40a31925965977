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

# A command line may have one of these.
COMMANDS = {"--check", "--dry-run", "--report"}
FLAGS = {
    "--demo": "run the job against a private database and a local Iterable; needs no settings",
    "--check": "check everything a run needs; change nothing",
    "--dry-run": "write the results file with every payload; send nothing",
    "--report": "write report.html from the results files; send nothing",
    "--bulk": "send up to 1000 rows per request: up to 5000 users a second instead of 500",
    "--all": "also send what Iterable already holds; journeys may start again",
    "--quiet": "print nothing, or one line if something needs attention",
}


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Parse the command line; exit with status 2 if it is wrong."""
    statuses = "\n".join(f"  {status:<4} {status.meaning}" for status in ExitStatus)
    parser = argparse.ArgumentParser(
        prog="main.py",
        description=DESCRIPTION,
        epilog=f"exit status:\n{statuses}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    text = "read the settings from PATH instead of .env beside main.py"
    parser.add_argument("--env-file", type=Path, metavar="PATH", help=text)
    text = "send only the first N rows that need sending; with --all, the first N rows"
    parser.add_argument("--limit", type=_row_count, metavar="N", help=text)
    commands = parser.add_mutually_exclusive_group()
    for flag, text in FLAGS.items():
        group = commands if flag in COMMANDS else parser
        group.add_argument(flag, action="store_true", help=text)
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
