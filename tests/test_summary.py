"""hotplug/summary.py: a machine in one line, and as HTML for notebooks."""

import fastonline as fo


def test_every_object_that_a_user_meets_shows_its_state_in_a_line(tmp_path):
    from fastonline.cost.compare import run_one
    from fastonline.cost.scenario import scenario
    from fastonline.drivers.consumers import Container, Ehea, Udev
    from fastonline.drivers.dimm import Dimms
    from fastonline.drivers.hypervisor import Domain, Host
    from fastonline.drivers.virtio_balloon import VirtioBalloon
    from fastonline.drivers.virtio_mem import VirtioMem, VirtioMemBus
    from fastonline.drivers.xen import XenBalloon

    mem = fo.Memory("x86_64", boot="1G", rules="v6.12")
    other = fo.Memory(fo.X86_64, boot="1G")
    domain = Domain(Host("4G"), "1G", max_memory="2G")
    xen = XenBalloon(mem, domain)
    xen.set_target("512M")
    bus = VirtioMemBus(other)
    bus.add(VirtioMem(other, 4 << 30, 1 << 30, 2 << 20))
    for thing, words in [
        (fo.X86_64, "X86_64 page=4K section=128M"), (fo.LINUX_6_12, "6.12"), (mem, "X86_64 engine=bitmap"),
        (mem.sections, "present=8 online=8 early=8"), (mem.blocks, "0-7"), (mem.blocks[2], "0x10000-0x17fff online"),
        (other.notifiers, "callbacks=0"), (other.events, "listeners=0"), (mem.resources, "ram=1"), (mem.flags, "PG_reserved"),
        (fo.MovablePages(mem), "pages=0"), (xen, "6.18 current=262144 target=131072 balloon=0"),
        (Dimms(mem, domain), "dimms=0"), (VirtioBalloon(mem), "pages=0"), (Ehea(mem), "vetoes=0"), (bus, "virtio0"),
        (bus.devices["virtio0"], "size=1G plugged=0"), (Container(mem, 1, [(0x40000, 0x8000)]), "node=1 dimms=1"),
        (Udev(mem), "events=0"), (run_one(scenario("thread"), "split"), "split grown="),
    ]:
        text = repr(thing)
        assert text.startswith(f"<{type(thing).__name__} ") and text.endswith(">") and "\n" not in text, text
        assert all(word in text for word in words.split()) and " at 0x" not in text and len(text) < 128, text


def test_html_for_notebooks():
    mem = fo.Memory("x86_64", boot="1G")
    for thing in (mem, mem.zones):
        html = thing._repr_html_()
        assert html.count("<tr>") == 3 and "<td>0/DMA32</td>" in html and "<th>free_pages</th>" in html
