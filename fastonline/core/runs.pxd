"""Runs: numbers that follow one upon the other, neighbours that are equal, ones or zeros of a plane."""

from fastonline.core.types cimport uint64_t, word_t

# [(first bit, how many)] of the ones (value 1) or zeros (value 0) of a plane in [start, end)
cdef list bit_runs(const word_t *words, uint64_t start, uint64_t end, bint value)
