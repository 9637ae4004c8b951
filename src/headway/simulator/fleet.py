# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True, nonecheck=False
# mypy: disable-error-code="untyped-decorator"
"""A fleet: arrivals, a router and replicas, whatever runs inside them.

Tournament   which of some numbers is the least
Fleet        requests in order of arrival, each to the replica its router says; in a closed loop, as clients free up
"""

from __future__ import annotations

from typing import Any

import cython
import numpy as np

if cython.compiled:
    from cython.cimports.headway.simulator.server import Clients, Server
else:
    from headway.simulator.server import Clients, Server  # noqa: TC001 - C takes the types from it
from headway.simulator.arrays import ints, view

COMPILED: bool = cython.compiled
NEVER = cython.declare(cython.longlong, 1 << 62)
_FAILED = cython.declare(cython.schar, 2)  # simulation.FAILED


@cython.final
@cython.cclass
class Tournament:
    """Which of some numbers is the least, the first of equals: node i is won by the better of nodes 2i and 2i + 1."""

    number: cython.longlong[::1]
    winner: cython.int[::1]
    leaves: cython.int

    def __init__(self, count: int, number: int) -> None:
        self.leaves = 1 << (count - 1).bit_length()
        self.number = ints(self.leaves, NEVER, np.int64)
        self.winner = ints(2 * self.leaves)
        for leaf in range(self.leaves):
            self.winner[self.leaves + leaf] = leaf
        for node in range(self.leaves - 1, 0, -1):
            self.winner[node] = self.winner[2 * node]
        for index in range(count):
            self.put(index, number)

    @cython.cfunc
    @cython.inline
    @cython.exceptval(check=False)
    def first(self) -> cython.int:
        """Return where the least is."""
        return self.winner[1]

    @cython.cfunc
    @cython.exceptval(check=False)
    def put(self, index: cython.int, number: cython.longlong) -> cython.int:
        """Change a number."""
        if self.number[index] == number:
            return 0
        self.number[index] = number
        best: cython.int = index
        node: cython.int = self.leaves + index
        while node > 1:  # without branches: who wins cannot be predicted
            rival: cython.int = self.winner[node ^ 1]
            other: cython.longlong = self.number[rival]
            beaten: cython.longlong = -(other < number + (node & 1))  # of equals the left one wins; all bits or none
            best ^= (best ^ rival) & cython.cast(cython.int, beaten)
            number ^= (number ^ other) & beaten
            node >>= 1
            self.winner[node] = best
        return 0


@cython.final
@cython.cclass
class Fleet:
    """Arrivals, a router and replicas.

    Where the router looks at loads, requests go to the replica with the fewest outstanding (waiting or running)
    requests, the first of equals; given runs and their labels, to the replica that was last sent the longest prefix
    if it is long enough and loads are not too unequal (see `simulate`).
    """

    engines: list[Any]
    replicas: cython.int
    # of all requests
    arrive: cython.longlong[::1]
    isl: cython.longlong[::1]
    state: cython.schar[::1]
    ends: Tournament  # of the pending legs
    loads: Tournament
    freedom: Tournament  # −load: its first is the busiest
    # what was sent where, by label of a run
    by_prefix: cython.bint
    tokens_per_block: cython.longlong
    offset: cython.longlong[::1]
    count: cython.longlong[::1]
    label: cython.int[::1]
    sent_to: cython.int[::1]
    sent: cython.longlong[::1]  # blocks of the run
    # samples
    window_ps: cython.longlong
    series: cython.longlong[:, ::1]  # queue, running, blocks in use, busy_ps so far
    sampled: cython.longlong
    # a closed loop
    clients: Clients
    due: cython.longlong[::1]  # no request is sent before
    abort: cython.longlong[::1]  # when its client hangs up; empty where none does
    following: cython.longlong  # the request sent next
    at_hand: cython.int[::1]  # engines for whom a step has just ended, and who have not scheduled since
    hands: cython.int
    is_at_hand: cython.schar[::1]

    def __init__(self, engines: list[Any], columns: dict[str, Any], window_ps: int, series: Any, prefixes: Any) -> None:
        """Set up; `prefixes` = (runs of the requests in blocks, labels of the runs, tokens of a block), or None."""
        self.engines, self.replicas = engines, len(engines)
        self.arrive, self.isl = view(columns["arrive_ps"]), view(columns["isl_tokens"])
        self.state = view(columns["state"])
        self.ends = Tournament(len(engines), NEVER)
        self.loads, self.freedom = Tournament(len(engines), 0), Tournament(len(engines), 0)
        self.window_ps, self.series, self.sampled = window_ps, view(series), 0
        self.by_prefix = prefixes is not None
        if prefixes is not None:
            runs, labels, self.tokens_per_block = prefixes
            self.offset, self.count, self.label = view(runs[1]), view(runs[3]), view(labels)
            self.sent_to, self.sent = ints(len(labels), -1), ints(len(labels), 0, np.int64)

    def run(self, replica: Any, until: int, balance: bool) -> None:  # noqa: FBT001 - called once
        """Let everything happen up to `until`; `replica` holds the choices, filled in here where loads matter."""
        if balance or self.series.shape[0] > 0 or self.replicas == 1:
            self._arrivals(view(replica), until, balance)
        else:
            self._one_by_one(view(replica), until)
        index: cython.int
        for index in range(self.replicas):
            engine: Server = self.engines[index]
            engine.advance(until + 1)
            engine.stop(until)

    def run_closed(self, replica: Any, until: int, balance: bool, clients: Any, due: Any, abort: Any) -> int:  # noqa: FBT001 - called once
        """As `run`, but each request is sent by a client that is free; return how many were."""
        self.clients, self.due, self.abort = clients, view(due), view(abort)
        self.following = self.hands = 0
        self.at_hand, self.is_at_hand = ints(self.replicas), ints(self.replicas, 0, np.int8)
        index: cython.int
        for index in range(self.replicas):
            engine: Server = self.engines[index]
            engine.clients = self.clients
        self._events(view(replica), until, balance)
        for index in range(self.replicas):
            engine = self.engines[index]
            engine.stop(until)
        return int(self.following)

    @cython.cfunc
    @cython.exceptval(-1)
    def _arrivals(self, choice: cython.int[::1], until: cython.longlong, balance: cython.bint) -> cython.int:
        i: cython.longlong
        for i in range(self.arrive.shape[0]):
            now: cython.longlong = self.arrive[i]
            if now > until:
                break
            if self.sampled < self.series.shape[0]:
                self._sample_before(now)
            if self.state[i] == _FAILED:
                continue
            if balance:
                self._advance_all(now)
                choice[i] = self._by_prefix(i) if self.by_prefix else self.loads.first()
            index: cython.int = choice[i]
            engine: Server = self.engines[index]
            engine.advance(now)
            engine.arrive(cython.cast(cython.int, i), now)
            if balance:
                self._update(index)
        if self.sampled < self.series.shape[0]:
            self._sample_before(until + 1)
        return 0

    @cython.cfunc
    @cython.exceptval(-1)
    def _one_by_one(self, choice: cython.int[::1], until: cython.longlong) -> cython.int:
        """Let one replica after the other live through its requests: kinder to caches, where nobody looks at loads."""
        heads: cython.int[::1] = ints(self.replicas, -1)
        after: cython.int[::1] = ints(self.arrive.shape[0])
        i: cython.longlong
        for i in range(self.arrive.shape[0] - 1, -1, -1):
            if self.state[i] != _FAILED and self.arrive[i] <= until:
                after[i] = heads[choice[i]]
                heads[choice[i]] = cython.cast(cython.int, i)
        index: cython.int
        for index in range(self.replicas):
            engine: Server = self.engines[index]
            request: cython.int = heads[index]
            while request >= 0:
                engine.advance(self.arrive[request])
                engine.arrive(request, self.arrive[request])
                request = after[request]
        return 0

    @cython.cfunc
    @cython.exceptval(-1)
    def _advance_all(self, now: cython.longlong) -> cython.int:
        while self.ends.number[self.ends.first()] < now:
            index: cython.int = self.ends.first()
            engine: Server = self.engines[index]
            engine.advance(now)
            self._update(index)
        return 0

    @cython.cfunc
    @cython.exceptval(check=False)
    def _update(self, index: cython.int) -> cython.int:
        engine: Server = self.engines[index]
        load: cython.int = engine.waiting + engine.running
        self.ends.put(index, engine.end)
        self.loads.put(index, load)
        if self.by_prefix:
            self.freedom.put(index, -load)
        return 0

    @cython.cfunc
    @cython.exceptval(-1)
    def _by_prefix(self, request: cython.longlong) -> cython.int:
        chosen: cython.int = self.loads.first()
        least: cython.longlong = self.loads.number[chosen]
        most: cython.longlong = -self.freedom.number[self.freedom.first()]
        balanced: cython.bint = most - least <= 64 or 2 * most <= 3 * least
        shared: cython.longlong = 0
        before: cython.longlong = 0
        run: cython.longlong
        for run in range(self.offset[request], self.offset[request + 1]):
            label: cython.int = self.label[run]
            if self.sent_to[label] >= 0 and balanced:
                shared = before + min(self.count[run], self.sent[label])
                shared = min(shared * self.tokens_per_block, self.isl[request])
                if 10 * shared > 3 * self.isl[request]:
                    chosen = self.sent_to[label]
            before += self.count[run]
        for run in range(self.offset[request], self.offset[request + 1]):
            self.sent_to[self.label[run]] = chosen
            self.sent[self.label[run]] = self.count[run]
        return chosen

    @cython.cfunc
    @cython.exceptval(-1)
    def _sample_before(self, now: cython.longlong) -> cython.int:
        """Sample all windows that end before `now`."""
        while self.sampled < self.series.shape[0] and (self.sampled + 1) * self.window_ps < now:
            self._sample((self.sampled + 1) * self.window_ps)
        return 0

    @cython.cfunc
    @cython.exceptval(-1)
    def _sample(self, now: cython.longlong) -> cython.int:
        row: cython.longlong = self.sampled
        index: cython.int
        for index in range(self.replicas):
            engine: Server = self.engines[index]
            engine.advance(now + 1)
            self.series[row, 0] += engine.waiting
            self.series[row, 1] += engine.running
            self.series[row, 2] += engine.used(now)
            self.series[row, 3] += engine.busy_by(now)
            self._update(index)
        self.sampled = row + 1
        return 0

    # --- a closed loop

    @cython.cfunc
    @cython.exceptval(-1)
    def _events(self, choice: cython.int[::1], until: cython.longlong, balance: cython.bint) -> cython.int:
        """Go from instant to instant at which a request is sent or a replica has something to do."""
        while True:
            now: cython.longlong = min(self._next_sent(), self.ends.number[self.ends.first()])
            if self.sampled < self.series.shape[0]:
                self._sample_before(min(now, until + 1))
            if now > until:
                return 0
            self._live(choice, now, balance)

    @cython.cfunc
    @cython.inline
    @cython.exceptval(check=False)
    def _next_sent(self) -> cython.longlong:
        """Return when the next request is sent, NEVER where no client is free or none is left."""
        if self.following == self.due.shape[0]:
            return NEVER
        return max(self.due[self.following], self.clients.first())

    @cython.cfunc
    @cython.exceptval(-1)
    def _live(self, choice: cython.int[::1], now: cython.longlong, balance: cython.bint) -> cython.int:
        """All that happens at an instant: arrivals, ends, arrivals for which these free a client, and schedules."""
        while self._next_sent() == now and (self.clients.turnaround > 0 or self.clients.first() < now):
            self._send(choice, now, balance)
        index: cython.int
        while True:
            while self.ends.number[self.ends.first()] == now:
                index = self.ends.first()
                engine: Server = self.engines[index]
                engine.commit()
                self.at_hand[self.hands] = index
                self.hands += 1
                self.is_at_hand[index] = True
                self._look(index)
            if self._next_sent() > now:
                break
            self._send(choice, now, balance)
        while self.hands > 0:
            self.hands -= 1
            index = self.at_hand[self.hands]
            engine = self.engines[index]
            engine.schedule()
            self.is_at_hand[index] = False
            self._look(index)
        return 0

    @cython.cfunc
    @cython.exceptval(check=False)
    def _look(self, index: cython.int) -> cython.int:
        """Note what has become of a replica; one that is at hand has nothing to wait for."""
        self._update(index)
        if self.is_at_hand[index]:
            self.ends.put(index, NEVER)
        return 0

    @cython.cfunc
    @cython.exceptval(-1)
    def _send(self, choice: cython.int[::1], now: cython.longlong, balance: cython.bint) -> cython.int:
        """Let the first free client send the next request."""
        i: cython.longlong = self.following
        self.following += 1
        self.clients.take()
        self.arrive[i] = now
        if self.state[i] == _FAILED:
            self.clients.put(now)
            return 0
        if self.abort.shape[0] > 0 and self.abort[i] < NEVER:
            self.abort[i] += now - self.due[i]  # a client's patience begins when it sends
        if balance:
            choice[i] = self._by_prefix(i) if self.by_prefix else self.loads.first()
        index: cython.int = choice[i]
        engine: Server = self.engines[index]
        engine.arrive(cython.cast(cython.int, i), now)
        self._look(index)
        return 0
