import errno

from fastonline.core.lock cimport settle
from fastonline.core.numbers cimport as_number
from fastonline.hotplug cimport sysctl
from fastonline.hotplug.machine cimport flush_events
from fastonline.hotplug.page_alloc cimport PageLists
from fastonline.hotplug.types cimport MOST_NODES

from fastonline.errors import HotplugError
from fastonline.hotplug.blocks import WORDS, word_to_type
from fastonline.hotplug.policy import ONLINE_POLICIES
from fastonline.rules import INT_MAX

__all__ = ["Settings"]


cdef class Settings(Pages):
    """The settings of a running machine. Memory is the class to use."""

    def init_per_zone_wmark_min(self):
        """Recompute min_free_kbytes, and the watermarks and protection of every zone. online_pages and offline_pages do this,
        marks do not (init_per_zone_wmark_min, mm/page_alloc.c)."""
        _held = self.lock.hold()
        sysctl.recompute_watermarks(self)
        flush_events(self)

    @property
    def min_free_kbytes(self):
        """vm.min_free_kbytes. Writing it recomputes the watermarks. A written value stays when the computed one is smaller."""
        return self.zones.table.min_free_kbytes

    @min_free_kbytes.setter
    def min_free_kbytes(self, kbytes):
        settle(self.lock)
        sysctl.set_min_free_kbytes(self, kbytes)

    @property
    def lowmem_reserve_ratio(self):
        """vm.lowmem_reserve_ratio by zone type (sysctl_lowmem_reserve_ratio). Writing it recomputes the protection of every
        zone."""
        return sysctl.lowmem_reserve_ratio(self)

    @lowmem_reserve_ratio.setter
    def lowmem_reserve_ratio(self, ratios):
        settle(self.lock)
        sysctl.set_lowmem_reserve_ratio(self, ratios)

    @property
    def watermark_scale_factor(self):
        """vm.watermark_scale_factor, 1 to 3000, else HotplugError EINVAL. Writing it recomputes the watermarks."""
        return self.zones.table.scale_factor

    @watermark_scale_factor.setter
    def watermark_scale_factor(self, factor):
        settle(self.lock)
        sysctl.set_watermark_scale_factor(self, factor)

    @property
    def transparent_hugepage(self):
        """/sys/kernel/mm/transparent_hugepage/enabled: "never", "madvise" or "always". Unless it is "never", khugepaged raises
        min_free_kbytes, at once and whenever memory goes online or offline (set_recommended_min_free_kbytes). ValueError for
        another word, and under rules without huge pages."""
        return self.zones.transparent_hugepage

    @transparent_hugepage.setter
    def transparent_hugepage(self, word):
        _held = self.lock.hold()
        sysctl.set_transparent_hugepage(self, word)

    @property
    def nr_cpus(self):
        """The number of CPUs, at least 1. Write an int (all on node 0) or {node: CPUs}. A zone's pcp_high is divided among the
        CPUs of its node, or among all if the node has none; stat_threshold depends on all. ValueError for 0, OverflowError for
        a number that does not fit into an int."""
        return self.zones.table.nr_cpus

    @nr_cpus.setter
    def nr_cpus(self, nr):
        settle(self.lock)
        sysctl.set_nr_cpus(self, nr)

    @property
    def auto_online_blocks(self):
        """What add_memory does with new blocks: "offline", "online", "online_kernel" or "online_movable". Writing another word
        gives HotplugError EINVAL."""
        return WORDS[self.auto_online]

    @auto_online_blocks.setter
    def auto_online_blocks(self, word):
        settle(self.lock)
        self.auto_online = word_to_type(word, self.rules)

    @property
    def policy(self):
        """memory_hotplug.online_policy, what plain `online` means: "contig-zones" or "auto-movable"."""
        return ONLINE_POLICIES[self.auto_movable]

    @policy.setter
    def policy(self, name):
        if name not in ONLINE_POLICIES:
            raise HotplugError.of(errno.EINVAL, f"invalid online_policy {name!r} (expected "
                f"{' or '.join(map(repr, ONLINE_POLICIES))})")
        self.auto_movable = ONLINE_POLICIES.index(name)

    @property
    def auto_movable_ratio(self):
        """memory_hotplug.auto_movable_ratio of the policy "auto-movable" (5.15): how much Movable memory there may be, in
        percent of the kernel memory that was there at boot. ValueError for a negative one, or one that no int holds."""
        return self.auto_movable_percent

    @auto_movable_ratio.setter
    def auto_movable_ratio(self, percent):
        self.auto_movable_percent = as_number(percent, "auto_movable_ratio", 0, INT_MAX)

    @property
    def possible_nodes(self):
        """Nodes that there may ever be, which the log lists since 5.18: 0 to 1024, 0 as at first:
        those that exist. ValueError for others."""
        return self.nr_possible_nodes

    @possible_nodes.setter
    def possible_nodes(self, nr):
        self.nr_possible_nodes = as_number(nr, "possible_nodes", 0, MOST_NODES)

    @property
    def pcp(self):
        """The PerCpuPages that movable pages and memmaps go through, or None, as at first: freed pages go to the buddy
        allocator at once. TypeError for anything else, ValueError for those of another machine."""
        return self.per_cpu_pages

    @pcp.setter
    def pcp(self, lists):
        from fastonline.hotplug.pcp import PerCpuPages      # few programs need it

        if lists is not None:
            if not isinstance(lists, PerCpuPages):
                raise TypeError(f"pcp must be a PerCpuPages or None, not {lists!r:.80}")
            if (<PageLists>lists).mem is not self:
                raise ValueError("pcp has the pages of another machine")
        self.per_cpu_pages = lists

    # -- callbacks of the allocator

    @property
    def arch_alloc_page(self):
        """``callback(pfns, order)``, or None: called with the blocks that an allocation has just taken. pfns: int64 array of
        first pfns; order: int. It returns None, or the pfns that it keeps for another use, such as set_pfns_offline.
        alloc_pages then tries another block, alloc_pages_bulk returns fewer, alloc_contig_range fails with EBUSY. When it
        raises, the blocks are freed and the allocation raises the same exception. The C API does not call it. TypeError when
        it is not callable. Mirrors arch_alloc_page (mm/page_alloc.c, 2.6.26)."""
        return self.alloc_hook

    @arch_alloc_page.setter
    def arch_alloc_page(self, callback):
        self.alloc_hook = checked_hook(callback, "arch_alloc_page")

    @property
    def arch_free_page(self):
        """``callback(pfns, order)``, or None: called with blocks just before they are freed; arguments as arch_alloc_page. When
        it raises, nothing is freed and the call raises the same exception. Mirrors arch_free_page (mm/page_alloc.c,
        2.6.26)."""
        return self.free_hook

    @arch_free_page.setter
    def arch_free_page(self, callback):
        self.free_hook = checked_hook(callback, "arch_free_page")

    def register_oom_notifier(self, callback):
        """Call ``callback()`` before alloc_pages or alloc_pages_bulk fails for want of free pages.

        The allocation is tried again as long as the callbacks free pages. Blocks above order 3 fail at once. Returns the
        callback. TypeError when it is not callable. Mirrors register_oom_notifier (mm/oom_kill.c, 2.6.25)."""
        _held = self.lock.hold()
        if callback is None:
            raise TypeError("an OOM notifier must be callable, not None")
        self.oom_notifiers.append(checked_hook(callback, "an OOM notifier"))
        return callback

    def unregister_oom_notifier(self, callback):
        """Stop calling `callback`; ValueError when it was not registered."""
        _held = self.lock.hold()
        if callback not in self.oom_notifiers:
            raise ValueError(f"{callback!r} is not an OOM notifier of this machine")
        self.oom_notifiers.remove(callback)


cdef object checked_hook(object callback, str what):
    if callback is not None and not callable(callback):
        raise TypeError(f"{what} must be callable, not {callback!r}")
    return callback
