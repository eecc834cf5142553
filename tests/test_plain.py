"""cost/plain.py: values of TOML and JSON, each read by key, and the key that an error names."""

import copy
import pickle

import pytest

from fastonline.cost.plain import KeyProblem, check_times, integer, number, optional, pairs, read_table, text, truth

READERS = {"name": text, "count": integer, "share": number, "on": truth, "seed": optional(integer), "steps": pairs(integer)}


def test_values_of_every_kind():
    given = {"name": "x", "count": 3, "share": 1, "on": False, "seed": None, "steps": [[1, 2], [2.5, 3]]}
    read = read_table(given, READERS)
    assert read == given | {"steps": ((1.0, 2), (2.5, 3))} and type(read["share"]) is float


@pytest.mark.parametrize("key, value, says", [
    ("name", 3, "expected text, not 3"), ("count", True, "expected a whole number, not True"),
    ("count", 1.0, "expected a whole number, not 1.0"), ("share", "1", "expected a number, not '1'"),
    ("share", False, "expected a number, not False"), ("on", 1, "expected true or false, not 1"),
    ("seed", "x", "expected a whole number, not 'x'"), ("steps", 7, "expected a list of pairs, not 7"),
    ("steps", [[1, 2], [3]], "entry 2 is"), ("steps", [[1, "x"]], "expected a whole number"),
    ("nmae", 1, "'nmae'.*'name'"),
])
def test_what_is_refused_names_its_key(key, value, says):
    with pytest.raises(KeyProblem, match=f"^{key}: .*{says}") as caught:
        read_table({key: value}, READERS)
    assert caught.value.key == key


def test_a_table_inside_a_table():
    outer = {"inner": lambda value: read_table(value, READERS)}
    with pytest.raises(KeyProblem, match=r"^inner\.count: expected a whole number") as caught:
        read_table({"inner": {"count": "x"}}, outer)
    assert caught.value.key == "inner.count"
    with pytest.raises(TypeError, match="expected a table, not 3"):
        read_table(3, outer)


@pytest.mark.parametrize("again", [copy.copy, lambda e: pickle.loads(pickle.dumps(e))])
def test_problems_come_back_from_other_processes(again):
    problem = again(KeyProblem("a.b", "wrong"))
    assert (problem.key, problem.message, str(problem)) == ("a.b", "wrong", "a.b: wrong")


@pytest.mark.parametrize("times, says", [
    ([-1], "-1 is not a time"), ([float("nan")], "nan is not a time"), ([0, float("inf")], "inf is not a time"),
    ([0, 3, 2.5], "2.5 s comes after 3 s"),
])
def test_times(times, says):
    check_times([0, 0, 1.5, 1.5])
    check_times([0, 1.5], distinct=True)
    for same in ([0, 0], [1, 2, 2]):
        with pytest.raises(ValueError, match="two at"):
            check_times(same, distinct=True)
    with pytest.raises(ValueError, match=says):
        check_times(times)
