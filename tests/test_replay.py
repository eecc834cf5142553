"""cli/replay.py: what `fastonline replay` prints, and with which exit status."""

import json

from recordings_common import DIRECTORY, with_change

from fastonline.cli import main


def test_what_the_command_prints(capsys):
    """Expect a line a step, the table and what is not compared; with -q only the table; with --json a line of JSON a step."""
    path = str(DIRECTORY / "S1m_movable_first.json")
    assert main(["replay", path]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "S1m_movable_first step 0 add_memory: ok" and "Not compared:" in lines
    assert main(["replay", "-q", path, path]) == 0
    table = capsys.readouterr().out.splitlines()
    assert lines[9] == table[0] and lines[10] == table[1] == table[2] and len(table) == 4
    assert table[1].split()[:2] == ["S1m_movable_first", "9"] and table[3].split()[:3] == ["all", "2", "18"]
    assert main(["replay", "--json", path]) == 0
    steps = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [step["step"] for step in steps] == list(range(9)) and not any(step["differences"] for step in steps)


def test_the_table_says_what_differences_concern(tmp_path, capsys):
    def change(data):
        data["steps"][1]["uevents"] = []
        data["steps"][1]["state"]["zones"]["0/DMA32"].update(min=1, low=2)
    assert main(["replay", "-q", str(with_change(tmp_path, change))]) == 1
    assert capsys.readouterr().out.splitlines()[1].split(None, 4)[3:] == ["3", "watermarks 2, uevents 1"]


def test_the_command_line_says_it_in_one_line(tmp_path, capsys):
    path = with_change(tmp_path, lambda data: data["steps"][3]["state"]["zones"]["0/DMA32"].update(free="many"))
    assert main(["replay", str(path)]) == 2
    out, err = capsys.readouterr()
    assert out.count("\n") == 3 and err.count("\n") == 1 and f"{path}: step 3: " in err
