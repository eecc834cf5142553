cdef extern from "<pthread.h>" nogil:
    ctypedef unsigned long pthread_t
    int pthread_create(pthread_t *, const void *, void *(*)(void *) noexcept nogil, void *)
    int pthread_join(pthread_t, void **)

cdef struct piece:
    range_step run
    void *what
    int step
    pfn_t start
    uint64_t nr


cdef void *run_piece(void *of) noexcept nogil:
    cdef piece *p = <piece *>of
    p.run(p.what, p.step, p.start, p.nr)
    return NULL


cdef void in_threads(range_step run, void *what, int step, pfn_t start, uint64_t nr, uint64_t unit, int threads) noexcept nogil:
    cdef piece pieces[MAX_THREADS]
    cdef pthread_t ids[MAX_THREADS]
    cdef bint runs[MAX_THREADS]
    cdef uint64_t share = ((nr + threads - 1) // threads + unit - 1) // unit * unit
    cdef int i, count = 0
    while nr:
        pieces[count] = piece(run, what, step, start, min(share, nr))
        start += pieces[count].nr
        nr -= pieces[count].nr
        count += 1
    # the first piece is the caller's, and every one that there is no thread for
    for i in range(1, count):
        runs[i] = pthread_create(&ids[i], NULL, run_piece, &pieces[i]) == 0
    run_piece(&pieces[0])
    for i in range(1, count):
        if runs[i]:
            pthread_join(ids[i], NULL)
        else:
            run_piece(&pieces[i])
