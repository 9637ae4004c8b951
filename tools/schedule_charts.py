"""Pictures of recorded schedules, in the style of headway's other charts."""

from __future__ import annotations

import textwrap
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from schedule_facts import differences

from headway.pictures.files import BLUE, FAINT, GREEN, INK, ORANGE, PURPLE, SKY, VERMILION, drawing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from schedule_facts import Recording

    Colour = tuple[float, float, float, float]
    Shade = Callable[[float], Colour]  # the colour of a chunk of so many tokens
    Bar = tuple[float, float]  # from, width

_WIDTH = 9.0
_WAIT = "#bdbdbd"
_COLOURS = {"prefill": BLUE, "decode": GREEN, "recompute": VERMILION, "wasted": "white"}
_LINES = (BLUE, ORANGE, GREEN, PURPLE)


def _figure(height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(_WIDTH, height), facecolor="white")


def _bars(axes: Axes, bars: Iterable[Bar], lane: float, height: float, **style: Any) -> None:
    # as pixels, in an SVG, too: thousands of bars are one small image; text and lines stay shapes
    axes.broken_barh(list(bars), (lane - height / 2, height), rasterized=True, **style)


def _lanes_in(count: int, each_in: float) -> float:
    """Return the height of a panel with so many lanes, in inches: beyond a page's height they are drawn thinner."""
    return min(each_in * count, 9.0)


def _name_lanes(axes: Axes, names: Sequence[str]) -> None:
    every = len(names) // 40 + 1
    axes.set(yticks=range(0, len(names), every), yticklabels=names[::every])


# --- timeline -------------------------------------------------------------------------------------------


def timeline(recording: Recording, first: int, steps: int, *, line: bool = False) -> Figure:
    """Draw a lane per request and the token budget of each batch over time.

    Args:
        recording: the recording.
        first: the first batch drawn, counted in the order of output processing.
        steps: how many batches.
        line: whether to draw the waiting line: only the requests that waited, and beside the free blocks what the
            first of them needs.
    """
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import LinearSegmentedColormap, Normalize

    window = range(first, min(first + steps, len(recording.rows.steps)))
    shades = LinearSegmentedColormap.from_list("chunk", ["#c6dbef", "#4292c6", "#08306b"])
    scale = ScalarMappable(Normalize(0, recording.budget_tokens), shades)
    seen = _seen(recording, window, line_only=line)

    def shade(tokens: float) -> Colour:
        return shades(tokens / recording.budget_tokens)

    with drawing():
        lanes_in = _lanes_in(len(seen), 0.26)
        figure = _figure(lanes_in + 2.9 + 1.3 * line)
        panels = figure.subplots(2 + line, 1, sharex=True, height_ratios=[lanes_in + 0.4, 1.5] + [1.3] * line)
        figure.suptitle(f"{recording.title}: batches {window[0]} to {window[-1]}", x=0.01, ha="left", fontsize=12)
        _lanes(panels[0], recording, window, seen, shade)
        _budget(panels[1], recording, window, shade)
        if line:
            _name_lanes(panels[0], [f"{one}: {recording.prompt_blocks(one)}" for one in seen])
            panels[0].set_ylabel("request: blocks of its prompt")
            _blocks(panels[2], recording, window)
        begin, end = _span(recording, window)
        panels[0].set_xlim(begin - 0.01 * (end - begin), end + 0.005 * (end - begin))
        panels[-1].set_xlabel("time (ms)")
        figure.colorbar(scale, cax=panels[0].inset_axes((1.012, 0, 0.016, 1)), label="prefill chunk (tokens)")
        figure.align_ylabels()
    return figure


def _span(recording: Recording, window: range) -> tuple[float, float]:
    begin, end = recording.column("b"), recording.column("e")
    return begin[window[0]], max(end[i] for i in window)


def _seen(recording: Recording, window: range, *, line_only: bool) -> list[str]:
    """Requests that waited in the window, or ran there too, in order of arrival."""
    begin, end = _span(recording, window)
    found = {one for one, waits in recording.waits().items() if any(a < end and b > begin for a, b in waits)}
    if not line_only:
        found |= {slot.request for i in window for slot in recording.slots[i]}
    return [one for one in recording.requests if one in found]


def _lanes(axes: Axes, recording: Recording, window: range, seen: Sequence[str], shade: Shade) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    lane = {one: i for i, one in enumerate(seen)}
    begin, end = _span(recording, window)
    for one, waits in recording.waits().items():
        if one in lane:
            _bars(axes, [(a, b - a) for a, b in waits if b > begin and a < end], lane[one], 0.22, color=_WAIT, lw=0)
    for (one, kind, tokens), bars in _places(recording, window).items():
        if one in lane:
            colour = shade(tokens) if kind == "prefill" else _COLOURS[kind]
            height = 0.4 if kind == "decode" else 0.8
            _bars(axes, bars, lane[one], height, color=colour, ec="white", lw=min(0.5, 9 / len(seen)))
    for one, result in recording.results.items():
        if one in lane:
            _moments(axes, recording, lane[one], result)
    axes.set(ylim=(len(seen) - 0.4, -0.6), ylabel="request")
    _name_lanes(axes, seen)
    axes.grid(visible=False, axis="y")
    handles = [
        Line2D([], [], color=INK, marker=">", ls="", ms=5, label="arrival"),
        Patch(color=_WAIT, label="waiting"),
        Patch(color=shade(0.7 * recording.budget_tokens), label="prefill chunk"),
        Patch(color=GREEN, label="decode"),
        *([Patch(color=VERMILION, label="recompute")] if _any(recording, window, "recompute") else []),
        Line2D([], [], color="white", mec=INK, marker="o", ls="", ms=5, label="first token"),
        Line2D([], [], color=INK, marker="|", ls="", ms=9, mew=1.5, label="last token"),
    ]
    axes.legend(handles=handles, loc="lower left", bbox_to_anchor=(-0.01, 1.0), ncols=7, columnspacing=1.2)


def _places(recording: Recording, window: range) -> dict[tuple[str, str, int], list[Bar]]:
    """The slots of the window, those of one request that look alike together."""
    start, stop = recording.column("b"), recording.column("e")
    found: dict[tuple[str, str, int], list[Bar]] = {}
    for i in window:
        for slot in recording.slots[i]:
            found.setdefault((slot.request, slot.kind, slot.tokens), []).append((start[i], stop[i] - start[i]))
    return found


def _any(recording: Recording, window: range, kind: str) -> bool:
    return any(slot.kind == kind for i in window for slot in recording.slots[i])


def _moments(axes: Axes, recording: Recording, lane: int, result: dict[str, int]) -> None:
    """Mark arrival, first token and last token."""
    style: dict[str, Any] = {"ls": "", "zorder": 5, "clip_on": True}
    axes.plot([recording.at(result["arr"])], [lane], marker=">", ms=5, color=INK, **style)
    if result["first"] is not None:
        axes.plot([recording.at(result["first"])], [lane], marker="o", ms=4.5, color="white", mec=INK, **style)
    if result["fin"] is not None:
        axes.plot([recording.at(result["fin"])], [lane], marker="|", ms=10, mew=1.5, color=INK, **style)


def _budget(axes: Axes, recording: Recording, window: range, shade: Shade) -> None:
    """Stack what fills each batch, in the order of scheduling."""
    start, stop = recording.column("b"), recording.column("e")
    for i in window:
        below = 0
        for slot in recording.slots[i]:
            colour = shade(slot.tokens) if slot.kind == "prefill" else _COLOURS[slot.kind]
            edge = {"ec": "white", "lw": 0.5} if slot.tokens > 8 else {"lw": 0}
            _bars(axes, [(start[i], stop[i] - start[i])], below + slot.tokens / 2, slot.tokens, color=colour, **edge)
            below += slot.tokens
    budget = recording.budget_tokens
    axes.axhline(budget, color=INK, ls="--", lw=1)
    axes.annotate(
        f"token budget {budget:,}",
        (1, budget),
        xycoords=("axes fraction", "data"),
        xytext=(0, 3),
        textcoords="offset points",
        ha="right",
        fontsize=9,
    )
    axes.set(ylim=(0, 1.22 * budget), ylabel="tokens in\nthe batch")
    axes.grid(visible=False, axis="x")


def _blocks(axes: Axes, recording: Recording, window: range) -> None:
    """Draw the free blocks after each call beside what the head of the waiting line needs."""
    at = [recording.at(recording.rows.steps[i]["t"]) for i in window]
    free = [recording.rows.steps[i]["free"] for i in window]
    axes.step(at, free, where="post", color=BLUE, lw=1.6, label="free blocks")
    need = [recording.needed[i] for i in window]
    axes.step(at, need, where="post", color=VERMILION, lw=1.6, label="blocks the head of the line needs")
    most = [max(pair) for pair in zip(free, need, strict=True)]  # free first: of a NaN nothing is shaded
    axes.fill_between(at, free, most, step="post", color=VERMILION, alpha=0.15, lw=0)
    axes.set(ylim=(0, None), ylabel="KV blocks")
    axes.legend(loc="lower left", bbox_to_anchor=(-0.01, 0.97), ncols=2)


# --- a preemption storm ---------------------------------------------------------------------------------


def storm(recordings: Sequence[Recording]) -> Figure:
    """Draw who runs, waits and is thrown back in the first recording, and what it costs in all of them."""
    first = recordings[0]
    with drawing():
        lanes_in = _lanes_in(len(first.requests), 0.085)
        figure = _figure(lanes_in + 5.9)
        ratios = [lanes_in + 0.5, 1.1, 1.0, 1.5]
        lanes, queue, free, again = figure.subplots(4, 1, sharex=True, height_ratios=ratios)
        figure.suptitle(first.title, x=0.01, ha="left", fontsize=12)
        _storm_lanes(lanes, first)
        _queue(queue, first)
        _free(free, first)
        for recording, colour in zip(recordings, _LINES, strict=False):
            _again(again, recording, first, colour)
        again.set(ylim=(0, None), ylabel="tokens recomputed\n(sum so far)", xlabel="time (s)")
        again.yaxis.set_major_formatter("{x:,.0f}")
        again.legend(loc="lower left", bbox_to_anchor=(-0.01, 0.98))
        lanes.set_xlim(0, 1.005 * max(first.column("e")) / 1e3)
        figure.align_ylabels()
    return figure


def _storm_lanes(axes: Axes, recording: Recording) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    lane = {one: i for i, one in enumerate(recording.requests)}
    for one, waits in recording.waits().items():
        _bars(axes, [(a / 1e3, (b - a) / 1e3) for a, b in waits], lane[one], 0.3, color=_WAIT, lw=0)
    for (one, kind), bars in _runs(recording).items():
        _bars(
            axes,
            bars,
            lane[one],
            0.86,
            color=_COLOURS[kind],
            lw=0.6 * (kind != "decode"),
            zorder=2 + (kind != "decode"),
        )
    marks = [(recording.at(step["t"]) / 1e3, lane[one]) for step in recording.rows.steps for one in step.get("pre", ())]
    axes.plot(*zip(*marks, strict=True) if marks else ([], []), "x", color=INK, ms=3.5, mew=1, zorder=4)
    axes.set(ylim=(len(lane) - 0.3, -0.7), ylabel="request, by arrival")
    axes.grid(visible=False)
    handles = [
        Patch(color=BLUE, label="prefill"),
        Patch(color=GREEN, label="decode"),
        Patch(color=_WAIT, label="waiting"),
        Line2D([], [], color=INK, marker="x", ls="", ms=5, label=f"preempted ({len(marks)} times)"),
        Patch(color=VERMILION, label="recompute"),
    ]
    axes.legend(handles=handles, loc="lower left", bbox_to_anchor=(-0.01, 1.0), ncols=5, columnspacing=1.4)


def _runs(recording: Recording) -> dict[tuple[str, str], list[Bar]]:
    """Where each request ran, by kind, in seconds; batches that follow one another are one bar."""
    spans: dict[tuple[str, str], list[list[float]]] = {}
    for start, stop, slots in zip(recording.column("b"), recording.column("e"), recording.slots, strict=True):
        for slot in slots:
            found = spans.setdefault((slot.request, slot.kind), [])
            if found and found[-1][1] == start:
                found[-1][1] = stop
            else:
                found.append([start, stop])
    return {key: [(a / 1e3, (b - a) / 1e3) for a, b in found] for key, found in spans.items()}


def _queue(axes: Axes, recording: Recording) -> None:
    at = [t / 1e3 for t in recording.column("t")]
    for name, key, colour in (("running", "run", GREEN), ("waiting", "wait", INK)):
        corners = _corners(at, [step[key] for step in recording.rows.steps])
        axes.step(*corners, where="post", color=colour, lw=1.4, label=name, rasterized=True)
    axes.set(ylim=(0, None), ylabel="requests")
    axes.legend(loc="upper right", ncols=2, frameon=True, framealpha=0.9, edgecolor="none")


def _free(axes: Axes, recording: Recording) -> None:
    at = [t / 1e3 for t in recording.column("t")]
    corners = _corners(at, [step["free"] for step in recording.rows.steps])
    axes.fill_between(*corners, step="post", color=BLUE, alpha=0.3, lw=0, rasterized=True)
    axes.step(*corners, where="post", color=BLUE, lw=1, rasterized=True)
    axes.set(ylim=(0, recording.usable_blocks), ylabel=f"free blocks\nof {recording.usable_blocks:,}")


def _again(axes: Axes, recording: Recording, first: Recording, colour: str) -> None:
    at = [t / 1e3 for t in recording.column("b")]
    total = list(accumulate(sum(slot.again for slot in slots) for slots in recording.slots))
    said = differences(first, recording)
    name = recording.name + f" ({said})" * bool(said)
    label = textwrap.fill(f"{name}: {recording.preemptions} preemptions, {total[-1]:,} tokens", 100)
    axes.step(*_corners(at, total), where="post", color=colour, lw=1.6, label=label)


def _corners(at: list[float], values: list[int]) -> tuple[list[float], list[int]]:
    """Keep the points where a line of steps changes, and the last."""
    kept = [i for i in range(len(at)) if i in (0, len(at) - 1) or values[i] != values[i - 1]]
    return [at[i] for i in kept], [values[i] for i in kept]


# --- batches in flight ----------------------------------------------------------------------------------


def flight(recordings: Sequence[Recording], begin: float, end: float) -> Figure:
    """Draw when each batch was put together and when it ran, and who had a slot in it, one panel per recording.

    Args:
        recordings: the recordings, one below the other.
        begin: of the window, in milliseconds.
        end: of the window, in milliseconds.
    """
    with drawing():
        windows = [_during(recording, begin, end) for recording in recordings]
        heights = [_lanes_in(len(seen) + 2, 0.52) + 0.42 for _, seen in windows]
        figure = _figure(sum(heights) + 0.5)
        panels = figure.subplots(len(recordings), 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0]
        for axes, recording, window in zip(panels, recordings, windows, strict=True):
            _flight(axes, recording, window, begin, end)
        panels[0].set_xlim(begin, end)
        panels[-1].set_xlabel("time (ms)")
        _flight_legend(figure)
    return figure


def _during(recording: Recording, begin: float, end: float) -> tuple[list[int], list[str]]:
    """Return the batches that were scheduled or ran in a window, and the requests in them."""
    times = zip(recording.column("t"), recording.column("e"), strict=True)
    window = [i for i, (called, stop) in enumerate(times) if stop > begin and called < end]
    ran = {slot.request for i in window for slot in recording.slots[i]}
    return window, [one for one in recording.requests if one in ran]


def _flight(axes: Axes, recording: Recording, during: tuple[list[int], list[str]], begin: float, end: float) -> None:
    window, seen = during
    lane = {one: 2 + i for i, one in enumerate(seen)}
    for i in window:
        _batch(axes, recording, i, lane, begin, end)
    for one in seen:
        _arrival(axes, recording, one, lane[one], begin, end)
    flying = recording.settings["batch_queue_size"]
    ends = "a stop token" if recording.rows.meta["stop"] == "eos" else "their length"
    axes.set_title(f"{recording.title}: batches in flight {flying}, requests end by {ends}", fontsize=10)
    axes.set_ylim(len(seen) + 1.6, -0.75)
    _name_lanes(axes, ["batch scheduled,\nnot yet running", "batch running", *(f"request {one}" for one in seen)])
    axes.grid(visible=False)


def _batch(axes: Axes, recording: Recording, i: int, lane: dict[str, int], first: float, last: float) -> None:
    step = recording.rows.steps[i]
    called, start, stop = (recording.at(step[name]) for name in "tbe")
    axes.plot([called], [-0.45], marker="v", color=INK, ms=5, clip_on=True)
    if start > called:
        _bars(axes, [(called, start - called)], 0, 0.5, color=SKY, alpha=0.55, ec="white", lw=0.8)
    stages = recording.settings[
        "pipeline_parallel_size"
    ]  # as many batches may run at a time, each in a lane of its own
    at, height = 1 + 0.3 * ((2 * (step["k"] % stages) + 1) / stages - 1), 0.6 / stages
    _bars(axes, [(start, stop - start)], at, height, color="#e6e6e6", ec=FAINT, lw=0.8)
    for begin, end, row in ((called, start, 0), (start, stop, at)):
        if end - begin > 0.015 * (last - first) and first < (begin + end) / 2 < last:
            axes.text((begin + end) / 2, row, str(step["k"]), ha="center", va="center", fontsize=8)
    for slot in recording.slots[i]:
        style: dict[str, Any] = {"fc": _COLOURS[slot.kind], "ec": "white", "lw": 0.8}
        if slot.kind == "wasted":
            style |= {"hatch": "/////", "ec": VERMILION}
        _bars(axes, [(start, stop - start)], lane[slot.request], 0.5, **style)


def _arrival(axes: Axes, recording: Recording, one: str, lane: int, begin: float, end: float) -> None:
    """Mark an arrival and how long its first batch let it wait; and a last token."""
    result = recording.results[one]
    came, began = recording.at(result["arr"]), recording.at(result["start"])
    if came < end and began > begin:
        _bars(axes, [(came, began - came)], lane, 0.14, color=_WAIT, lw=0)
    if begin < came < end:
        axes.axvline(came, color=INK, lw=0.8, ls=":")
        axes.plot([came], [lane], marker=">", color=INK, ms=6)
        axes.text((came + began) / 2, lane - 0.2, f"{began - came:.1f} ms", ha="center", va="bottom", fontsize=9)
    if result["fin"] is not None and begin < (over := recording.at(result["fin"])) < end:
        axes.plot([over], [lane], marker="|", color=INK, ms=14, mew=2, zorder=5)


def _flight_legend(figure: Figure) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles = [
        Line2D([], [], color=INK, marker="v", ls="", ms=5, label="scheduler called"),
        Line2D([], [], color=INK, marker=">", ls="", ms=5, label="arrival"),
        Patch(color=_WAIT, label="waiting"),
        Patch(color=BLUE, label="prefill"),
        Patch(color=GREEN, label="decode"),
        Line2D([], [], color=INK, marker="|", ls="", ms=10, mew=2, label="last token"),
        Patch(fc="white", ec=VERMILION, hatch="/////", label="wasted slot"),
    ]
    figure.legend(handles=handles, loc="outside upper left", ncols=7, columnspacing=1.2)
