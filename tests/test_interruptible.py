"""hotplug/interruptible.pyx: calls of several steps in which no other thread's call comes in between."""

import threading

import pytest

import fastonline as fo
from fastonline.hotplug.interruptible import exclusive, uninterrupted


class Driver:
    """Two steps, between which another thread is let run."""

    def __init__(self, mem):
        self.mem = mem
        self.seen = []

    def two_steps(self, ready, other):
        self.seen.append(self.mem.zones["DMA32"].free_pages)
        ready.set()
        other.join(0.2)      # it waits for the machine
        self.seen.append(self.mem.zones["DMA32"].free_pages)

    held = exclusive(two_steps)
    quiet = uninterrupted(two_steps)


@pytest.mark.parametrize("name", ["held", "quiet"])
def test_other_threads_wait_for_the_whole_call(engine, name):
    mem = fo.Memory(fo.X86_64, boot="128M", engine=engine)
    driver, ready = Driver(mem), threading.Event()

    def take():
        ready.wait()
        mem.alloc_pages_bulk(1000, zone="DMA32")

    other = threading.Thread(target=take)
    other.start()
    getattr(driver, name)(ready, other)
    other.join()
    assert driver.seen[0] == driver.seen[1] == mem.zones["DMA32"].free_pages + 1000


@pytest.mark.parametrize("wrap", [exclusive, uninterrupted])
def test_names_results_and_exceptions_go_through(engine, wrap):
    class Other:
        def __init__(self, mem):
            self._mem = mem

        @wrap
        def divide(self, a, *, by):
            """Divide."""
            return a / by

    other = Other(fo.Memory(fo.X86_64, boot="128M", engine=engine))
    assert other.divide(6, by=3) == 2 and Other.divide.__doc__ == "Divide." and Other.divide.__name__ == "divide"
    with pytest.raises(ZeroDivisionError):
        other.divide(1, by=0)
    other._mem.alloc_pages()      # it is not held any more
