"""record.py and the records that are public: fields are attributes and keys, and a record is a dictionary."""

import json
import pickle

import pytest

import fastonline as fo
from fastonline.hotplug.stats import Stats
from fastonline.record import Record


class Nested(Record):
    __slots__ = ()

    number: int
    part: Record
    parts: list[Record]


def nested():
    return Nested(number=1, part=Record(a=2), parts=[Record(b=3), Record(b=4)])


def test_attributes_and_keys_are_one():
    record = nested()
    record["number"] = 7
    assert record.number == record["number"] == 7 and record.parts[1].b == 4
    assert {"number", "part", "as_dict"} <= set(dir(record))
    assert repr(record) == "Nested(number=7, part=Record(a=2), parts=[Record(b=3), Record(b=4)])"


def test_unknown_names():
    with pytest.raises(AttributeError, match="'Nested' object has no attribute 'numbr'"):
        print(nested().numbr)
    with pytest.raises(AttributeError):
        nested().numbr = 3
    with pytest.raises(KeyError):
        print(nested()["numbr"])


def test_as_dict_is_plain_and_shares_nothing():
    record = nested()
    plain = record.as_dict()
    assert plain == record == {"number": 1, "part": {"a": 2}, "parts": [{"b": 3}, {"b": 4}]}
    assert {type(plain), type(plain["part"]), type(plain["parts"][0])} == {dict}
    plain["parts"][0]["b"] = 9
    assert record.parts[0].b == 3


@pytest.mark.parametrize("again", [lambda r: pickle.loads(pickle.dumps(r)), lambda r: json.loads(json.dumps(r))])
def test_copies(again):
    assert again(nested()) == nested()


def test_stats(make_machine):
    stats = make_machine().stats()
    assert type(stats) is Stats and list(stats) == list(Stats.__annotations__)
    assert stats.merges is stats["merges"] and stats.pages_onlined == stats["pages_onlined"] == 0
    assert type(stats.as_dict()) is dict and stats.as_dict() == stats


def test_results_have_named_fields(tmp_path, monkeypatch):
    """Each result is a record of its own class, whose annotations are its keys."""
    from fastonline.cost.against import Ratio, against
    from fastonline.cost.scale import Bend, FirstTouch, Scale, Size, bend, scale, touch_memmap
    from fastonline.cost.scenario import scenario
    from fastonline.cost.sweep import Estimate, Group, grid, summary, sweep
    from fastonline.drivers.hypervisor import Host, ResidentDomain
    from fastonline.drivers.virtio_balloon import BalloonStats, VirtioBalloonDriver

    def check(record, cls, keys=None):
        assert type(record) is cls and set(record) == set(keys or cls.__annotations__)
        assert type(record.as_dict()) is dict and record.as_dict().keys() == record.keys() and json.dumps(record)

    measured = scale(["bitmap"], (17, 18, 19), 1)
    check(measured, Scale)
    check(measured.rows[0], Size, Size.__annotations__.keys() - {"skipped"})
    check(bend(measured, "bitmap"), Bend)
    monkeypatch.setattr("fastonline.cost.scale.available_bytes", lambda: 0)
    check(scale(["bitmap"], (17,), 1).rows[0], Size, {"engine", "order", "pages", "skipped"})
    check(touch_memmap(1 << 15, repeat=1)[0], FirstTouch)
    profile = {"geometry": 0, "rules": 0, "section": 0, "nr_pages": 0, "boot": 0, "calls": [],
               "rows": [{"engine": "bitmap", "workload": "random", "times": [5, 6, 7]}]}
    check(against(profile, profile)[0], Ratio)
    out = tmp_path / "rows.jsonl"
    sweep(grid(scenario("thread"), {}, ["split"], 2), out=out)
    (group,) = summary(out, ["grown_bytes"])
    check(group, Group, {*Group.__annotations__, "grown_bytes"})
    assert group.grown_bytes == Estimate(512 << 20, 0.0, True) and group.n == 2
    assert group.as_dict()["grown_bytes"] == {"mean": 512 << 20, "interval": 0.0, "equal": True}
    mem = fo.Memory("x86_64", boot="64M")
    domain = ResidentDomain(Host("1G"))
    check(VirtioBalloonDriver(mem, domain).stats(), BalloonStats)


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


def test_files_show_what_they_are():
    recording = fo.Recording.load("tests/data/recordings/S1.json")
    assert repr(recording).startswith(f"<Recording {recording.name} kernel={recording.kernel} steps=")
    assert repr(next(recording.replay())).startswith("<Step 0 ")


def test_html_for_notebooks():
    mem = fo.Memory("x86_64", boot="1G")
    for thing in (mem, mem.zones):
        html = thing._repr_html_()
        assert html.count("<tr>") == 3 and "<td>0/DMA32</td>" in html and "<th>free_pages</th>" in html
