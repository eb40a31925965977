"""The scenarios of run.py in small, so that a change which breaks them shows at once."""

import random

import pytest

from tests.chaos import api
from tests.chaos import run as chaos
from tests.chaos.world import World, hurried_copy

pytestmark = pytest.mark.program


@pytest.fixture(scope="module")
def hurried(tmp_path_factory):
    return hurried_copy(tmp_path_factory.mktemp("hurried") / "copy")


@pytest.fixture
def world(database, iterable, tmp_path):
    # What differs from run to run is the timing, not the plan.
    with World(database, iterable, tmp_path, random.Random(1)) as world:
        yield world


@pytest.mark.database
def test_after_kill_9_nothing_is_lost_and_no_more_sent_again_than_was_in_flight(world):
    assert "none lost" in chaos.kills(world, count=2, rows=40)


@pytest.mark.database
@pytest.mark.parametrize("mode", api.MODES)
def test_through_all_faults_at_once_every_good_row_is_delivered_in_the_end(world, mode, hurried):
    world.program = hurried
    told = api.faults_of(world, mode, 30, world.folder / mode, turns=1)
    assert "23 of 23 rows" in told


@pytest.mark.database
@pytest.mark.parametrize(
    ("name", "mode"),
    [("two keys", "per-user"), ("no new fields", "bulk"), ("no new fields", "per-user")],
)
def test_one_kind_of_trouble_alone_is_made_up_for_when_it_is_over(world, name, mode, hurried):
    world.program = hurried
    api.play(world, name, mode, 20, world.folder / "alone")


@pytest.mark.database
def test_a_read_that_breaks_off_sends_nothing(world):
    told = chaos.database(world, cuts=2, rows=100)
    if "NOT PLAYED" in told:
        pytest.skip(told)
    assert "cut 2 times" in told


@pytest.mark.database
def test_where_no_file_may_grow_the_run_fails_and_the_next_one_delivers_the_rest(world):
    world.fill(60)
    world.settings = {"ITERABLE_WORKERS": "2"}
    world.iterable.change(latency_ms=3)
    assert chaos.limited_files(world, 0, after=20, limit=1000) != "0"
