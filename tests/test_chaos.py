"""Killed at random and run again and again: a short piece of what `make chaos` does for long."""

import pytest

import chaos

pytestmark = pytest.mark.root


@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", [1, 2])
def test_killed_at_random_moments(seed: int) -> None:
    chaos.chaos(20, seed, print)


@pytest.mark.timeout(600)
def test_nothing_is_left_of_many_runs() -> None:
    chaos.repeated(60, print)
