"""A real endpoint: what it says of itself, traffic sent to it, its own metrics meanwhile, and what came back.

A run goes through the modules in this order; `nouns` says what they hand on (`Endpoint`, `Load`, `Sent`, `Scrape`).

- Whom: `address` says who may be spoken to, `keys` hold what nobody sees. `endpoint.discover` asks a server what it
  is, through `asking`; `settings` turns what its engine tells into settings of the simulator's.
- What to send: `loads` makes a `Load` of requests (when, how fast, by how many clients). `prompts` writes their
  bodies: `contents` chooses numbers that share exactly what the prefix ids share, `vocabulary` the tokens or words
  for them, and `bodies` is all that the client wants of them.
- Sending: `client.send` runs a load within `limits`, on a `clock`. Each request is a `flight`; `turns` keeps sessions
  in order and has the bodies of later turns, which may ask the server, made `apart`; `transport` notes when each byte
  came, and nothing is read until an answer is whole. Then `sse` splits the stream, `reading` finds its tokens, and
  `columns` puts the request into the trace. `faults` names what went wrong, `handshake` what was wrong with TLS;
  `costs` says what the client cost and whether it was the limit.
- The server's side: `scrape` fetches its metrics in the same loop and `signals` gives them one name for all engines;
  `scrape_files` keeps them beside the requests and asks a Prometheus server; `observed` makes figures of a window of
  them.
- What came of it: `fidelity` compares what was sent with what was asked for, `knee` finds where a server stops
  keeping up, `joining` makes one run of several.

Times are `perf_counter`, 0 at the start of the run: the wall clock says only when that was. Latencies count from when
a request was due, so a late client cannot hide a queue. No error of a server ends a run: it is counted and explained.
Modules with `aiohttp`, `prometheus_client` or `scipy` in them (extra `live`) are imported where they are used, and
nothing is here: whoever needs a part imports its module.
"""
