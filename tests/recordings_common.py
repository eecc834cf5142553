"""What the tests of recordings share: changing one, and replaying ops that a test makes up."""

import json
from pathlib import Path

from fastonline.linux.recording import Recording

DIRECTORY = Path(__file__).parent / "data" / "recordings"


def with_change(tmp_path, change):
    data = json.loads((DIRECTORY / "S1.json").read_text())
    change(data)
    path = tmp_path / "changed.json"
    path.write_text(json.dumps(data))
    return path


def replayed(tmp_path, name, steps, engine="struct_page"):
    """The steps of a recording that begins as `name` and goes on with these ops, nothing recorded of what followed."""
    data = json.loads((DIRECTORY / f"{name}.json").read_text())
    nothing = {"errno": None, "uevents": None, "kmsg": None, "state": None}
    data["steps"] = [nothing | step for step in steps]
    path = tmp_path / f"{name}_other.json"
    path.write_text(json.dumps(data))
    return list(Recording.load(path).replay(engine))


def dimm(block, nr=1, **more):
    return {"op": "add_memory", "dimm": f"d{block}", "start": block << 27, "size": nr << 27, "nid": 0} | more


def write(block, word):
    return {"op": "write_state", "block": block, "word": word}
