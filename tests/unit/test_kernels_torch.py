"""The clocks around kernels, on a torch that only keeps count; the real one is in tests/e2e/test_calibrate_ops.py."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from headway.errors import EvidenceError, InputError
from headway.kernels import collectives, torch_bench
from headway.kernels.torch_bench import TorchBench, clocked, driver_version, graphed, load_torch


class Gpu:
    """Streams, events and graphs of a GPU on which every call takes 20 µs, and launching it 50 µs."""

    CALL_S, LAUNCH_S = 20e-6, 50e-6

    def __init__(self) -> None:
        self.now_s, self.capturing, self.captured, self.called = 0.0, False, list[int](), list[int]()
        self.cuda = SimpleNamespace(
            Stream=lambda: SimpleNamespace(wait_stream=lambda other: None),
            current_stream=lambda: SimpleNamespace(wait_stream=lambda other: None),
            stream=lambda side: contextlib.nullcontext(),
            synchronize=lambda: None,
            CUDAGraph=lambda: SimpleNamespace(replay=self.replay),
            graph=self.capture,
            Event=lambda enable_timing: Event(self),
        )

    @contextlib.contextmanager
    def capture(self, graph: object) -> Iterator[None]:
        self.capturing = True
        yield
        self.capturing = False

    def replay(self) -> None:
        self.called += self.captured
        self.now_s += self.CALL_S * len(self.captured)

    def call(self, copy: int) -> None:
        if self.capturing:
            self.captured.append(copy)
        else:
            self.now_s += self.CALL_S + self.LAUNCH_S


class Event:
    def __init__(self, gpu: Gpu) -> None:
        self.gpu, self.at_s = gpu, 0.0

    def record(self) -> None:
        self.at_s = self.gpu.now_s

    def synchronize(self) -> None:
        pass

    def elapsed_time(self, end: Event) -> float:
        return 1e3 * (end.at_s - self.at_s)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Gpu:
    made = Gpu()
    monkeypatch.setattr(torch_bench.time, "perf_counter", lambda: made.now_s)
    return made


def test_a_graph_times_the_kernels_and_not_their_launches(gpu: Gpu) -> None:
    calls = [lambda copy=copy: gpu.call(copy) for copy in range(3)]
    sample = graphed(gpu, calls)
    assert sample() == pytest.approx(Gpu.CALL_S)
    assert len(gpu.captured) == 15, "a millisecond of calls at 70 µs each"
    assert gpu.captured == [i % 3 for i in range(15)], "copies in turn"
    assert gpu.called == 2 * gpu.captured, "once warm, once timed"


def test_all_copies_are_in_the_graph_however_long_they_take(gpu: Gpu) -> None:
    graphed(gpu, [lambda copy=copy: gpu.call(copy) for copy in range(40)])
    assert gpu.captured == list(range(40))


def test_every_process_of_a_group_captures_as_many_calls(gpu: Gpu) -> None:
    graphed(gpu, [lambda: gpu.call(0)], 16)
    assert len(gpu.captured) == 16


def test_a_clock_goes_on_with_the_copies_where_the_last_sample_ended(gpu: Gpu) -> None:
    ran: list[int] = []

    def called(copy: int) -> None:
        ran.append(copy)
        gpu.now_s += 0.4e-3

    sample = clocked([lambda copy=copy: called(copy) for copy in range(5)])
    ran.clear()
    assert sample() == pytest.approx(0.4e-3)
    assert len(ran) == 3, "as many as fill a millisecond"
    first = ran[0]
    sample()
    assert ran == [(first + i) % 5 for i in range(6)]


def test_without_torch_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(InputError, match=r"PyTorch is not installed \(pip install 'headway\[torch\]'"):
        load_torch()


def test_without_a_gpu_the_cpu_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    blind = SimpleNamespace(cuda=SimpleNamespace(is_available=lambda: False), __version__="2.9")
    monkeypatch.setitem(sys.modules, "torch", blind)
    with pytest.raises(InputError, match=r"torch 2\.9 sees no GPU \(--device cpu"):
        TorchBench("cuda")


def test_a_gpus_facts_are_its_drivers(monkeypatch: pytest.MonkeyPatch) -> None:
    found = SimpleNamespace(name="NVIDIA H200", total_memory=150 * 10**9, L2_cache_size=50 * 2**20)
    cuda = SimpleNamespace(
        is_available=lambda: True,
        device_count=lambda: 8,
        get_device_properties=lambda index: found,
        get_device_capability=lambda index: (9, 0),
    )
    version = SimpleNamespace(cuda="12.8", hip=None)
    torch = SimpleNamespace(cuda=cuda, version=version, __version__="2.9", manual_seed=lambda seed: None)
    monkeypatch.setitem(sys.modules, "torch", torch)
    monkeypatch.setattr(torch_bench, "driver_version", lambda: "")
    device = TorchBench().device
    assert (device.name, device.kind, device.count, device.formats) == ("NVIDIA H200", "cuda", 8, ("bf16", "fp8"))
    assert device.driver == "CUDA 12.8"
    cuda.get_device_capability = lambda index: (8, 0)
    assert TorchBench().device.formats == ("bf16",), "an A100 has no fp8"


def test_no_driver_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert driver_version() == ""


# --- processes ------------------------------------------------------------------------------------------


class Started:
    """Processes that say so when they are killed."""

    def __init__(self, *joins: bool | Exception) -> None:
        self.joins, self.killed = list(joins), list[int]()
        self.processes = [SimpleNamespace(kill=lambda rank=rank: self.killed.append(rank)) for rank in range(2)]

    def join(self, timeout: float) -> bool:
        outcome = self.joins.pop(0) if len(self.joins) > 1 else self.joins[0]
        if isinstance(outcome, Exception):
            raise outcome
        return outcome


def test_processes_that_end_are_waited_for() -> None:
    started = Started(False, False, True)
    collectives._wait(started, ends_s=float("inf"))
    assert started.joins == [True]


def test_processes_that_do_not_end_are_ended() -> None:
    started = Started(False)
    with pytest.raises(EvidenceError, match="did not come to an end"):
        collectives._wait(started, ends_s=0.0)
    assert started.killed == [0, 1]


def test_what_a_process_says_is_told_in_one_line() -> None:
    started = Started(False, RuntimeError("\n-- Process 1 terminated --\nTraceback …\nNCCL error: no such device\n"))
    with pytest.raises(EvidenceError, match=r"^all-reduce failed: NCCL error: no such device$"):
        collectives._wait(started, ends_s=float("inf"))
    assert started.killed == [0, 1]


def test_all_processes_take_the_repeats_of_the_slowest() -> None:
    made: list[float] = []
    world = SimpleNamespace(
        all_reduce=lambda tensor, op=None: tensor.__setitem__(0, 2.0) if op else made.append(1),
        ReduceOp=SimpleNamespace(MAX="max"),
    )
    torch = SimpleNamespace(
        bfloat16="bf16",
        float64="f64",
        distributed=world,
        zeros=lambda size, dtype, device: [0.0] * size,
        tensor=lambda values, dtype, device: Values(values),
    )
    samples = collectives._samples(torch, SimpleNamespace(type="cpu"), 64, share_s=1e9)
    assert len(samples) == collectives._REPEATS
    few = collectives._samples(torch, SimpleNamespace(type="cpu"), 64, share_s=1.0)
    assert len(few) == collectives.LEAST_REPEATS, "the slowest of all took 2 s"


class Values(list[float]):
    """A tensor of one number."""

    def __float__(self) -> float:
        return self[0]
