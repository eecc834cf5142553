"""hotplug/stats.py: the counts of a machine by name."""

from fastonline.hotplug.stats import Stats


def test_stats(make_machine):
    stats = make_machine().stats()
    assert type(stats) is Stats and list(stats) == list(Stats.__annotations__)
    assert stats.merges is stats["merges"] and stats.pages_onlined == stats["pages_onlined"] == 0
    assert type(stats.as_dict()) is dict and stats.as_dict() == stats
