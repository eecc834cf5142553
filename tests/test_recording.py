"""linux/recording.py: the format: files that are recordings, hurt ones and those that are none."""

import json
import random

import pytest
from recordings_common import DIRECTORY, with_change
from test_fuzz import mutated_json

from fastonline.linux.recording import Recording, RecordingError


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", "1", '{"format": "memory-hotplug-recording/2"}', '{"format": "memory-hotplug-recording/1"}']
)
def test_no_recording(tmp_path, text):
    path = tmp_path / "bad.json"
    path.write_text(text)
    with pytest.raises(RecordingError, match=r"bad\.json:1: |bad\.json: a recording has 'name'") as error:
        Recording.load(path)
    assert "\n" not in str(error.value)


def test_truncated(tmp_path):
    """Expect the line where the file ends, or where it is no text."""
    path = tmp_path / "short.json"
    start = json.dumps(json.loads((DIRECTORY / "S1.json").read_text()), indent=1).encode()[:5000]
    line = start.count(b"\n") + 1
    for content, message in ((start, "not a recording, or truncated"), (start + b"\xff", "not a text file: byte 0xff"),
                             (start + b"\0", "not a text file: it contains a NUL")):
        path.write_bytes(content)
        with pytest.raises(RecordingError, match=rf"short\.json:{line}: {message}"):
            Recording.load(path)


@pytest.mark.parametrize("change", [
    lambda data: data["steps"][3].update(uevents=7),
    lambda data: data["steps"][3].update(kmsg=[7]),
    lambda data: data["steps"][3].update(state=[]),
    lambda data: data["steps"][3].update(state={"zones": []}),
    lambda data: data["steps"][3].update(pages=[[0, -1, "BUDDY"]]),
    lambda data: data["steps"][3].update(pages=[[1048576, 32768, None]]),
    lambda data: data["steps"][3].update(pages_range=[1048576, 1 << 63]),
    lambda data: data["steps"][3].update(covers_from=99),
    lambda data: data["steps"][3]["state"]["zones"]["0/DMA32"].update(free="many"),
    lambda data: data["steps"][3]["state"]["blocks"].update({"32": 7}),
])
def test_bad_steps_are_named(tmp_path, change, engine):
    with pytest.raises(RecordingError, match=r"changed\.json: step 3: [^\n]*$"):
        list(Recording.load(with_change(tmp_path, change)).replay(engine))


@pytest.mark.parametrize("change", [
    lambda data: data["machine"].update(cpus=1 << 63),
    lambda data: data["machine"].update(virtio_mem=[{"device": "virtio0"}]),
    lambda data: data["initial"]["zones"]["0/DMA32"].update(pcp_count=1 << 40),
    lambda data: data["initial"]["zones"]["0/DMA32"].update(pcp_count=-1),
    lambda data: data["initial"]["zones"].update({"no zone": {}}),
    lambda data: data["initial"]["iomem"].append("0x0-0xffffffffffffffffffff System RAM"),
    lambda data: data["initial"]["blocks"].update({"x": {}}),
])
def test_bad_guests_are_named(tmp_path, change):
    with pytest.raises(RecordingError, match=r"changed\.json: initial: [^\n]*$"):
        Recording.load(with_change(tmp_path, change)).guest()


def test_hurt_recordings(tmp_path):
    """Recordings with values replaced, dropped or nested deep. Expect them replayed, or one line that names the file and
    where."""
    sources = [json.loads((DIRECTORY / f"{name}.json").read_text()) for name in ("S8", "S6m_movable", "S10_numa", "S1_k612")]
    path, refused = tmp_path / "hurt.json", 0
    for seed in range(60):
        rng = random.Random(seed)
        tree = rng.choice(sources)
        at = rng.randrange(len(tree["steps"]))
        step = mutated_json(rng, mutated_json(rng, tree["steps"][at]))
        tree = tree | {"steps": [*tree["steps"][:at], step, *tree["steps"][at + 1 :]]}
        path.write_text(json.dumps(tree if seed % 2 else mutated_json(rng, tree)))
        try:
            list(Recording.load(path).replay(rng.choice(["bitmap", "struct_page"])))
        except RecordingError as e:
            refused += 1
            assert str(e).startswith(f"{path}:") and "\n" not in str(e) and len(str(e)) < 500 + len(str(path))
    assert refused > 20
