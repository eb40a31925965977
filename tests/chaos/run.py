"""Lets everything around the job fail, and asks the sandbox whether the job told the truth.

    python -m tests.chaos.run [--seed N] [--minutes M] [--only kills|faults|database|disk]

main.py runs as a process of its own, between a private database server and the local Iterable. It
is killed, its requests meet faults, each kind alone and all at once, its database dies under its
read, its disk fills. Whatever happens, this holds:

- in the end every row is delivered that can be, and Iterable holds what the database holds;
- then another run has nothing to send;
- no page view is two events, and no event came before its user;
- what a results file says of a row is true, and its counts add up; half a file never shows;
- a row is sent again after a kill only if it was in flight, or not yet recorded.

All that is random comes from the seed. What the processes do in between is theirs: a replay meets
the same failures, but not at the same instruction.
"""

import argparse
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.chaos.scenarios import database, disk, faults, kills
from tests.chaos.world import new_world

SCENARIOS = {each.__name__: each for each in (faults, database, disk, kills)}


def say(line: str) -> None:
    """Print a line at once."""
    print(line, flush=True)  # noqa: T201 - this is a command line


def main(argv: list[str] | None = None) -> int:
    """Run the scenarios; return 1 if the job broke its word in one of them."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.chaos.run", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--seed", type=int, default=random.randrange(10**6), help="(random)")
    parser.add_argument("--minutes", type=float, default=10.0, help="all of them (10)")
    parser.add_argument("--only", choices=SCENARIOS)
    args = parser.parse_args(argv)
    names = [args.only] if args.only else list(SCENARIOS)
    until_s = time.monotonic() + 60 * args.minutes
    say(f"chaos: seed {args.seed}")
    survived = []
    # After one has failed the others are played too, and share the time that is left.
    for number, name in enumerate(names):
        seconds = (until_s - time.monotonic()) / (len(names) - number)
        survived.append(survives(name, args.seed, seconds))
    return int(not all(survived))


def survives(name: str, seed: int, seconds: float) -> bool:
    """Run one scenario and print what came of it; keep what the job wrote if it failed."""
    began_s = time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix=f"chaos-{name}-"))
    try:
        with new_world(folder, random.Random(f"{seed} {name}")) as world:
            # Before the end something is left for the runs that set things right.
            world.deadline_s = began_s + 0.9 * seconds
            told = SCENARIOS[name](world)
    except (AssertionError, ValueError, subprocess.TimeoutExpired) as broken:
        say(f"{name}: BROKEN: {str(broken)[:3000]}\n  what the job wrote: {folder}")
        say(f"  again: python -m tests.chaos.run --seed {seed} --only {name}")
        return False
    shutil.rmtree(folder)
    say(f"{name}: {told} [{time.monotonic() - began_s:.0f} s]")
    return True


if __name__ == "__main__":
    sys.exit(main())
