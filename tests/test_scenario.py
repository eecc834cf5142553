"""Scenarios: what is read, what is refused, and where the fault is said to be."""

import json
import pickle

import pytest

from fastonline.cost.plain import KeyProblem
from fastonline.cost.scenario import PRESETS, Other, Scenario, changed, scenario
from fastonline.geometry import parse_size

SMALL = {"name": "small", "boot": "256M", "host": "1G", "steps": [[10, "384M"], [20, "256M"]]}


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_survives_being_written_and_read(name):
    given = scenario(name)
    assert given.name == name
    assert Scenario.from_dict(given.as_dict()) == given == Scenario.from_dict(json.loads(json.dumps(given.as_dict())))
    assert pickle.loads(pickle.dumps(given)) == given


def test_the_thread_is_what_the_thread_speaks_of():
    thread, dry = scenario("thread"), scenario("thread-dry")
    assert (thread.geometry, thread.rules, thread.boot, thread.host) == ("X86_32_PAE", "2.6.25", 1 << 30, 2 << 30)
    targets = [target >> 20 for _, target in thread.steps]
    assert targets == [*range(1056, 1537, 32), *range(1504, 1023, -32)]
    assert thread.workload.in_use == 0.9
    assert dry.host - dry.boot - dry.others_at(0.0) == 384 << 20 and dry.steps == thread.steps


def test_microvm_is_firecrackers_benchmark():
    plugged = [target - (512 << 20) >> 30 for _, target in scenario("microvm").steps]
    assert plugged == [1, 2, 4, 8, 16, 0] * 2


def test_what_is_left_out_has_a_default():
    given = Scenario.from_dict(SMALL)
    assert given.maximum == 384 << 20 and given.end == 80.0 and given.seed == 0 and given.workload.kind == "ramp"


def test_sizes_as_people_type_them():
    """Expect a fraction to be rounded down to 64 KiB."""
    scenario = Scenario.from_dict({"name": "x", "boot": "512 MB", "host": "3.3G", "steps": [[1, "1.1G"], [2, "1.5GiB"]]})
    assert (scenario.boot, scenario.host) == (512 << 20, int(3.3 * (1 << 14)) << 16)
    assert scenario.steps == ((1.0, int(1.1 * (1 << 14)) << 16), (2.0, 3 << 29))


def test_other_guests_take_and_give():
    given = Scenario.from_dict({**SMALL, "others": [{"name": "b", "steps": [[5, "1M"], [9, "3M"]]}, {"steps": [[0, "2M"]]}]})
    assert given.others[0] == Other("b", ((5.0, 1 << 20), (9.0, 3 << 20))) and given.others[1].name == "guest 3"
    assert [given.others_at(time) >> 20 for time in (0, 5, 8, 9)] == [2, 3, 3, 5]


@pytest.mark.parametrize("change, key, says", [
    ({"bot": "1G"}, "bot", "did you mean 'boot'"),
    ({"geometry": "X86_46"}, "geometry", "did you mean 'X86_64'"),
    ({"rules": "5.15"}, "rules", "invalid rules '5.15'"),
    ({"engine": "bitmpa"}, "engine", "did you mean 'bitmap'"),
    ({"memmap": "on-memory"}, "memmap", "did you mean 'on_memory'"),
    ({"memmap": "on_memory", "rules": "2.6.25"}, "memmap", "no memmap_on_memory"),
    ({"boot": "lots"}, "boot", "invalid size"),
    ({"boot": 4097}, "boot", "invalid size 4097 (expected a multiple of 4K)"),
    ({"boot": -1}, "boot", "invalid size -1 (expected 0 or more)"),
    ({"boot": 0}, "boot", "0"),
    ({"boot": 1.5}, "boot", "invalid size 1.5 (expected an int"),
    ({"boot": "512M", "maximum": "384M"}, "boot", "more than the maximum"),
    ({"boot": "300M", "host": "256M"}, "boot", "more than the host"),
    ({"others": [{"steps": [[0, "900M"]]}]}, "boot", "more than the host"),
    ({"maximum": "320M"}, "steps", "above the maximum"),
    ({"maximum": "128T"}, "maximum", "more than X86_64 can have"),
    ({"steps": [[1, "128T"]]}, "steps", "more than X86_64 can have"),
    ({"steps": []}, "steps", "at least one"),
    ({"steps": [[10, "300M"], [5, "256M"]]}, "steps", "5 s comes after 10 s"),
    ({"steps": [[10, "300M"], [10, "256M"]]}, "steps", "two at 10 s"),
    ({"others": [{"steps": [[0, "1M"], [0, "2M"]]}]}, "others", "two at 0 s"),
    ({"steps": [[float("nan"), "300M"]]}, "steps", "nan"),
    ({"steps": [[-1, "300M"]]}, "steps", "-1"),
    ({"steps": [[1, 0]]}, "steps", "0"),
    ({"steps": [[1, "300M", 3]]}, "steps", "expected a time and a size"),
    ({"steps": 3}, "steps", "expected a list"),
    ({"steps": [["soon", "300M"]]}, "steps", "expected a number"),
    ({"end": 15}, "end", "before the last step"),
    ({"seed": -1}, "seed", "negative"),
    ({"seed": 1.5}, "seed", "expected a whole number"),
    ({"scattered": 1}, "scattered", "true or false"),
    ({"batch": 0}, "batch", "at least 1"),
    ({"user_delay": -1}, "user_delay", "not a time"),
    ({"user_delay": float("nan")}, "user_delay", "not a time"),
    ({"policy_period": 0}, "policy_period", "not a time"),
    ({"memory_block_size": "192M"}, "memory_block_size", "1, 2, 4"),
    ({"others": [{"name": "b"}]}, "others", "needs steps"),
    ({"others": [{"nam": "b"}]}, "others.nam", "did you mean 'name'"),
    ({"workload": 3}, "workload", "expected a table"),
    ({"workload": {"kind": "compiler"}}, "workload.kind", "did you mean 'compile'"),
    ({"workload": {"in_use": 1.2}}, "workload.in_use", "not a share"),
    ({"workload": {"movable": float("nan")}}, "workload.movable", "not a share"),
    ({"workload": {"free_order": "newst"}}, "workload.free_order", "did you mean 'newest'"),
    ({"workload": {"in_us": 0.5}}, "workload.in_us", "did you mean 'in_use'"),
    ({"workload": {"period": 3}}, "workload.period", "sawtooth"),
    ({"costs": {"tabel": "free"}}, "costs", "invalid call 'tabel'"),
    ({"costs": {"table": "fre"}}, "costs", "did you mean 'free'"),
    ({"costs": {"touch": -1}}, "costs", "invalid price"),
    ({"costs": {"touch": float("nan")}}, "costs", "invalid price"),
    ({"costs": {"touch": [1, 2, 3, 4]}}, "costs", "up to three"),
    ({"costs": {"tuoch": 3}}, "costs", "did you mean 'touch'"),
])
def test_what_makes_no_scenario_is_refused(change, key, says):
    with pytest.raises(KeyProblem) as e:
        Scenario.from_dict({**SMALL, **change})
    assert e.value.key == key and says in e.value.message and "\n" not in str(e.value)
    assert str(pickle.loads(pickle.dumps(e.value))) == str(e.value)


@pytest.mark.parametrize("name", ["name", "boot", "host", "steps"])
def test_what_is_needed_is_missed(name):
    with pytest.raises(KeyProblem, match=f"{name} is missing"):
        Scenario.from_dict({key: value for key, value in SMALL.items() if key != name})


TOML = """# a comment
boot = "256M"
host = "1G"
steps = [
    [10, "384M"],
]

[workload]
in_use = 0.5
"""


def test_a_file_says_where_it_is_wrong(tmp_path):
    path = tmp_path / "my.toml"
    path.write_text(TOML)
    assert scenario(path).name == "my" and scenario(path).workload.in_use == 0.5
    for old, new, line in [('"256M"', '"256X"', 2), ("host", "hots", 3), ("steps = [", "steps = [[20, \"300M\"],", 4),
                           ("in_use = 0.5", "in_use = 5", 9), ("in_use", "in_user", 9), ("[workload]", "[workloads]", 8),
                           ("in_use = 0.5", 'kind = "ramb"', 9)]:
        path.write_text(TOML.replace(old, new))
        with pytest.raises(ValueError) as e:
            scenario(path)
        assert str(e.value).startswith(f"{path}, line {line}: "), e.value
    path.write_text(TOML.replace("[10", "[10,,"))
    with pytest.raises(ValueError, match=r"invalid TOML: .*line 5"):
        scenario(path)
    path.write_bytes(b"\xef\xbb\xbf" + TOML.replace("\n", "\r\n").encode())
    assert scenario(path).boot == parse_size("256M")
    path.write_bytes(b"boot = \"\xff\"")
    with pytest.raises(ValueError, match="not a text"):
        scenario(path)
    with pytest.raises(FileNotFoundError):
        scenario(tmp_path / "none.toml")
    with pytest.raises(ValueError, match="did you mean 'thread'"):
        scenario("tread")


@pytest.mark.parametrize("text, says", [
    ("x = " + "[" * 100_000, "invalid TOML"),
    ("x = " + "{a=" * 3000, "invalid TOML"),
    ("x = " + "9" * 5000, "invalid TOML"),
    (".".join("a" * 20_000) + " = 1", "line 1: a key of more than 20 parts"),
    ("a = 1\n[" + ' . '.join(['"a"'] * 20_000) + "]", "line 2: a key of more than 20 parts"),
    ("x = '''\n[" + " " * 50_000 + "\n'''", "line 1: x: invalid key"),
], ids=["brackets", "tables", "digits", "parts", "quoted parts", "spaces"])
def test_texts_that_would_take_long(tmp_path, text, says):
    path = tmp_path / "my.toml"
    path.write_text(text)
    with pytest.raises(ValueError, match=f"^{path}.*{says}"):
        scenario(path)


def test_keys_change_by_their_dotted_names():
    given = Scenario.from_dict(SMALL)
    made = changed(given, {"host": "2G", "workload.in_use": 0.25, "costs.touch": 5})
    assert (made.host, made.workload.in_use, made.costs["touch"]) == (2 << 30, 0.25, [5.0, 0.0, 0.0])
    assert given.host == 1 << 30
    for key, says in [
        ("hots", "'host'"),
        ("workload.in_user", "'in_use'"),
        ("worklaod.in_use", "'workload'"),
        ("host.x", "costs"),
    ]:
        with pytest.raises(KeyProblem, match=says):
            changed(given, {key: 1})
