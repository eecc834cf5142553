/* LLFree in C (github.com/luhsra/llfree-c, its directory in FASTONLINE_LLFREE) as peers.py calls a peer: one core. */
#include <stdint.h>
#include <stdlib.h>
#include "llfree.h"
#include "llfree_inner.h"

static llfree_t self;
static llfree_meta_t meta;
static llfree_classing_t classing;
static size_t frames, bytes;

static llfree_request_t single(void) { return llfree_simple_request(1, 0, 0); }

static uint8_t *room(size_t size)
{
	bytes += size;
	size = (size + LLFREE_CACHE_SIZE - 1) / LLFREE_CACHE_SIZE * LLFREE_CACHE_SIZE;
	return aligned_alloc(LLFREE_CACHE_SIZE, size ? size : LLFREE_CACHE_SIZE);
}

int peer_setup(uint64_t nr_pages)
{
	free(meta.local);
	free(meta.trees);
	free(meta.lower);
	frames = nr_pages;
	bytes = 0;
	classing = llfree_classing_simple(1);
	llfree_meta_size_t size = llfree_metadata_size(&classing, frames);
	meta = (llfree_meta_t){ .local = room(size.local), .trees = room(size.trees), .lower = room(size.lower) };
	return !meta.local || !meta.trees || !meta.lower;
}

/* every frame allocated, none free */
void peer_reset(void)
{
	if (!llfree_is_ok(llfree_init(&self, frames, LLFREE_INIT_ALLOC, meta, &classing)))
		abort();
}

uint64_t peer_online_range(uint64_t start, uint64_t nr)
{
	llfree_request_t huge = llfree_simple_request(1, LLFREE_HUGE_ORDER, 0);
	uint64_t done = 0;
	for (uint64_t pfn = start; pfn < start + nr; pfn += 1u << LLFREE_HUGE_ORDER)
		done += llfree_is_ok(llfree_put(&self, frame_id(pfn), huge)) ? 1u << LLFREE_HUGE_ORDER : 0;
	return done;
}

uint64_t peer_online_pfns(const uint32_t *pfns, uint64_t nr)
{
	uint64_t done = 0;
	for (uint64_t i = 0; i < nr; i++)
		done += llfree_is_ok(llfree_put(&self, frame_id(pfns[i]), single()));
	return done;
}

uint64_t peer_alloc(uint32_t *out, uint64_t nr)
{
	for (uint64_t i = 0; i < nr; i++) {
		llfree_result_t got = llfree_get(&self, frame_id_none(), single());
		if (!llfree_is_ok(got))
			return i;
		out[i] = (uint32_t)got.frame.value;
	}
	return nr;
}

uint64_t peer_free(const uint32_t *pfns, uint64_t nr) { return peer_online_pfns(pfns, nr); }

uint64_t peer_take_range(uint64_t start, uint64_t nr)
{
	llfree_request_t huge = llfree_simple_request(1, LLFREE_HUGE_ORDER, 0);
	uint64_t done = 0;
	for (uint64_t pfn = start; pfn < start + nr; pfn += 1u << LLFREE_HUGE_ORDER)
		done += llfree_is_ok(llfree_get(&self, frame_id_some(frame_id(pfn)), huge)) ? 1u << LLFREE_HUGE_ORDER : 0;
	return done;
}

uint64_t peer_free_pages(void) { return llfree_stats(&self).free_frames; }

uint64_t peer_state_bytes(void) { return bytes; }
