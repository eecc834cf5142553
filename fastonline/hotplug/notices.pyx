from cpython.ref cimport Py_INCREF
from cpython.tuple cimport PyTuple_SET_ITEM

from fastonline.hotplug.chain_calls cimport MEM_FINISH_OFFLINE, MEM_PREPARE_ONLINE, NO_NODE
from fastonline.hotplug.machine cimport node_present_pages
from fastonline.hotplug.memmap cimport memmap_within
from fastonline.hotplug.types cimport zone_nid, zone_number, zone_present, zone_type

from fastonline.errors import HotplugError, pfn_range
from fastonline.hotplug.notifier import MemoryNotify, notifier_to_errno

__all__ = []

cdef extern from *:
    """
    /* An empty object of a class that extends tuple. tuple.__new__ would make a tuple first, and copy it. */
    static PyObject *fo_alloc_tuple(PyObject *type, Py_ssize_t nr)
    {
        PyObject *made = ((PyTypeObject *)type)->tp_alloc((PyTypeObject *)type, nr);
    #if PY_VERSION_HEX >= 0x030E0000
        if (made != NULL)
            ((PyTupleObject *)made)->ob_hash = -1;      /* not computed yet */
    #endif
        return made;
    }
    """
    tuple alloc_tuple "fo_alloc_tuple"(object type, Py_ssize_t nr)


cdef object make_notice(Machine mem, uint64_t start, uint64_t nr, uint64_t onlined, int nid, int nid_normal):
    """Return the MemoryNotify of a range, without its memmap on memory (memory_block_online, 6.1)."""
    cdef uint64_t own = memmap_within(mem, start)
    if mem.rules.node_notifier:
        nid = nid_normal = -1
    return MemoryNotify(start + own, nr - own, onlined, nid, nid_normal)


cdef object notice_of_mark(uint64_t start, uint64_t nr, uint64_t onlined, int nid):
    """Return the MemoryNotify of a mark. It bypasses MemoryNotify.__new__, a Python function that takes longer than the rest of
    a mark of one page."""
    cdef tuple notice = alloc_tuple(MemoryNotify, 7)
    put(notice, 0, start)
    put(notice, 1, nr)
    put(notice, 2, onlined)
    put(notice, 3, nid)
    put(notice, 4, NO_NODE)
    put(notice, 5, 0)
    put(notice, 6, 0)
    return notice


cdef inline void put(tuple notice, Py_ssize_t i, object value) noexcept:
    Py_INCREF(value)
    PyTuple_SET_ITEM(notice, i, value)


cdef object block_notice(Machine mem, uint64_t start, uint64_t nr):
    """Return the MemoryNotify of a memory block for MEM_PREPARE_ONLINE and MEM_FINISH_OFFLINE, or None when nobody hears them
    or the rules have no such actions."""
    cdef uint64_t own = memmap_within(mem, start)
    heard = mem.notifiers.heard & (MEM_PREPARE_ONLINE | MEM_FINISH_OFFLINE) and mem.rules.block_notices
    return MemoryNotify(start + own, nr - own, 0, -1, -1, start, own) if heard else None


cdef int memory_notify(Machine mem, int action, object notice) except -1:
    """Call the chain for an event that cannot be vetoed. notice None: there are no listeners. When nobody hears the action, the
    call is only counted."""
    if notice is None or not mem.notifiers.heard & action:
        mem.notifiers.calls += 1
        return 0
    if mem.lock.uninterrupted:
        mem.lock.call_back(mem.notifiers.tell, (action, notice))
    else:
        mem.notifiers.call_all(action, notice)
    return 0


cdef int memory_notify_going(Machine mem, int going, object notice, str what) except -1:
    """Call the chain for an event that can be vetoed, and raise the veto. notice: as memory_notify."""
    if notice is None or not mem.notifiers.heard & going:
        mem.notifiers.calls += 1
        return 0
    mem.changing = True
    try:
        veto = notifier_to_errno(mem.lock.call_back(mem.notifiers.call, (going, notice)))
        if veto:
            raise HotplugError.of(
                veto, f"{what} of {pfn_range(notice.start_pfn, notice.nr_pages)} was vetoed by a memory notifier"
            )
    finally:
        mem.changing = False
    return 0


cdef int memory_notify_cancel(Machine mem, tuple what) except -1:
    """Send the chain the notification that cancels the last one (an undo_step). what: (action, notice), or None without
    notifiers. Their callbacks may not change which memory is there, as more may have to be undone."""
    cdef bint changing = mem.changing
    if what is None:
        return memory_notify(mem, 0, None)
    mem.changing = True
    try:
        return memory_notify(mem, what[0], what[1])
    finally:
        mem.changing = changing


cdef int status_change_nid_normal(Machine mem, int z, uint64_t added) noexcept nogil:
    """The node of a kernel zone that a range goes to when no more than the `added` pages of the range are in its zones up to
    Normal, else -1 (node_states_check_changes_online)."""
    return zone_nid(&mem.zones.table, z) if up_to_normal(mem, z) == <int64_t>added and mem.nodes_lose_memory else -1


cdef int lost_nid_normal(Machine mem, int z, uint64_t nr) noexcept nogil:
    """The node of a kernel zone when `nr` pages are the last that its zones up to Normal have, else -1
    (node_states_check_changes_offline)."""
    cdef int64_t present = up_to_normal(mem, z)
    return zone_nid(&mem.zones.table, z) if 0 <= present <= <int64_t>nr and mem.nodes_lose_memory else -1


cdef int64_t up_to_normal(Machine mem, int z) noexcept nogil:
    """Present pages of the zones up to Normal on the node of zone z, or -1 where z is above Normal."""
    cdef int i
    cdef int64_t present = 0
    if zone_type(&mem.zones.table, z) > mem.zones.table.normal:
        return -1
    for i in range(mem.zones.table.normal + 1):
        present += zone_present(&mem.zones.table, zone_number(&mem.zones.table, zone_nid(&mem.zones.table, z), i))
    return present


cdef int status_change_nid(Machine mem, uint64_t start) noexcept:
    """The node of the page when none of its memory has been online, else -1 (node_states_check_changes_online)."""
    cdef int nid = mem.nid_of[start >> mem.sections.pfn_section_shift]
    # without node states that follow, 2.6.25 looks at node_present_pages
    cdef bint has_memory = mem.zones.table.nodes[nid].has_memory if mem.nodes_lose_memory else node_present_pages(mem, nid) > 0
    return -1 if has_memory else nid
