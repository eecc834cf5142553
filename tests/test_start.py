"""linux/start.py: the machine that a recording starts with."""

import json

import pytest
from recordings_common import DIRECTORY, with_change

from fastonline.linux.recording import Recording, RecordingError


def test_machine_is_that_of_the_start(engine):
    recording = Recording.load(DIRECTORY / "S1.json")
    mem = recording.machine(engine)
    mem.validate()
    zone = recording.data["initial"]["zones"]["0/DMA32"]
    assert list(mem.zones["DMA32"].nr_free) == zone["nr_free"]
    assert mem.zones["DMA32"].managed_pages == zone["managed"] and mem.zones["DMA32"].present_pages == zone["present"]
    assert mem.min_free_kbytes == recording.data["initial"]["min_free_kbytes"]


def test_a_kernel_without_memory_blocks(tmp_path):
    """A 32-bit kernel without CONFIG_MEMORY_HOTPLUG. Expect every step counted and named, none replayed."""
    recording = Recording.load(with_change(tmp_path, lambda data: data.pop("block_size")))
    steps = list(recording.replay())
    assert [step.index for step in steps] == list(range(9)) and steps[0].op == "add_memory"
    assert not any(step.replayed or step.compared for step in steps) and "no memory blocks" in steps[0].reason
    with pytest.raises(RecordingError, match="no memory blocks"):
        recording.machine()


@pytest.mark.parametrize("block", [1 << 31, 1 << 36])
def test_a_machine_of_a_line(tmp_path, block):
    """256 GiB by one line of iomem, in a few large blocks. Expect a refusal before descriptors are made for them."""
    def change(data):
        initial = data["initial"]
        last = max(nr for nr, line in enumerate(initial["iomem"]) if "System RAM" in line)
        initial["iomem"][last] = f"{initial['iomem'][last].partition('-')[0]}-0x{(1 << 38) - 1:x} System RAM"
        initial["blocks"] = dict.fromkeys(map(str, range((1 << 38) // block)), initial["blocks"]["0"])
        data["block_size"] = block

    with pytest.raises(RecordingError, match="pages: a recording has at most"):
        Recording.load(with_change(tmp_path, change)).machine("struct_page")


@pytest.mark.parametrize("change", [
    lambda data: data["initial"].pop("zones"),
    lambda data: data["initial"]["zones"]["0/DMA32"].update(managed=10**9),
    lambda data: data["initial"]["zones"]["0/DMA32"].update(nr_free=[0] * 10 + [10**6]),
    lambda data: data["initial"].update(iomem=["nonsense"]),
    lambda data: data.update(kernel="2.4.18"),
    lambda data: data.update(block_size=12345),
])
def test_bad_starts_are_named(tmp_path, change):
    with pytest.raises(RecordingError, match=r"changed\.json"):
        Recording.load(with_change(tmp_path, change)).machine()


def test_a_watermark_boost_is_taken_over(tmp_path):
    """A state shows watermarks that are boosted; then a block goes online. Expect min_free_kbytes from the high marks with the
    boost (high_wmark_pages), and the watermarks themselves compared without it."""
    data = json.loads((DIRECTORY / "S1_k612.json").read_text())
    plain = data["steps"][:2]
    zone = plain[0]["state"]["zones"]["0/DMA32"]
    zone.update(boost=958, min=zone["min"] + 958, low=zone["low"] + 958, high=zone["high"] + 958)
    path = tmp_path / "boost.json"
    path.write_text(json.dumps(data | {"steps": plain}))
    first, second = Recording.load(path).replay()
    assert not [what for what, _, _ in first.differences if "min" in what or "high" in what]
    kb = plain[1]["state"]["min_free_kbytes"]
    assert kb - 15 < second.predicted["min_free_kbytes"] < kb
