"""Strategies side by side: the table, the files and the command."""

import csv
import io
import json
import os
import re
from pathlib import Path

import pytest

import fastonline
from fastonline.cli import main
from fastonline.cost.compare import compare, run_one
from fastonline.cost.scenario import PRESETS, changed, scenario
from fastonline.cost.strategies import STRATEGIES

MIB = 1 << 20


def test_assumed_prices_are_named():
    values = {name: run_one(scenario("thread"), name).values for name in ("split", "boot-big")}
    assert "populate_physmap" in values["split"]["assumed"] and values["boot-big"]["assumed"] == []


def test_the_conclusion_names_who_did_no_harm():
    result = compare(scenario("thread-dry"), ["whole", "split", "whole-touch", "kvm"])
    assert result.conclusion == (
        "Without shortfall, overshoot and swapped free pages: split, whole-touch; whole-touch holds the least memory over "
        "time.")
    result.rows = result.rows[:2]
    assert result.conclusion == "Without shortfall, overshoot and swapped free pages: split."
    result.rows = result.rows[:1]
    assert result.conclusion == "No strategy is without shortfall, overshoot and swapped free pages."
    assert result.text().endswith(result.conclusion)


def test_the_conclusion_names_everybody_who_holds_least():
    result = compare(scenario("thread"), ["split", "boot-big-huge", "shared"])
    huge, shared = (row.values["held_byte_seconds"] for row in result.rows[1:])
    result.rows[2].values["held_byte_seconds"] = huge
    assert shared and result.conclusion.endswith("; boot-big-huge and shared hold the least memory over time.")


# -- fastonline/COMPARE.md

PAGE = (Path(fastonline.__file__).parent / "COMPARE.md").read_text()


@pytest.mark.parametrize("preset", PRESETS)
def test_the_page_shows_what_compare_prints(preset, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    (shown,) = re.findall(rf"^```console\n\$ fastonline compare {preset}\n(.*?)^```$", PAGE, re.M | re.S)
    assert main(["compare", preset]) == 0
    assert capsys.readouterr().out == shown


def test_the_numbers_in_the_page_are_the_models():
    text = " ".join(PAGE.split())
    names = ["split", "callback", "whole", "whole-touch", "kvm", "cmm2", "dimm"]
    split, callback, whole, touch, kvm, cmm2, dimm = (row.values for row in compare(scenario("thread"), names).rows)
    dry = {row.strategy: row.values for row in compare(scenario("thread-dry"), names).rows}
    single = run_one(changed(scenario("thread"), {"batch": 1}), "split").values

    def mib(values, column):
        return f"{values[column] / MIB:g} MiB"

    for said in (
        f"grows by {mib(split, 'grown_bytes')} and never", f"still grows by {mib(dry['split'], 'grown_bytes')},",
        f"{split['notifications']} notifications and {split['watermark_recomputations']} watermark recomputations, which scan "
        f"{split['pageblocks_scanned']} pageblocks", f"marks make {single['notifications']} notifications",
        f"memmap, {split['memmap_added_pages']} pages,",
        f"of split: {mib(callback, 'grown_bytes')} more, no overshoot, {mib(dry['callback'], 'grown_bytes')} on the dry host",
        f"{callback['notifications']} notification and {callback['watermark_recomputations']} watermark recomputation",
        f"{callback['pageblocks_scanned']} pageblocks scanned", f"from {split['guest_s']:.3f} s to {callback['guest_s']:.3f} s",
        f"holds {mib(whole, 'overshoot_bytes')} more", f"takes {whole['usable_s']:.3f} s instead of {split['usable_s']:.3f} s",
        f"grows by {mib(dry['whole'], 'grown_bytes')}, after {dry['whole']['refusals']['ENOMEM']} refusals",
        f"gone: {mib(touch, 'grown_bytes')} more on both hosts, no overshoot, and a peak of {mib(touch, 'peak_bytes')}",
        f"grows by {mib(kvm, 'grown_bytes')} on both hosts without overshoot, with {kvm['notifications']} notifications",
        f"swaps out {kvm['swapped_dead_pages']} pages that the guest had freed, and {kvm['swapped_used_pages']} that",
        f"swaps out {cmm2['swapped_dead_pages']} free pages, for {cmm2['calls']['essa']} more calls",
        f"Its longest step takes {cmm2['usable_s']:.3f} s, and kvm's {kvm['usable_s']:.3f} s",
        f"{dimm['uevents']} uevents and {dimm['notifications']} notifications", f"to {mib(dimm, 'overshoot_bytes')} above",
        f"meets {dimm['steps_reached']} of {len(scenario('thread').steps)} targets",
        f"holds {dimm['held_byte_seconds'] / MIB:.0f} MiB.s, and split {split['held_byte_seconds'] / MIB:.0f}",
        f"dry host it grows by {mib(dry['dimm'], 'grown_bytes')}.",
    ):
        assert said in text, said
    for values in (callback, touch, kvm):
        assert values["overshoot_bytes"] == 0
    assert dry["whole-touch"]["grown_bytes"] == touch["grown_bytes"] and dry["kvm"]["grown_bytes"] == kvm["grown_bytes"]


# -- the command line

def run(capsys, *args):
    status = main(["compare", *map(str, args)])
    return status, *capsys.readouterr()


def test_compare_prints_a_line_for_each_strategy(capsys, small, tmp_path):
    status, out, err = run(capsys, small)
    lines = out.splitlines()
    assert status == 0 and err == "" and len(lines) > len(STRATEGIES)
    assert {line.split()[0] for line in lines if line} >= set(STRATEGIES)
    status, out, err = run(capsys, small, "--strategies", "split,whole", "--json", "-", "--csv", tmp_path / "out.csv")
    result = json.loads(out)
    assert result["scenario"]["boot"] == 256 * MIB and [row["strategy"] for row in result["rows"]] == ["split", "whole"]
    for name in ("grown_bytes", "overshoot_bytes", "peak_bytes", "shortfall_byte_seconds", "swapped_dead_pages",
                 "notifications"):
        assert isinstance(result["rows"][0][name], int)
    lines = list(csv.DictReader(io.StringIO((tmp_path / "out.csv").read_text())))
    assert [line["strategy"] for line in lines] == ["split", "whole"] and lines[0]["grown_bytes"] == str(128 * MIB)


@pytest.mark.parametrize("args, says", [
    (["tread"], "did you mean 'thread'"),
    (["none.toml"], "No such file"),
    (["thread", "--strategies", "spilt"], "did you mean 'split'"),
    (["thread", "--strategies", ","], "no name"),
    (["thread", "--strategies", "split,split"], "strategy 'split' is given twice"),
    (["thread", "--strategies", "dimm", "--json", "/dev/full"], "No space left"),
    (["thread", "--csv", "no/such/dir/x.csv"], "No such file"),
    (["thread", "--strategies", "split,", "whole"], "compare: unrecognized arguments: whole; see fastonline compare"),
])
def test_bad_input_is_one_line(capsys, tmp_path, monkeypatch, args, says):
    monkeypatch.chdir(tmp_path)
    try:
        status, out, err = run(capsys, *args)
    except SystemExit as e:
        status, (out, err) = e.code, capsys.readouterr()
    assert status == 2 and out == "" and err.count("\n") == 1 and says in err and os.listdir(tmp_path) == []


def test_csv_to_standard_output(capsys, small, tmp_path, monkeypatch):
    """Expect the CSV there instead of the text, and no file "-"."""
    monkeypatch.chdir(tmp_path)
    status, out, _ = run(capsys, small, "--strategies", "split,whole", "--csv", "-")
    assert status == 0 and [line["strategy"] for line in csv.DictReader(io.StringIO(out))] == ["split", "whole"]
    assert not (tmp_path / "-").exists()


@pytest.mark.parametrize("scenario, strategies, says", [
    ("thread", ["split"], "must be a Scenario, not 'thread'"), (scenario("thread"), "split", "list of names, not 'split'"),
])
def test_a_name_in_place_of_what_it_names(scenario, strategies, says):
    with pytest.raises(TypeError, match=says):
        compare(scenario, strategies)
