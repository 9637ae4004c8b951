# cython: language_level=3
# The attributes and C methods of contents and radix trees, for the policies that use them.

cdef class Contents:
    cdef long long[::1] offset, first, count
    cdef bint known
    cdef long long key(self, int request, long long position) noexcept
    cdef long long common(self, int one, int other, long long limit) noexcept

cdef class Node:
    cdef Node parent
    cdef int owner, children, locks, place
    cdef long long start, end, touched
    cdef bint alive, queued

cdef class Radix:
    cdef Contents contents
    cdef long long page, time
    cdef public long long size, evictable
    cdef public Node root
    cdef bint tgi
    cdef int places, serial
    cdef list spare, heap
    cdef dict nodes
    cdef public Node end
    cdef long long descend(self, int request, long long tokens, bint part) except? -1
    cdef long long match(self, int request, long long tokens) except? -1
    cdef long long insert(self, int request, long long tokens) except? -1
    cdef Node grow(self, int owner, long long start, long long end, Node parent)
    cdef Node part(self, Node child, long long at)
    cdef int lock(self, Node node) except? -1
    cdef int unlock(self, Node node) except? -1
    cdef int offer(self, Node node) except? -1
    cdef long long evict(self, long long tokens) except? -1
    cdef int drop(self, Node leaf) except? -1
