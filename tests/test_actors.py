"""cost/actors.py: what a guest's own work costs, and the host's other guests."""


from fastonline.cost.actors import Others
from fastonline.cost.scenario import Scenario
from fastonline.drivers.driver import NEVER
from fastonline.drivers.hypervisor import Host

MIB, GIB = 1 << 20, 1 << 30


def test_other_guests_take_what_there_is():
    """One guest of 64 MiB from 5 s on, 128 MiB from 15 s on, on a host with frames for 96 MiB. Expect the missing ones to be
    asked for again after a second, and all given back in the end."""
    given = Scenario.from_dict({
        "name": "x", "boot": "16M", "host": "96M", "steps": [[1, "16M"]],
        "others": [{"name": "b", "steps": [[5, "64M"], [15, "128M"], [35, "0"]]}],
    })
    others = Others(given, Host("96M"))
    seen = []
    for now in (0.0, 5.0, 15.0, 35.0):
        others.work(now)
        seen.append((others.pages * 4096 // MIB, others.due))
    assert seen == [(0, 5.0), (64, 15.0), (96, 16.0), (0, NEVER)]
