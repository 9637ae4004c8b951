# cython: language_level=3

cdef class Clients:
    cdef long long[::1] free
    cdef public long long turnaround
    cdef int head
    cdef public int size
    cdef long long first(self) noexcept
    cdef int take(self) noexcept
    cdef int put(self, long long now) noexcept

cdef class Server:
    cdef public long long end, busy
    cdef public int waiting, running
    cdef public Clients clients
    cdef int advance(self, long long until) except? -1
    cdef int commit(self) except? -1
    cdef int schedule(self) except? -1
    cdef int arrive(self, int request, long long now) except? -1
    cdef int stop(self, long long now) except? -1
    cdef long long used(self, long long now) except? -1
    cdef long long busy_by(self, long long now) except? -1
