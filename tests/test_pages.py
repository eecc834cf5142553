"""hotplug/pages: what drivers ask of a page, add_memory_resource, and the thread's two listings."""

import errno

import numpy as np
import pytest

import fastonline as fo
from fastonline.drivers.hypervisor import INVALID_P2M_ENTRY, Domain, Host
from fastonline.hotplug.resources import Resource
from fastonline.testing.geometries import SMALL_64, SMALL_PAE

RULES = [fo.LINUX_2_6_25, fo.LINUX_6_12]


@pytest.mark.parametrize("rules", RULES, ids=lambda rules: rules.name)
def test_both_listings_of_the_thread(engine, rules):
    """Jeremy Fitzhardinge, 28 March 2008: balloon_expand, and the loop that populates pages. Names and order are his."""
    mem = fo.Memory(SMALL_PAE, boot="1M", rules=rules, engine=engine)
    domain = Domain(Host("4M"), "1M")
    PAGE_SHIFT, SECTION_SIZE_BITS = mem.geometry.page_shift, mem.geometry.section_size_bits
    balloon = []

    def balloon_append(page):
        balloon.append(page)

    def balloon_retrieve():
        return balloon.pop(0)

    def balloon_expand(pages):
        size = pages << PAGE_SHIFT

        res = mem.resources.allocate(size, 1 << SECTION_SIZE_BITS, "Xen Balloon", 0)

        start_pfn = res.start >> PAGE_SHIFT
        end_pfn = res.end >> PAGE_SHIFT

        mem.add_memory_resource(0, res)
        mem.prepare_online_pages(start_pfn, pages)

        for pfn in range(start_pfn, end_pfn):
            page = pfn
            mem.set_page_reserved(page)
            domain.set_phys_to_machine(pfn, INVALID_P2M_ENTRY)
            balloon_append(page)      # add to a list of balloon pages

    def populate(nr_pages):
        frame_list = domain.populate_physmap(np.array(balloon[:nr_pages]))
        for i in range(nr_pages):
            page = balloon_retrieve()

            pfn = page

            # frame_list is set of real memory pages
            domain.set_phys_to_machine(pfn, frame_list[i])

            # Relinquish the page back to the allocator.
            mem.mark_pages_onlined(pfn, 1)

            # Link back into the page tables if not highmem.
            if not mem.PageHighMem(page):
                domain.update_va_mapping(pfn, frame_list[i])

    told = []
    mem.notifiers.register(lambda action, notice: told.append((action, notice.start_pfn, notice.onlined)))
    balloon_expand(256)
    assert mem.totalram_pages == 256 and balloon == list(range(256, 512)) and told == [(fo.MEM_GOING_ONLINE, 256, 0)]
    assert mem.resources.text().count("Xen Balloon") == 1 and mem.resources.text().count("System RAM") == 1
    assert mem.resources.within(0, 1024) == [(0, 256), (256, 256)]
    populate(10)
    assert mem.totalram_pages == domain.tot_pages == 266 and len(balloon) == 246
    assert told[1:] == [(fo.MEM_ONLINE, pfn, 1) for pfn in range(256, 266)]
    assert domain.backed(np.arange(256, 266)).all() and not domain.backed(np.arange(266, 512)).any()
    assert domain.calls["update_va_mapping"] == 0
    assert mem.zones["HighMem"].free_pages == 64 + 10
    mem.validate()
    domain.host.validate()


def test_single_pfns_in_hypercalls():
    domain = Domain(Host("4M"), "1M")
    (mfn,) = domain.populate_physmap(300)
    domain.set_phys_to_machine(300, mfn)
    domain.update_va_mapping(300, mfn)
    assert domain.backed(300) and domain.calls["update_va_mapping"] == 1 and domain.tot_pages == 257
    domain.update_va_mapping(300, None)
    domain.set_phys_to_machine(300, INVALID_P2M_ENTRY)
    assert domain.decrease_reservation(int(mfn)) == 1 and domain.tot_pages == 256
    assert domain.decrease_reservation(int(mfn)) == 0
    with pytest.raises(fo.HotplugError):
        domain.update_va_mapping(300, mfn)
    domain.host.validate()


@pytest.mark.parametrize("rules", RULES, ids=lambda rules: rules.name)
def test_the_resource_itself_is_the_ram(engine, rules):
    mem = fo.Memory(SMALL_64, boot="1M", rules=rules, engine=engine)
    res = mem.resources.allocate(1 << 20, 1 << 20, "Xen Balloon")
    assert not res.is_ram and (res.start, res.end) == (1 << 20, 2 << 20)
    mem.add_memory_resource(0, res)
    assert res.is_ram and res.children == [] and list(mem.resources) == [(0, 256), (256, 512)]
    mem.online_pages(256, 256)
    assert mem.totalram_pages == 512
    mem.validate()
    with pytest.raises(fo.HotplugError) as refused:
        mem.add_memory_resource(0, res)
    assert refused.value.errno == errno.EEXIST
    mem.offline_pages(256, 256)
    mem.remove_memory(256, 256)
    assert "Xen Balloon" not in mem.resources.text()
    mem.validate()


def test_resources_that_are_no_memory(make_machine):
    mem = make_machine()
    for res, code in (
        (Resource(1 << 20, 2 << 20, "stray"), errno.EINVAL),
        (mem.resources.request((4 << 20) + 1, 4096, "crooked"), errno.EINVAL),
        (mem.resources.request(8 << 20, 4096, "small"), errno.EINVAL),
    ):
        before = mem.resources.text()
        with pytest.raises(fo.HotplugError) as refused:
            mem.add_memory_resource(0, res)
        assert refused.value.errno == code and not res.is_ram and mem.resources.text() == before
    outer = mem.resources.request(1 << 20, 1 << 20, "outer")
    mem.resources.request(1 << 20, 4096, "inner")
    with pytest.raises(fo.HotplugError) as refused:
        mem.add_memory_resource(0, outer)
    assert refused.value.errno == errno.EEXIST
    with pytest.raises(TypeError):
        mem.add_memory_resource(0, "outer")
    mem.validate()


def test_what_a_page_is(engine):
    mem = fo.Memory(SMALL_PAE, boot="1M", engine=engine)
    mem.add_memory(512, 256, nid=1)
    assert [mem.pfn_valid(pfn) for pfn in (0, 255, 256, 511, 512, 767, 768)] == [True, True, False, False, True, True, False]
    assert [mem.pfn_to_online_page(pfn) for pfn in (0, 255, 256, 512)] == [0, 255, None, None]
    assert [mem.page_to_nid(pfn) for pfn in (0, 255, 512)] == [0, 0, 1]
    assert [mem.PageHighMem(pfn) for pfn in (0, 191, 192, 512)] == [False, False, True, True]
    mem.prepare_online_pages(512, 256)
    assert mem.pfn_to_online_page(512) is None
    mem.mark_pages_onlined(512, 1)
    assert mem.pfn_to_online_page(512) == 512 and mem.PageHighMem(512)
    for ask in (mem.page_to_nid, mem.PageHighMem):
        with pytest.raises(ValueError):
            ask(256)
    for ask in (mem.pfn_valid, mem.pfn_to_online_page, mem.page_to_nid, mem.PageHighMem):
        with pytest.raises(ValueError):
            ask(-1)
        with pytest.raises(TypeError):
            ask("1")
    assert not mem.pfn_valid(2**63)
