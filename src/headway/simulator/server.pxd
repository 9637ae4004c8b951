# cython: language_level=3

cdef class Server:
    cdef public long long end, busy
    cdef public int waiting, running
    cdef int advance(self, long long until) except? -1
    cdef int arrive(self, int request, long long now) except? -1
    cdef int stop(self, long long now) except? -1
    cdef long long used(self, long long now) except? -1
    cdef long long busy_by(self, long long now) except? -1
