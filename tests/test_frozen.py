"""frozen.py: its dataclasses are those of the dataclasses module."""

import copy
import dataclasses
import inspect
import pickle
import subprocess
import sys

import pytest

import fastonline as fo
from fastonline.frozen import dataclass as frozen


class Point:
    x: int
    y: "int | None"
    name: str = "p"
    size: int = 3

    def __post_init__(self):
        if self.x is None:
            raise ValueError("no x")


Ours = frozen(frozen=True, repr=False)(type("Point", (Point,), dict(vars(Point))))
Theirs = dataclasses.dataclass(frozen=True, repr=False)(type("Point", (Point,), dict(vars(Point))))


@pytest.mark.parametrize("args, values", [
    ((1, 2), {}), ((1, 2, "a", 4), {}), ((1,), {"y": 2}), ((), {"name": "b", "y": 2, "x": 1}),
    ((1,), {}), ((), {}), ((1, 2, "a", 4, 5), {}), ((1, 2), {"x": 1}), ((1, 2), {"z": 1}), ((None, 2), {}),
])
def test_made_as_a_dataclass_is(args, values):
    def made(cls):
        try:
            return list(vars(cls(*args, **values)).items())
        except (TypeError, ValueError) as e:
            return type(e)
    assert made(Ours) == made(Theirs)


def test_equal_and_hashed_by_the_fields():
    one = Ours(1, 2)
    assert one == Ours(1, y=2) != Ours(1, 3) and one != Theirs(1, 2) and one != (1, 2, "p", 3)
    assert hash(one) == hash(Ours(y=2, x=1)) == hash(Theirs(1, 2)) != hash(Ours(1, 3))
    assert len({one, Ours(1, 2), Ours(1, 3)}) == 2


def test_frozen():
    one = Ours(1, 2)
    for change in (lambda: setattr(one, "x", 3), lambda: setattr(one, "other", 3), lambda: delattr(one, "x")):
        with pytest.raises(dataclasses.FrozenInstanceError):
            change()
    assert vars(one) == {"x": 1, "y": 2, "name": "p", "size": 3}


def test_signature_and_patterns():
    assert inspect.signature(Ours) == inspect.signature(Theirs)
    assert Ours.__match_args__ == Theirs.__match_args__


@pytest.mark.parametrize("of", [dataclasses.fields, dataclasses.asdict, dataclasses.astuple, dataclasses.is_dataclass])
def test_the_module_knows_them(of):
    def shown(one):
        found = of(one)
        return list(map(str, found)) if of is dataclasses.fields else found
    assert shown(Ours(1, 2)) == shown(Theirs(1, 2))


@pytest.mark.parametrize("one", [fo.X86_64, fo.LINUX_6_12])
def test_the_public_ones(one):
    changed = dataclasses.replace(one, name="mine")
    assert changed != one and dataclasses.asdict(changed) == {**dataclasses.asdict(one), "name": "mine"}
    assert hash(changed) != hash(one) and hash(changed) == hash(dataclasses.replace(one, name="mine"))
    if sys.version_info >= (3, 13):
        assert copy.replace(one, name="mine") == changed
    assert copy.copy(one) == copy.deepcopy(one) == pickle.loads(pickle.dumps(one)) == one
    with pytest.raises(TypeError):
        dataclasses.replace(one, other=3)
    with pytest.raises((TypeError, ValueError)):
        dataclasses.replace(one, name=3)


def test_a_dataclass_may_inherit_from_one():
    @dataclasses.dataclass(frozen=True)
    class More(fo.Geometry):
        extra: int = 3

    more = More(**vars(fo.X86_64), extra=4)
    assert more.extra == 4 and more.page_size == 4096
    assert [field.name for field in dataclasses.fields(More)] == [*vars(fo.X86_64), "extra"]


def test_an_import_compiles_nothing():
    """Nor does it load what only a few calls need."""
    code = ("import sys, numpy; before = set(sys.modules); import fastonline as fo; mem = fo.Memory('X86_64', boot='1G');"
            "print(*sorted(set(sys.modules) - before))")
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "fastonline.hotplug.memory" in loaded
    assert not {"dataclasses", "bisect", "signal", "fastonline.hotplug.invariants", "fastonline.core.audit",
                "fastonline.hotplug.summary", "fastonline.linux", "fastonline.drivers"} & set(loaded)
