"""The heart of the simulator's loop in small: arrivals cut jumps, finishes come from a heap, blocks have phases.

One source for CPython, Cython (pure-Python mode) and Numba; `kernel.c` says the same in C.
"""

# ruff: noqa: FBT003, C901, PLR0912 - directives take booleans; one function, since calls are not what is compared
from __future__ import annotations

from typing import Any

import cython

if cython.compiled:
    from cython.cimports.libc.math import sqrt
else:
    from math import sqrt


@cython.boundscheck(False)
@cython.wraparound(False)
@cython.initializedcheck(False)
@cython.cdivision(True)
def kernel(
    arrive: cython.longlong[::1],
    outputs: cython.longlong[::1],
    heap: cython.longlong[::1],
    phases: cython.longlong[::1],
    prompt: cython.longlong,
) -> Any:
    """Serve requests one after another as they come; return the final time plus the blocks taken (a checksum)."""
    count: cython.longlong = arrive.shape[0]
    size: cython.longlong = phases.shape[0]
    t: cython.longlong = 0
    it: cython.longlong = 0
    s: cython.longlong = 0
    n: cython.longlong = 0
    blocks: cython.longlong = 0
    i: cython.longlong = 0
    while i < count or n > 0:
        if n == 0 and t < arrive[i]:
            t = arrive[i]
        if i < count and arrive[i] <= t:  # one explicit iteration: a prompt joins
            t += 6_000_000 + 18_000 * (n + prompt) + 40 * s
            it += 1
            s += n + prompt
            phases[(prompt + size - it % size) % size] += 1
            entry: cython.longlong = (it + outputs[i]) << 20 | outputs[i]
            hole: cython.longlong = n
            while hole > 0 and heap[(hole - 1) >> 1] > entry:
                heap[hole] = heap[(hole - 1) >> 1]
                hole = (hole - 1) >> 1
            heap[hole] = entry
            n += 1
            i += 1
        else:  # a jump to the next finish, or to the next arrival if that is sooner
            k: cython.longlong = (heap[0] >> 20) - it
            a: cython.longlong = 6_000_000 + 28_000 * n + 40 * s
            d: cython.longlong = 40 * n
            if i < count:
                wait: cython.longlong = arrive[i] - t
                b: cython.double = a - 0.5 * d
                cut: cython.longlong = int(2.0 * wait / (b + sqrt(b * b + 2.0 * d * wait)))
                while cut > 1 and (cut - 1) * a + d * ((cut - 1) * (cut - 2) // 2) >= wait:
                    cut -= 1
                while cut * a + d * (cut * (cut - 1) // 2) < wait:
                    cut += 1
                k = min(k, cut)
            if k > 0:
                blocks += n * (k // size)
                phase: cython.longlong = (size - it % size) % size
                left: cython.longlong = k % size
                while left > 0:
                    blocks += phases[phase]
                    phase = phase - 1 if phase > 0 else size - 1
                    left -= 1
                t += k * a + d * (k * (k - 1) // 2)
                it += k
                s += n * k
        while n > 0 and heap[0] >> 20 <= it:  # finishes
            context: cython.longlong = prompt + (heap[0] & 0xFFFFF)
            s -= context
            phases[(context + size - it % size) % size] -= 1
            n -= 1
            last: cython.longlong = heap[n]
            gap: cython.longlong = 0
            child: cython.longlong = 1
            while child < n:
                if child + 1 < n and heap[child + 1] < heap[child]:
                    child += 1
                if heap[child] >= last:
                    break
                heap[gap] = heap[child]
                gap = child
                child = 2 * gap + 1
            heap[gap] = last
    return t + blocks
