"""cost.counters: the software events, which every kernel has, go the whole way; hardware events as far as the machine has
them."""

import errno
import json

import pytest

import fastonline.cost.profile
from fastonline import cli
from fastonline.cost import counters
from fastonline.cost.counters import ADVICE, HARDWARE, SOFTWARE, Counters, explain, scaled
from fastonline.cost.profile import profile
from fastonline.cost.report import profile_text

NOBODY = (99, 0)    # an event of no PMU: type 99 is nobody's


def software():
    """Counters of the software events, where the kernel lets this process have them."""
    try:
        return Counters(SOFTWARE)
    except OSError as e:
        pytest.skip(e.strerror)


@pytest.fixture
def group():
    with software() as group:
        yield group


def busy(n):
    return sum(range(n))


def test_group_counts_the_call(group):
    assert group.events == list(SOFTWARE)
    assert group.missing == {}
    result, counts, share = group.count(busy, (200_000,))
    assert result == busy(200_000)
    assert counts["task clock"] > 0
    assert share == 1


def test_what_is_outside_of_the_call_is_not_counted(group):
    before = group.read()
    busy(200_000)
    assert group.read() == before
    group.count(busy, (1000,))
    assert group.read() > before


def test_counting_goes_on_after_an_exception(group):
    with pytest.raises(ZeroDivisionError):
        group.count(divmod, (1, 0))
    stopped = group.read()
    busy(1000)
    assert group.read() == stopped


def test_calibrate_takes_a_call_off(group):
    group.calibrate(busy, (100_000,))
    assert group.empty["task clock"] > 0
    assert group.count(len, ((),))[1]["task clock"] == 0


def test_closed():
    group = software()
    group.close()
    group.close()
    with pytest.raises(ValueError, match="closed"):
        group.count(busy, (1,))


def test_events_that_cannot_be_had_are_named():
    with pytest.raises(OSError, match="ENOENT: this machine has no such counters") as e:
        Counters({"nobody's": NOBODY})
    assert e.value.errno == errno.ENOENT
    software().close()
    with Counters({"nobody's": NOBODY, **SOFTWARE}) as group:
        assert group.events == list(SOFTWARE)
        assert group.missing == {"nobody's": explain(errno.ENOENT)}
        assert group.count(busy, (1000,))[1].keys() == SOFTWARE.keys()


def test_nothing_asked_for():
    with pytest.raises(OSError, match="EINVAL"):
        Counters({})


@pytest.mark.parametrize(("number", "what"), [
    (errno.ENOENT, "virtual machine"),
    (errno.EACCES, "perf_event_paranoid"),
    (errno.EPERM, "seccomp"),
    (errno.ENOSYS, "CONFIG_PERF_EVENTS"),
    (errno.EIO, "Input/output error"),
])
def test_every_refusal_says_what_to_do(number, what):
    text = explain(number)
    assert text.startswith(errno.errorcode[number] + ": ")
    assert what in text
    assert "\n" not in text
    assert all("\n" not in advice for advice in ADVICE.values())


@pytest.mark.parametrize(
    ("count", "enabled", "running", "value"), [(100, 50, 50, 100), (100, 50, 25, 200), (0, 50, 0, 0), (7, 0, 0, 0)]
)
def test_multiplexed_counts_are_scaled_up(count, enabled, running, value):
    assert scaled(count, enabled, running) == value


# -- in a profile

def steady(result):
    """The result without the hiccups of a busy machine, whose figures are wider than a column."""
    for row in result["rows"]:
        for times in (row["ns_per_page"], row["ns"]):
            times["spread"] = times["median"] = times["min"]
    return result


def test_profile_with_counters():
    software().close()
    result = profile(repeat=2, counters=SOFTWARE | {"nobody's": NOBODY})
    assert result["counters"] == {"events": list(SOFTWARE), "missing": {"nobody's": explain(errno.ENOENT)}, "unavailable": None}
    for row in result["rows"]:
        assert row["counts"].keys() == SOFTWARE.keys()
        assert row["counted"] == 1
        if row["workload"] in ("ascending", "random"):
            assert row["counts"]["task clock"]["min"] > 0
    assert json.loads(json.dumps(result)) == result
    text = profile_text(steady(result))
    assert "counted a page" in text
    assert "no nobody's: ENOENT" in text
    assert "scaled" not in text
    assert max(map(len, text.splitlines())) <= 120
    for row in result["rows"]:
        row["counted"] = 0.5
    assert "no less than 50% of a run" in profile_text(result)


def test_profile_without_counters():
    result = profile(engines=["bitmap"], repeat=1)
    assert result["counters"] is None
    assert all(row["counts"] == {} and row["counted"] is None for row in result["rows"])
    assert "counte" not in profile_text(result)


def test_profile_where_there_are_none_says_so_in_one_line():
    result = profile(engines=["bitmap"], repeat=1, counters={"nobody's": NOBODY})
    assert result["counters"] == {"events": [], "missing": {}, "unavailable": explain(errno.ENOENT)}
    assert f"no counters: {explain(errno.ENOENT)}" in profile_text(result).splitlines()


def test_command_line(capsys, monkeypatch):
    """Whatever this machine has, the command ends well and says what was counted, or in one line why nothing was."""
    assert cli.main(["profile", "--counters", "--repeat", "1", "--engine", "bitmap", "--json", "-"]) == 0
    told = json.loads(capsys.readouterr().out)["counters"]
    try:
        events = Counters(HARDWARE).events
    except OSError as e:
        assert told == {"events": [], "missing": {}, "unavailable": e.strerror}
    else:
        assert told["events"] == events
    for number in (errno.EACCES, errno.ENOSYS):
        def refuse(events, number=number):
            raise OSError(number, counters.explain(number))
        monkeypatch.setattr(fastonline.cost.profile, "Counters", refuse)
        assert cli.main(["profile", "--counters", "--repeat", "1", "--engine", "bitmap"]) == 0
        assert f"no counters: {explain(number)}" in capsys.readouterr().out.splitlines()
