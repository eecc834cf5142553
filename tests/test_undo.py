"""core/undo: the steps of a change are undone, last one first, when it fails."""

import gc
import weakref

import pytest
from in_process import in_process

from fastonline.core.undo import Undo


@pytest.mark.parametrize("steps", [0, 1, 4, 5, 40])
def test_steps_are_undone_in_reverse(steps):
    """Four steps have room in the object itself; more need memory of their own."""
    undone = []
    with pytest.raises(KeyboardInterrupt), Undo() as undo:
        for i in range(steps):
            undo.add(undone.append, i)
        raise KeyboardInterrupt
    assert undone == list(range(steps))[::-1]


def test_nothing_is_undone_after_success():
    undone = []
    with Undo() as undo:
        undo.add(undone.append, 1)
    assert undone == []


def test_an_inverse_that_raises():
    """Expect the others to be called all the same, its exception to come out, and the first one to be its context."""
    undone = []
    with pytest.raises(ZeroDivisionError) as raised, Undo() as undo:
        undo.add(undone.append, 1)
        undo.add(lambda: 1 // 0)
        undo.add(undone.append, 3)
        raise KeyError("first")
    assert undone == [3, 1]
    assert isinstance(raised.value.__context__, KeyError)


@pytest.mark.parametrize("fails", [False, True])
def test_what_a_step_knows_is_let_go(fails):
    class Known:
        pass
    known = [Known() for _ in range(9)]
    alive = [weakref.ref(one) for one in known]

    def change():
        with Undo() as undo:
            for one in known:
                undo.add(str, one)
            assert not fails
    if fails:
        with pytest.raises(AssertionError):
            change()
    else:
        change()
    known.clear()
    gc.collect()
    assert [one() for one in alive] == [None] * 9


def test_it_can_be_used_again():
    """Expect steps of earlier blocks to be forgotten, whether they failed or not."""
    undone, undo = [], Undo()
    with undo:
        undo.add(undone.append, "done")
    for i in range(2):
        with pytest.raises(KeyError), undo:
            undo.add(undone.append, i)
            raise KeyError(i)
    assert undone == [0, 1]


def test_a_step_that_cannot_be_noted_is_undone_at_once():
    """The fifth step takes memory, and there is none. Expect MemoryError with that step undone, and then the others."""
    testcapi = pytest.importorskip("_testcapi", reason="this Python has no hooks for its allocator")

    def work():
        first, last = [1], [1]
        clear = last.clear
        with pytest.raises(MemoryError), Undo() as undo:
            for _ in range(4):
                undo.add(first.clear)
            add = undo.add
            testcapi.set_nomemory(0, 0)
            try:
                add(clear)
            finally:
                testcapi.remove_mem_hooks()
                assert (first, last) == ([1], [])
        assert first == []

    assert in_process(work) == ""
