"""linux/prediction.py: what a replay predicts of each step."""

import copy

from recordings_common import DIRECTORY

from fastonline.linux.recording import Recording


def test_predictions_do_not_look_at_what_was_recorded(engine):
    """Expect the same predictions from a recording whose states, uevents, log and errors are all false."""
    recording = Recording.load(DIRECTORY / "S1m_movable_first.json")
    false = copy.deepcopy(recording)
    for step in false.steps:
        step["uevents"], step["kmsg"], step["errno"] = ["nonsense"], [], "EIO"
        for zone in (step["state"] or {}).get("zones", {}).values():
            zone.update(min=1, managed=7, free=9)
    true, other = list(recording.replay(engine)), list(false.replay(engine))
    assert [(s.predicted, s.errno, s.uevents, s.kmsg) for s in true] == [
        (s.predicted, s.errno, s.uevents, s.kmsg) for s in other
    ]
    assert all(step.differences for step in other)


def test_pages_on_lists_are_remarked(engine):
    """A kernel zone has 100 pages less free than in S1m's second step, all of them on per-CPU lists; or only 30 of them. Expect
    a remark, and a difference."""
    recording = Recording.load(DIRECTORY / "S1m_movable_first.json")
    del recording.steps[1]["reread"]
    zone = recording.steps[1]["state"]["zones"]["0/DMA32"]
    zone.update(free=zone["free"] - 100, pcp_count=zone["pcp_count"] + 100)
    step = list(recording.replay(engine))[1]
    assert [name for name, _, _ in step.remarks] == ["0/DMA32"] and not step.differences
    zone.update(pcp_count=zone["pcp_count"] - 70)
    step = list(recording.replay(engine))[1]
    assert [what for what, _, _ in step.differences] == ["0/DMA32 free (within 64)"] and not step.remarks
