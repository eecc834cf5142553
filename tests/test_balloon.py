"""cli/balloon.py: the arguments of `fastonline balloon`, and the series that they ask for."""

import argparse
import re

import pytest

from fastonline.cli.balloon import add_arguments, from_arguments


@pytest.mark.parametrize("line, actual", [
    ("xen 1G,1.25G --behaviour thread --call-ns 800", [1024, 1280]),
    ("xen 1G,1.25G --udev-delay 2 --scattered --seed 4", [1024, 1280]),
    ("hyperv 1.25G,768M --max-memory 1152M", [1152, 768]),
    ("cmm 768M,1G", [768, 1024]),
    ("virtio 768M,1G --reporting", [768, 1024]),
    ("virtio-mem 1G,1.25G,1030M --block-size 4M", [1024, 1280, 1028]),
    ("virtio-mem 3G,1.5G --udev-delay 2", [3072, 1536]),
])
def test_the_command_line(line, actual, tmp_path):
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    args = parser.parse_args(line.split())
    assert [s.actual >> 20 for s in from_arguments(args).samples] == actual
    path = tmp_path / "targets.csv"
    path.write_text("".join(f"{at * 60},{size}\n" for at, size in enumerate(args.targets.split(","))))
    args.targets = str(path)
    assert [s.actual >> 20 for s in from_arguments(args).samples] == actual


@pytest.mark.parametrize("line, why", [
    ("xen 1000T", "the guest's memory ends at 64T"), ("virtio 2G", "cannot grow the guest past its boot memory"),
    ("cmm 2G", "cannot grow the guest past its boot memory"), ("virtio-mem 512M", "boot memory cannot be unplugged"),
    ("virtio-mem 1025M", "plugs blocks of 2M"), ("virtio-mem 3G --max-memory 2G", "region ends at 2G"),
    ("hyperv 3G --max-memory 2G", "the host allows 2G"), ("xen 3G --host 2G", "the host has no frame left"),
    ("xen 1.1G", ""), ("virtio-mem 1100M --host 1151M", ""),
])
def test_a_target_that_is_not_reached_says_why(line, why):
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    series = from_arguments(parser.parse_args(line.split()))
    assert not re.search(r"\d{9}", str(series))      # sizes can be read
    assert why in series.samples[0].obstacle and bool(series.samples[0].obstacle) == bool(why) and why in str(series)


@pytest.mark.parametrize(
    "line, match",
    [
        ("hyperv 1G --order 9", "no option order"),
        ("cmm 1G --udev-delay 1", "no option udev_delay"),
        ("xen 1G,big", "invalid size 'big'"),
        ("xen -1G", "invalid size '-1G'"),
        ("xen 1G --boot 5", "boot: invalid size '5' .expected a multiple of 4K."),
        ("xen 1G --call-ns -1", "cost"),
        ("hyperv 1G --behaviour 6.18", "no option behaviour"),
        ("xen 1G --reporting", "no option reporting"),
        ("virtio-mem 1G --block-size 3M", "power of two"),
        ("virtio-mem 1G --rules 2.6.25", "virtio-mem does not exist"),
        ("xen 1G --order 77", "order 77"),
        ("xen 1G --udev-delay -1", "delay"),
    ],
)
def test_a_wrong_command_line(line, match):
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    with pytest.raises(ValueError, match=match):
        from_arguments(parser.parse_args(line.split()))
