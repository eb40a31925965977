"""Time that passes faster, so that no test waits on real backoff."""

import time

import pytest

import iterable_client
from iterable_api import limiter


class Brisk:
    """Takes the place of the module time; a second takes a *speed*-th of one."""

    def __init__(self, speed: float) -> None:
        self.speed = speed

    def monotonic(self) -> float:
        """Return the time that has passed here."""
        return self.speed * time.monotonic()

    def sleep(self, seconds: float) -> bool:
        """Sleep; return False, as a run that goes on does."""
        time.sleep(seconds / self.speed)
        return False


def hurry(monkeypatch: pytest.MonkeyPatch, speed: float) -> Brisk:
    """Let time pass faster for the client and its limiters."""
    brisk = Brisk(speed)
    for module in (iterable_client, limiter):
        monkeypatch.setattr(module, "time", brisk)
    return brisk
