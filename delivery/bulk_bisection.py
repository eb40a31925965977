"""Finds the bad rows of a batch that Iterable refuses, or fails at, as a whole.

Where an answer leaves rows open they are sent again, fewer at a time, so that the good ones are in
at each step. That is harmless: a profile is merged, and an event keeps its id.

How many requests k bad rows among n take: about log2(n / k) each to find them, and one to judge
each; two each if the answer quotes the bad value. Where every third row is bad, it takes no more
than one for each row.
"""

import itertools
from collections import deque

from delivery.batching import Batch, BatchLimits, packed
from delivery.bulk_verdicts import Endpoint, Finding, Found, Verdicts
from delivery.stopping import Stop
from records.outcomes import CallOutcome, PreparedRow

# Its multiples, taken without their whole numbers, are spread evenly however many there are.
_GOLDEN_RATIO = 0.618034


class Bisection:
    """Finds the outcome of each of *rows*; used once.

    Rows are sent from the front of those that wait. When one of some rows is known to be bad, these
    are the suspects: their first half is sent, then half of the half that must have the bad row,
    until it is alone. The others go back to wait.
    """

    def __init__(self, endpoint: Endpoint, rows: Batch, limits: BatchLimits, stop: Stop) -> None:
        self._verdicts = Verdicts(endpoint, rows, limits, stop)
        self._endpoint = endpoint
        self._limits = limits
        self._waiting = deque(rows)
        self._suspects: Batch = ()
        self._suspects_failed = False
        self._stopped = False
        # From one bad row to the next, as far as it is known; rows taken since the last one.
        self._distance = float(len(rows))
        self._taken = 0
        self._quoted = True
        self._together = False
        self._singles = 0

    def outcomes(self) -> dict[int, CallOutcome]:
        """Send until every row has its outcome or the run is to stop; return them by ``id()``.

        What has not had its turn by then is ``NOT_SENT``, or what the last answer said of it.
        """
        while (self._waiting or self._suspects) and not self._stopped:
            if self._suspects:
                part, rest = halves(self._suspects)
                self._suspects = ()
            else:
                part, rest = self._next_batch(), ()
                self._suspects_failed = False
            self._follow(self._ask(part), rest)
        return self._verdicts.outcomes

    def _ask(self, rows: Batch) -> Finding:
        """Send *rows*, and learn from the answer how many to send next time."""
        finding = self._verdicts.ask(rows)
        found = finding.found
        if found is Found.TAKEN:
            self._taken += len(rows)
        elif found in {Found.JUDGED, Found.QUOTED} or (found is Found.FAILED and not finding.open):
            self._distance = (self._distance + self._taken) / 2
            self._taken = 0
        if found in {Found.QUOTED, Found.REFUSED}:
            self._quoted = found is Found.QUOTED
        self._stopped |= found is Found.STOPPED
        return finding

    def _next_batch(self) -> Batch:
        """Take the rows that are to be sent next from those that wait.

        As many as there usually are from one bad row to the next; half as many if answers do not
        quote the bad value, because then it takes more requests to find it.
        """
        if self._endpoint.may_refuse_all and not self._together:
            return [self._take_from_anywhere()]
        distance = max(self._distance, self._taken)
        most = max(1, int(distance if self._quoted else distance / 2))
        if self._together:
            most, self._together = len(self._waiting), False
        batch = next(packed(itertools.islice(self._waiting, most), self._limits))
        for _ in batch:
            self._waiting.popleft()
        return batch

    def _take_from_anywhere(self) -> PreparedRow:
        """Take one row, the next one from elsewhere: neighbours may be bad for the same reason."""
        self._singles += 1
        place = int(len(self._waiting) * (self._singles * _GOLDEN_RATIO % 1))
        row = self._waiting[place]
        del self._waiting[place]
        return row

    def _follow(self, finding: Finding, rest: Batch) -> None:
        """Decide what becomes of the rows that an answer leaves open, and of the *rest*.

        The rest is the other half, if those that were sent were one.
        """
        if finding.found is Found.TAKEN:
            # Then the bad one is among the rest.
            self._suspects = rest
            return
        # After a failure the other half goes first: its answer shows that Iterable is there, so
        # that a row at the front of its batch does not look like an outage.
        if not (rest and finding.found is Found.FAILED) or self._fails(rest):
            self._wait_again(rest)
        if finding.found is Found.FAILED and not self._suspects_failed:
            self._suspects = self._part_to_search(finding.open)
            self._suspects_failed = True
        elif finding.found in {Found.FAILED, Found.REFUSED}:
            self._suspects = finding.open
            self._suspects_failed = finding.found is Found.FAILED
        else:
            self._wait_again(finding.open)
            # If no row is why, it would be the same for fewer.
            self._together = finding.found is Found.NO_ROW

    def _part_to_search(self, rows: Batch) -> Batch:
        """Return the part of *rows*, which failed together, that has a row that is why."""
        if not rows:
            # It was one alone. Are there others?
            self._together = True
            return ()
        first, second = halves(rows)
        if not self._fails(first):
            return second
        if not self._fails(second):
            return first
        return self._part_if_not_down([first, second])

    def _part_if_not_down(self, parts: list[Batch]) -> Batch:
        """Return what is left of one of the *parts*, which all fail, if a row of it alone does not.

        If a row out of the middle of each fails too, then it is Iterable that is down, or what lies
        between, and more requests would gain nothing.
        """
        to_search: list[Batch] = []
        unclear: list[Batch] = []
        for part in parts:
            middle = len(part) // 2
            others = [*part[:middle], *part[middle + 1 :]]
            fails = not others or self._fails(part[middle : middle + 1])
            (unclear if fails else to_search).append(others)
        if not to_search:
            self._together = True
            return ()
        for rest in [*to_search[1:], *unclear]:
            self._wait_again(rest)
        return to_search[0]

    def _fails(self, rows: Batch) -> bool:
        """Send some of the rows; return whether nothing was settled."""
        finding = self._ask(rows)
        failed = finding.found is Found.FAILED
        if not failed:
            self._wait_again(finding.open)
        return failed

    def _wait_again(self, rows: Batch) -> None:
        self._waiting.extendleft(reversed(rows))


def halves(rows: Batch) -> tuple[Batch, Batch]:
    """Return the two halves of *rows*; the first is the larger one if there is one."""
    middle = (len(rows) + 1) // 2
    return rows[:middle], rows[middle:]
