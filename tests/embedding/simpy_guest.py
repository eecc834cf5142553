"""A guest that grows and shrinks as a SimPy process: what a step costs in pages becomes simulated time."""

import simpy

import fastonline as fo

BLOCK = 0x8000                          # pages of one 128 MiB memory block
NS_A_PAGE = 52                          # what the modelled host takes to plug or unplug one page


def guest(env, mem, host, targets):
    """Follow the targets (blocks plugged); blocks come from and go back to the host's pool."""
    plugged = 0
    for target in targets:
        while plugged < target:
            yield host.get(1)           # until another guest gives one back
            start = 0x40000 + plugged * BLOCK
            mem.add_memory(start, BLOCK)
            yield env.timeout(NS_A_PAGE * mem.online_pages(start, BLOCK, fo.MMOP_ONLINE_MOVABLE))
            plugged += 1
        while plugged > target:
            plugged -= 1
            start = 0x40000 + plugged * BLOCK
            mem.offline_pages(start, BLOCK)
            mem.remove_memory(start, BLOCK)
            yield env.timeout(NS_A_PAGE * BLOCK)
            yield host.put(1)
        print(f"{env.now / 1e6:6.2f} ms  {mem.name} has {mem.totalram_pages * 4096 >> 20} MiB")
        yield env.timeout(2_000_000)    # 2 ms of work


class Guest(fo.Memory):
    """A machine with a name."""

    def __init__(self, name):
        super().__init__(fo.X86_64, boot="1G")
        self.name = name


env = simpy.Environment()
host = simpy.Container(env, capacity=4, init=4)
guests = [Guest("left"), Guest("right")]
for machine, targets in zip(guests, ([3, 0, 1], [1, 3, 0]), strict=True):
    env.process(guest(env, machine, host, targets))
env.run()
for machine in guests:
    machine.validate()
