/* The C and C++ API of fastonline: the functions of fastonline/hotplug/memory.pxd, through one capsule.
 *
 *     fastonline_api *fo = fastonline_import();              once, with the GIL; NULL: a Python exception is set
 *     fastonline_memory *mem = fo->memory(object);           borrowed: keep a reference to the fastonline.Memory
 *     fo->online_page(mem, pfn);                             with or without the GIL
 *
 * Compile with -I from fastonline.get_include(); there is nothing to link. Only memory() and own() need the GIL. The other
 * functions touch no Python object and call no notifier. They return a count, a pfn or a negative errno; a call that fails
 * changes nothing.
 *
 * Threads: only one thread at a time may call these functions for one machine, and no other thread may call that machine from
 * Python meanwhile. With several threads, lock the machine first. Until it is unlocked, do not call it from Python in the same
 * thread:
 *
 *     PyObject *held = fo->own(object);                      with the GIL; waits for other threads; NULL: a Python exception
 *     Py_BEGIN_ALLOW_THREADS ... fo->online_range(mem, ...) ... Py_END_ALLOW_THREADS
 *     Py_DECREF(held);                                       with the GIL: the lock is released
 */
#ifndef FASTONLINE_H
#define FASTONLINE_H

#include <Python.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define FASTONLINE_ABI 2
#define FASTONLINE_CAPSULE "fastonline.capi._C_API"

enum {
    FASTONLINE_ALL_ZONES = -1           /* to counter(): the sum over the zones */
};

enum {                                  /* what counter() counts. These two need ALL_ZONES: */
    FASTONLINE_COUNT_PAGES_ONLINED = 0,
    FASTONLINE_COUNT_PAGES_OFFLINED = 1,
    FASTONLINE_COUNT_FREE_PAGES = 2,    /* ALL_ZONES or one zone: */
    FASTONLINE_COUNT_MANAGED_PAGES = 3,
    FASTONLINE_COUNT_PRESENT_PAGES = 4,
    FASTONLINE_COUNT_SPANNED_PAGES = 5,
    FASTONLINE_COUNT_NR_FREE = 6,       /* by order: free blocks */
    FASTONLINE_COUNT_MERGES = 7,        /* by order: pairs merged out of it */
    FASTONLINE_COUNT_SPLITS = 8,        /* by order: blocks split */
    FASTONLINE_COUNT_FREES = 9,         /* by order: blocks freed */
    FASTONLINE_COUNT_ALLOCS = 10        /* by order: blocks allocated */
};

enum {                                  /* bits of page_state() */
    FASTONLINE_PG_reserved = 1,
    FASTONLINE_PG_buddy = 2,
    FASTONLINE_PG_offline = 4,
    FASTONLINE_PG_tail = 8,
    FASTONLINE_PG_prepared = 16
};

typedef struct fastonline_memory fastonline_memory;

typedef struct fastonline_api {
    int abi;                            /* FASTONLINE_ABI of the fastonline that is installed */

    fastonline_memory *(*memory)(PyObject *object);     /* NULL and TypeError if it is not a fastonline.Memory */
    PyObject *(*own)(PyObject *object);                 /* new reference: locks the machine for this thread while it lives */

    /* Returns 1: online now; 0: was not Reserved; -EINVAL: not present or not prepared */
    int (*online_page)(fastonline_memory *mem, uint64_t pfn);
    /* Frees blocks of at most `order` (-1: the order of the rules). Returns the pages that went online, or -EINVAL */
    int64_t (*online_range)(fastonline_memory *mem, uint64_t start_pfn, uint64_t nr_pages, int order);
    /* pfns in any order. Returns the pages that went online, or -EINVAL: one is not present, not prepared or repeated */
    int64_t (*online_batch)(fastonline_memory *mem, const uint64_t *pfns, uint64_t nr);
    /* zone_nr: mem.zones["Normal"].nr, or page_zone(). Returns a pfn, -ENOMEM or -EINVAL */
    int64_t (*alloc_page)(fastonline_memory *mem, int zone_nr, int order);
    /* Writes the first pfn of each of nr blocks to `out`. Returns nr, -ENOMEM (fewer are free) or -EINVAL */
    int64_t (*alloc_bulk)(fastonline_memory *mem, int zone_nr, int order, uint64_t nr, int64_t *out);
    /* Returns 0, or -EINVAL: no allocation of this order begins there */
    int (*free_page)(fastonline_memory *mem, uint64_t pfn, int order);
    /* Single pages in any order. Returns nr, or -EINVAL: one is not an allocation of order 0, or repeated */
    int64_t (*free_batch)(fastonline_memory *mem, const uint64_t *pfns, uint64_t nr);
    /* Returns a mask of FASTONLINE_PG_*, 0 where there is no page */
    int (*page_state)(fastonline_memory *mem, uint64_t pfn);
    /* Returns the zone_nr of a page's zone, or -EINVAL: it has none */
    int (*page_zone)(fastonline_memory *mem, uint64_t pfn);
    /* which: FASTONLINE_COUNT_*; zone_nr: a zone or ALL_ZONES; order: 0 unless counted by order. Exact, or -EINVAL */
    int64_t (*counter)(fastonline_memory *mem, int zone_nr, int which, int order);
} fastonline_api;

/* Returns the functions, or NULL with ImportError set: fastonline is not installed, or has another ABI than this header. */
static inline fastonline_api *fastonline_import(void)
{
    fastonline_api *api = (fastonline_api *)PyCapsule_Import(FASTONLINE_CAPSULE, 0);
    if (api != NULL && api->abi != FASTONLINE_ABI) {
        PyErr_Format(PyExc_ImportError, "compiled for ABI %d of fastonline, and the one installed has %d: compile again",
                     FASTONLINE_ABI, api->abi);
        return NULL;
    }
    return api;
}

#ifdef __cplusplus
}
#endif

#endif
