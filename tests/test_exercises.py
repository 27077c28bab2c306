"""Every exercise of the course: its solution earns all points, its stub none, each wrong solution fails for its reason.

The rules are in scripts/exercises.py, which says the same to whoever writes an exercise.
"""

import os

import pytest

from exercises import FEWEST, Wrong, failures, fault_together, wrong_solutions
from minidocker.course import catalogue, generate
from minidocker.course.catalogue import Exercise
from minidocker.course.judge import judge
from minidocker.standins import find

PROJECT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
COURSE = catalogue.load(PROJECT)
EXERCISES = [pytest.param(each, id=f"{each.section}-{each.name}") for each in COURSE.exercises]
BECOMING = [pytest.param(each, id=each.name) for each in COURSE.exercises if each.replaces]
WRONG = [
    pytest.param(exercise, wrong, id=f"{exercise.section}-{exercise.name}-{wrong.name}".replace(" ", "-"))
    for exercise in COURSE.exercises
    for wrong in wrong_solutions(PROJECT, exercise)
]


@pytest.mark.parametrize("exercise", EXERCISES)
def test_the_solution_earns_all_points(exercise: Exercise) -> None:
    verdict = judge(exercise, exercise.solution)
    assert verdict.passed, failures(verdict)


@pytest.mark.parametrize("exercise", EXERCISES)
def test_the_stub_earns_none(exercise: Exercise) -> None:
    verdict = judge(exercise, exercise.stub)
    assert not verdict.written
    assert [test.name for test in verdict.tests if test.earned] == []


@pytest.mark.parametrize(("exercise", "wrong"), WRONG)
def test_a_wrong_solution_fails_and_its_mistake_is_named(exercise: Exercise, wrong: Wrong) -> None:
    verdict = judge(exercise, wrong.made_of(exercise.solution))
    assert not verdict.passed
    assert any(wrong.says in test.message for test in verdict.tests if not test.earned), failures(verdict)


@pytest.mark.parametrize("exercise", EXERCISES)
def test_an_exercise_has_what_it_needs(exercise: Exercise) -> None:
    assert len(wrong_solutions(PROJECT, exercise)) >= FEWEST
    assert 2 <= len(exercise.tests) <= 5
    assert exercise.hints and exercise.reads


@pytest.mark.parametrize("exercise", BECOMING)
def test_what_an_exercise_becomes_is_there_and_is_not_asked_for_its_own_answer(exercise: Exercise) -> None:
    _, name, engines = find(exercise.replaces)
    assert callable(engines) or isinstance(engines, (staticmethod, classmethod, property)), exercise.replaces
    assert f"def {name}(" in exercise.solution, f"the solution defines no function {name}"


@pytest.mark.parametrize("section", sorted({each.section for each in COURSE.exercises}))
def test_a_notebook_runs_from_top_to_bottom_in_one_process(section: str) -> None:
    assert fault_together(f"{PROJECT}/solutions/{section}.ipynb") == ""


def test_the_learners_notebooks_are_what_the_solutions_make_of_them() -> None:
    drifted = generate.drifted(f"{PROJECT}/solutions", f"{PROJECT}/exercises")
    assert drifted == [], "run 'make exercises'"


def test_wrong_solutions_are_of_exercises_that_there_are() -> None:
    import tomllib

    folder = f"{PROJECT}/solutions/wrong"
    for file in sorted(os.listdir(folder)) if os.path.isdir(folder) else []:
        with open(f"{folder}/{file}", "rb") as opened:
            for name in tomllib.load(opened):
                assert f"{COURSE.get(name).section}.toml" == file
