"""record.py and the records that are public: fields are attributes and keys, and a record is a dictionary."""

import json
import pickle

import pytest

import fastonline as fo
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


def test_files_show_what_they_are():
    recording = fo.Recording.load("tests/data/recordings/S1.json")
    assert repr(recording).startswith(f"<Recording {recording.name} kernel={recording.kernel} steps=")
    assert repr(next(recording.replay())).startswith("<Step 0 ")
