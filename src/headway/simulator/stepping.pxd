# cython: language_level=3
# The attributes and C methods of the general engine, for the policies that are built on it.

from headway.simulator.server cimport Server

cdef class Table:
    cdef long long[::1] arrive, isl, most, abort, hold, known, computed, eligible, spoke, first, last, ended
    cdef int[::1] osl, priority, rank, adapter, cached, preempted, delivered, outputs
    cdef int[::1] placeholders, flying, spec, tries, epoch, older, newer, holder
    cdef signed char[::1] remote, state, reason, status, chunk

cdef class Line:
    cdef public int head, tail, size
    cdef Table table
    cdef bint ordered
    cdef bint sooner(self, int one, int other) noexcept
    cdef int insert(self, int request, int behind) noexcept
    cdef int push(self, int request) noexcept
    cdef int push_back(self, int request) noexcept
    cdef int remove(self, int request) noexcept

cdef class Batch:
    cdef int[::1] request, tokens, drafts, accepted, epoch
    cdef long long[::1] before
    cdef signed char[::1] fresh, samples
    cdef public int count
    cdef public long long total, context, number, scheduled, begin, end
    cdef public object row
    cdef public list admitted, preempted, finished
    cdef int clear(self) except? -1
    cdef int add(self, int request, int tokens, int drafts, bint fresh) except? -1
    cdef int strike(self, int request) except? -1

cdef class Stepper(Server):
    cdef public Table table
    cdef public long long now, steps, scheduled_tokens, preemptions
    cdef long long busy_until
    cdef public tuple gaps
    cdef long long max_model_len, base_ps, token_ps
    cdef bint asynchronous, popping, flush, connected, drops_stale
    cdef int stages, depth, drafting
    cdef int[::1] accepts
    cdef long long[::1] decode, mixed, stage_end
    cdef long long context_ps, pair_ps, sequence_ps, prefill_context_ps, window_ps, window
    cdef object record
    cdef list ring, transfers, aborts
    cdef int ring_head, ring_size, held_back
    cdef long long calls, processed, next_abort, unfinished
    cdef long long gap_a, gap_weight
    # hooks
    cdef int enter(self, int request) except? -1
    cdef int form(self, Batch batch) except? -1
    cdef int settle(self, int request) except? -1
    cdef int leave(self, int request) except? -1
    cdef int arrived(self, int request) except? -1
    cdef int done_with(self, long long number) except? -1
    cpdef long long free_blocks(self)
    cpdef long long used_blocks(self)
    # the loop
    cdef int sleep(self, long long until) except? -1
    cdef long long next_transfer(self) noexcept
    cdef int hang_up(self) except? -1
    # a batch
    cdef Batch launch(self)
    cdef int charge(self, Batch batch) except? -1
    cdef long long duration(self, Batch batch) noexcept
    cdef int pop(self) except? -1
    cdef int speak(self, Batch batch, int i, int request) except? -1
    cdef int reason_to_end(self, int request) noexcept
    cdef int tell(self, int request) except? -1
    cdef int note_gaps(self) except? -1
    cdef int conclude(self, int request, int reason) except? -1
    cdef int receive(self, Batch batch) except? -1
    cdef int send_off(self, int request, str kind, long long duration, long long tokens, long long known) except? -1
