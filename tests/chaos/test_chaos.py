"""The scenarios of run.py in small, so that a change which breaks them shows at once."""

import random

import pytest

from tests.chaos import scenarios
from tests.chaos.world import World, hurried_copy

pytestmark = pytest.mark.program


@pytest.fixture
def world(database, iterable, tmp_path):
    # What differs from run to run is the timing, not the plan.
    with World(database, iterable, tmp_path, random.Random(1)) as world:
        yield world


def test_after_kill_9_nothing_is_lost_and_no_more_sent_again_than_was_in_flight(world):
    assert "none lost" in scenarios.kills(world, count=2, rows=40)


@pytest.mark.parametrize(("kind", "mode"), [("all", "bulk"), ("connections", "per-user")])
def test_through_faults_every_good_row_is_delivered_in_the_end(world, kind, mode):
    world.program = hurried_copy(world.folder / "program")
    scenarios.play(world, kind, mode, 60, world.folder / mode)


def test_a_read_that_breaks_off_sends_nothing(world):
    told = scenarios.database(world, cuts=2, rows=100, may_kill=False)
    if "NOT PLAYED" in told:
        pytest.skip(told)
    assert "read cut 2 times" in told


def test_where_the_disk_is_full_the_run_fails_and_the_next_one_delivers_the_rest(world):
    told = scenarios.disk(world, cases=2, rows=60)
    if "NOT PLAYED" in told:
        pytest.skip(told)
    assert "disk full 2 times" in told
