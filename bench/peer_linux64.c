/* The kernel-shaped C baseline (its directory in FASTONLINE_BASELINE) as peers.py calls a peer. */
#include "bench.h"
#include "p_linux.c"

int peer_setup(uint64_t nr_pages) { return setup(nr_pages); }

/* every page Reserved, none free */
void peer_reset(void) { reset(); }

uint64_t peer_online_range(uint64_t start, uint64_t nr) { return w1() ? 0 : nr; }

uint64_t peer_online_pfns(const uint32_t *pfns, uint64_t nr) { return free_many(pfns, nr) ? 0 : nr; }

uint64_t peer_alloc(uint32_t *out, uint64_t nr) { return alloc_many(out, nr); }

uint64_t peer_free(const uint32_t *pfns, uint64_t nr)
{
	for (uint64_t i = 0; i < nr; i++) {
		map[pfns[i]].refc = 0;
		free_one(pfns[i], 0);
	}
	return nr;
}

uint64_t peer_take_range(uint64_t start, uint64_t nr) { return w5full(start, nr) ? 0 : nr; }

uint64_t peer_free_pages(void)
{
	uint64_t pages = 0;
	for (int order = 0; order <= MAXO; order++)
		pages += fa[order].nr << order;
	return pages;
}

uint64_t peer_state_bytes(void) { return sb(); }
