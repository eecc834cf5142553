"""The integer types and limits that every kernel shares."""

from libc.stdint cimport (
    int8_t, int16_t, int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t,
)

cdef extern from *:
    """
    #include <stdint.h>
    /* One body, several instruction sets, chosen when the module is loaded: an ordinary wheel then runs popcount and AVX2
       where the machine has them. Compilers or C libraries that cannot do it build the plain body only. */
    #if defined(__x86_64__) && defined(__GLIBC__) && defined(__GNUC__) && !defined(__clang__) && __GNUC__ >= 12 \\
        && !defined(__SANITIZE_ADDRESS__) && !defined(FASTONLINE_NO_CLONES)
    #define FASTONLINE_CLONES __attribute__((target_clones("arch=x86-64-v3", "default")))
    #else
    #define FASTONLINE_CLONES
    #endif
    #define FASTONLINE_ALL_ONES UINT64_MAX
    """
    const uint64_t ALL_ONES "FASTONLINE_ALL_ONES"

ctypedef uint64_t pfn_t      # page frame number
ctypedef uint64_t word_t     # 64 pages of one flag
ctypedef uint16_t area_t     # number of a buddy_pool

cdef enum:
    BITS_PER_WORD = 64
    NR_ORDERS = 16           # length of every per-order array; orders in use are 0..max_order
    MIN_MAX_ORDER = 6        # smallest max_order a geometry may ask for: a block is at least a word of bits
    MAX_MAX_ORDER = 13       # largest max_order a geometry may ask for: 512 MiB blocks of 64 KiB pages
    MAX_AREAS = 512          # free areas of an engine
    NO_AREA = 0              # the block belongs to no free area; areas[0] is not used

# More bits or pages cannot be allocated: sizes in bytes stay below 2^64 and do not wrap.
cdef inline uint64_t max_bits() noexcept nogil:
    return <uint64_t>1 << 52
