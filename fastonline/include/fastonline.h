/* The C and C++ API of fastonline: the functions of fastonline/hotplug/memory.pxd, through one capsule.
 *
 *     fastonline_api *fo = fastonline_import();              once, with the GIL; NULL: a Python exception is set
 *     fastonline_memory *mem = fo->memory(object);           of a fastonline.Memory, borrowed: keep a reference to the object
 *     fo->online_page(mem, pfn);                             with the GIL or without
 *
 * Compile with -I from fastonline.get_include(); nothing is linked. No function but memory() and own() needs the GIL
 * or touches a Python object; they return a count, a pfn, or a negative errno, having changed nothing. No notifier is called.
 *
 * Threads: one thread at a time may call these functions for one machine, and no other thread may call that machine from
 * Python meanwhile. Where there are other threads, take the machine first, and until it is given back do not call it from
 * Python in the same thread:
 *
 *     PyObject *held = fo->own(object);                      with the GIL; waits for whoever works on it; NULL: exception
 *     Py_BEGIN_ALLOW_THREADS ... fo->online_range(mem, ...) ... Py_END_ALLOW_THREADS
 *     Py_DECREF(held);                                       with the GIL: everybody's again
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

enum {                                  /* what counter() counts; of ALL_ZONES only: */
    FASTONLINE_COUNT_PAGES_ONLINED = 0,
    FASTONLINE_COUNT_PAGES_OFFLINED = 1,
    FASTONLINE_COUNT_FREE_PAGES = 2,    /* of a zone too: */
    FASTONLINE_COUNT_MANAGED_PAGES = 3,
    FASTONLINE_COUNT_PRESENT_PAGES = 4,
    FASTONLINE_COUNT_SPANNED_PAGES = 5,
    FASTONLINE_COUNT_NR_FREE = 6,       /* of an order: free blocks of it, */
    FASTONLINE_COUNT_MERGES = 7,        /* pairs merged out of it, */
    FASTONLINE_COUNT_SPLITS = 8,        /* blocks of it split, */
    FASTONLINE_COUNT_FREES = 9,         /* blocks freed */
    FASTONLINE_COUNT_ALLOCS = 10        /* and allocated */
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
    PyObject *(*own)(PyObject *object);                 /* new reference: the machine is this thread's until it goes */

    /* 1: went online; 0: was not Reserved; -EINVAL: not there or not prepared */
    int (*online_page)(fastonline_memory *mem, uint64_t pfn);
    /* pages that went online, in blocks of at most `order` (-1: as the rules say), or -EINVAL */
    int64_t (*online_range)(fastonline_memory *mem, uint64_t start_pfn, uint64_t nr_pages, int order);
    /* any pfns in any order: pages that went online, or -EINVAL: one is not there, not prepared, there twice */
    int64_t (*online_batch)(fastonline_memory *mem, const uint64_t *pfns, uint64_t nr);
    /* zone_nr: mem.zones["Normal"].nr, or page_zone(). A pfn, or -ENOMEM / -EINVAL */
    int64_t (*alloc_page)(fastonline_memory *mem, int zone_nr, int order);
    /* nr blocks, their first pfns to `out`: nr, or -ENOMEM: there are not so many / -EINVAL */
    int64_t (*alloc_bulk)(fastonline_memory *mem, int zone_nr, int order, uint64_t nr, int64_t *out);
    /* 0, or -EINVAL: that is not one allocation of this order */
    int (*free_page)(fastonline_memory *mem, uint64_t pfn, int order);
    /* single pages in any order: nr, or -EINVAL: one is no allocation of order 0, or there twice */
    int64_t (*free_batch)(fastonline_memory *mem, const uint64_t *pfns, uint64_t nr);
    /* mask of FASTONLINE_PG_*, 0 where no page is */
    int (*page_state)(fastonline_memory *mem, uint64_t pfn);
    /* zone_nr of the zone a page is in, or -EINVAL: in none */
    int (*page_zone)(fastonline_memory *mem, uint64_t pfn);
    /* FASTONLINE_COUNT_*, exact, of a zone or of ALL_ZONES; order: 0 but for those of an order. -EINVAL: there is none such */
    int64_t (*counter)(fastonline_memory *mem, int zone_nr, int which, int order);
} fastonline_api;

/* The functions, or NULL with ImportError set: fastonline is not there, or not of the ABI that this file was compiled with. */
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
