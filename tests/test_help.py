"""help() reads like documentation: every public name says what it is, and what each of its arguments is."""

import doctest
import importlib
import inspect
import pkgutil
import pydoc
import re
from dataclasses import is_dataclass

import pytest
from conftest import ROOT

import fastonline as fo
import fastonline.cost
import fastonline.drivers
from fastonline.core.sections import Sections
from fastonline.hotplug.blocks import Block, Blocks
from fastonline.hotplug.events import Events
from fastonline.hotplug.machine import Machine
from fastonline.hotplug.notifier import NotifierChain
from fastonline.hotplug.page_views import Flags
from fastonline.hotplug.resources import Resource, Resources
from fastonline.hotplug.settings import Settings
from fastonline.hotplug.zones import Node, Zone, Zones

PARTS = (Sections, Block, Blocks, Events, Flags, Machine, NotifierChain, Resource, Resources, Settings, Node, Zone, Zones)
"""What a machine's attributes are, or hand out; nobody makes one."""
MODULES = [
    importlib.import_module(f"{package.__name__}.{found.name}")
    for package in (fastonline.cost, fastonline.drivers) for found in pkgutil.iter_modules(package.__path__)
]
CLASSES = [value for name in fo.__all__ if inspect.isclass(value := getattr(fo, name))]


def documentation(thing):
    """A docstring without the signature that Cython writes in front of it."""
    return re.sub(r"\A[\w.]+\(.*\)(?: -> .*)?(?:\n|\Z)", "", inspect.getdoc(thing) or "")


def says(text, word):
    return re.search(rf"(?<!\w){re.escape(word)}(?!\w)", text) is not None


def arguments(function):
    return [name for name in inspect.signature(function).parameters if name not in ("self", "cls")]


def members(cls):
    """(name, the function or the descriptor) of every public member that the class itself has."""
    for name, value in vars(cls).items():
        if not name.startswith("_"):
            yield name, getattr(value, "__func__", value)


def gaps(cls):
    """What of a class is not said anywhere in its help."""
    whole = documentation(cls)
    if not whole:
        yield cls.__name__
    for name, member in members(cls):
        text = documentation(member)
        if callable(member):
            if not text:
                yield f"{cls.__name__}.{name}"
            yield from (f"{cls.__name__}.{name}: {given}" for given in arguments(member) if not says(text + whole, given))
        elif not text or re.fullmatch(rf"{name}: '?\w+'?", text):       # the latter is Cython's own
            # a plain value or a field of a tuple, a dataclass or __slots__ has no docstring: the class's says what it is
            bare = not inspect.isdatadescriptor(member) or issubclass(cls, tuple) or name in getattr(cls, "__slots__", ())
            if not bare or not says(whole, name):
                yield f"{cls.__name__}.{name}"


@pytest.mark.parametrize("cls", [*CLASSES, *PARTS], ids=lambda cls: cls.__name__)
def test_a_class_and_all_its_members_are_documented(cls):
    assert list(gaps(cls)) == []


@pytest.mark.parametrize("cls", [cls for cls in CLASSES if not issubclass(cls, Exception)], ids=lambda cls: cls.__name__)
def test_what_a_constructor_takes_is_documented(cls):
    names = arguments(cls)
    assert names and [name for name in names if not says(documentation(cls), name)] == []


@pytest.mark.parametrize("name", [name for name in fo.__all__ if inspect.isroutine(getattr(fo, name))])
def test_a_function_and_its_arguments_are_documented(name):
    text = documentation(getattr(fo, name))
    assert text and [given for given in arguments(getattr(fo, name)) if not says(text, given)] == []


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_what_a_module_has_is_documented(module):
    """Fields of a dataclass say what they are where they stand, not in its help."""
    missing = []
    for name, value in vars(module).items():
        if name.startswith("_") or getattr(value, "__module__", None) != module.__name__ or not callable(value):
            continue
        if inspect.isclass(value):
            missing += gaps(value)
        made_up = is_dataclass(value) or getattr(value, "_is_protocol", False)      # its __init__ is Python's
        if not inspect.isclass(value) or inspect.isfunction(vars(value).get("__init__")) and not made_up:
            missing += [f"{name}: {given}" for given in arguments(value) if not says(documentation(value), given)]
        if not documentation(value):
            missing.append(name)
    assert missing == []


@pytest.mark.parametrize("name", ["drivers", "cost", "cost.strategies", "linux"])
def test_the_example_of_a_package_is_true(name, monkeypatch):
    monkeypatch.chdir(ROOT)
    result = doctest.testmod(importlib.import_module(f"fastonline.{name}"))
    assert result.attempted >= 3 and result.failed == 0


def test_dir_shows_the_public_names_alone():
    assert [name for name in dir(fo) if not name.startswith("__")] == sorted(fo.__all__)


def test_the_package_tells_of_every_name():
    assert [name for name in fo.__all__ if not says(fo.__doc__, name)] == []


def test_signatures_can_be_read():
    text = pydoc.plain(pydoc.render_doc(fo.Memory))
    assert str(inspect.signature(fo.Memory)).startswith("(geometry, boot=None, rules=None, engine='bitmap', max_memory=None, ")
    joined = re.sub(r"[\s|]+", "", text)     # 3.13 breaks long signatures into lines
    assert "Memory(geometry,boot=None,rules=None,engine='bitmap'," in joined
    assert "mark_pages_onlined(self,start_pfn,nr_pages=1,order=None)" in joined
    assert max(map(len, text.splitlines())) < 160 and " at 0x" not in text


def test_every_compiled_function_has_a_signature():
    """Defaults that are no plain values would leave it without one."""
    unreadable, read = [], 0
    for path in sorted((ROOT / "fastonline").rglob("*.pyx")):
        module = importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts))
        own = [value for value in vars(module).values() if getattr(value, "__module__", None) == module.__name__]
        own += [getattr(cls, name) for cls in filter(inspect.isclass, own) for name in vars(cls) if name[:2] != "__"]
        for function in filter(inspect.isroutine, own):
            try:
                read += bool(inspect.signature(function))
            except ValueError as e:
                unreadable.append(str(e))
    assert unreadable == [] and read > 150
