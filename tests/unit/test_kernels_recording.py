"""A recording of a device whose rates are known gives these rates back, in the file that estimates read."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Callable
from pathlib import Path

import pytest

import headway
from headway.api.documents import document
from headway.api.pools import Choice, build_pool
from headway.catalog import load
from headway.cli import main
from headway.errors import EvidenceError, InputError
from headway.kernels import Device, Recorder, accelerator_of, collectives, ops, record, recording, write_recording
from headway.kernels.ops import Copy, Decode, Gemm, Prefill, Shape
from headway.kernels.timing import Timing
from headway.perf import applied, own_curves
from headway.perf.curves import read_curves
from headway.perf.gemm import matrix_roofline_s
from headway.perf.links import link_bytes_per_s

H100 = load().accelerator("h100-sxm")
DEVICE = Device(
    name="NVIDIA H100 80GB HBM3",
    kind="cuda",
    count=2,
    memory_bytes=79.1 * 2**30,
    driver="570.86",
    torch_version="2.9.0",
    formats=("bf16", "fp8"),
)
FIXED_S = 4e-6
LLAMA = "meta-llama/Llama-3.1-8B-Instruct"


def truth_s(shape: Shape) -> float:
    """What the device takes: 70 % of the roofline in matrices, a line in attention, 90 % of memory in copies."""
    if isinstance(shape, Gemm):
        return float(max(matrix_roofline_s(H100, shape.dtype, shape.n, shape.k, shape.m))) / 0.7
    hbm, peak = H100.hbm_bytes_per_s, H100.peak_flops_per_s["bf16"]
    if isinstance(shape, Decode):
        return FIXED_S + shape.kv_bytes / hbm * (64 / shape.context / 0.5 + 1 / 0.8)
    if isinstance(shape, Prefill):
        return FIXED_S + shape.moved_bytes / hbm / 0.4 + shape.flops / peak / 0.6
    return shape.moved_bytes / hbm / 0.9


class Bench:
    """A device of known rates; its clock moves by what it runs."""

    def __init__(self, device: Device = DEVICE, broken: type | None = None, slowness: float = 1.0) -> None:
        self.device, self.now_s, self.ran = device, 0.0, list[Shape]()
        self._broken, self._slowness = broken, slowness

    def clock(self) -> float:
        return self.now_s

    def sampler(self, shape: Shape) -> Callable[[], float]:
        if self._broken and isinstance(shape, self._broken):
            raise RuntimeError("no kernel\nfor this device")
        self.ran.append(shape)
        self.now_s += 0.02

        def sample() -> float:
            time_s = self._slowness * truth_s(shape)
            self.now_s += time_s
            return time_s

        return sample


def recorder(bench: Bench, budget_s: float = 180.0) -> Recorder:
    return Recorder(bench, H100, budget_s, clock=bench.clock)


@pytest.fixture(autouse=True)
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """All-reduce of known rates in place of processes."""

    def timings(kind: str, gpus: int, message_bytes: list[int], budget_s: float) -> list[Timing]:
        link = link_bytes_per_s(H100, gpus)
        return [
            Timing(median_s=ops.sent_bytes(gpus, size) / link / 0.3, spread_frac=0.01, repeats=9)
            for size in message_bytes
        ]

    monkeypatch.setattr(recording, "all_reduce_timings", timings)


def test_the_rates_of_the_device_come_back() -> None:
    found = record(recorder(bench := Bench()), gpus=2)
    assert found.copied_frac == pytest.approx(0.9)
    assert found.multiplied_frac == pytest.approx({"bf16": 0.7, "fp8": 0.7})
    curves = found.measured
    assert curves["gemm/h100-sxm/bf16"].table == pytest.approx(0.7)
    assert curves["gemm/h100-sxm/fp8"].table.shape == tuple(len(axis) for axis in ops.GEMM_GRID.values())
    assert curves["gemm/h100-sxm/bf16"].error_p90_frac == pytest.approx(0.0, abs=1e-9)
    expected = {"sequence": 0.5, "decode": 0.8, "token": 0.4, "prefill": 0.6}
    for phase, efficiency in expected.items():
        assert curves[f"attention/h100-sxm/{phase}/bf16"].table == pytest.approx(efficiency, rel=1e-6), phase
    assert curves["attention/h100-sxm/decode/bf16"].fixed_s == pytest.approx(FIXED_S)
    assert curves["attention/h100-sxm/decode/bf16"].table.shape == (3, 4)
    assert curves["collectives/h100-sxm/all_reduce"].table == pytest.approx(0.3)
    assert not found.skipped
    assert found.shapes == len(bench.ran) + len(ops.SENT_BYTES)
    assert found.origin.source == "headway calibrate ops on NVIDIA H100 80GB HBM3, driver 570.86, torch 2.9.0"


def test_the_file_is_what_estimates_read(tmp_path: Path) -> None:
    found = record(recorder(Bench()), gpus=2)
    write_recording(tmp_path / "h100.json", found)
    assert [path.name for path in tmp_path.iterdir()] == ["h100.json"]
    read = read_curves(tmp_path / "h100.json")
    assert read.keys() == found.measured.keys()
    about = json.loads((tmp_path / "h100.json").read_text())["about"]
    assert about["device"]["driver"] == "570.86"
    assert about["timings"] == found.timings
    assert about["spread_median_frac"] == 0
    assert about["copied_bytes_per_s"] == found.copied_bytes_per_s

    own = Choice(model=LLAMA, accelerator="h100-sxm", curves=str(tmp_path / "h100.json"))
    theirs = headway.estimate(None, own, decodes=1, context_tokens=100)
    gemm = next(op for op in theirs.step.operators if op.name == "mlp_up")
    model = theirs.pool.model
    roofline_s = max(matrix_roofline_s(H100, "bf16", 2 * model.intermediate_size, model.hidden_size, 1))
    assert gemm.time_s == pytest.approx(model.num_hidden_layers * float(roofline_s) / 0.7, rel=0.03)
    ours = headway.estimate(None, dataclasses.replace(own, curves=None), decodes=1, context_tokens=100)
    assert theirs.step.total_s != ours.step.total_s
    assert theirs.calibration.provenance["gemm/h100-sxm/bf16"].source.startswith("headway calibrate ops on NVIDIA H100")
    assert "h100.json has none of h100-sxm" in theirs.calibration.provenance["experts curves"].source
    assert theirs.pool.curves == str(tmp_path / "h100.json")
    json.dumps(document("estimate", theirs))


def test_a_users_curves_go_before_an_engines_own_of_ours(tmp_path: Path) -> None:
    write_recording(tmp_path / "own.json", record(recorder(Bench())))
    pool = build_pool(Choice(model=LLAMA, accelerator="h100-sxm", curves=str(tmp_path / "own.json")), catalog=load())
    from headway.perf.curves import curve

    constants = applied(pool)
    found = curve("attention", "h100-sxm", "decode", "bf16", "vllm", extra=constants.curves)
    assert found is constants.curves["attention/h100-sxm/decode/bf16"]
    shipped = curve("attention", "h100-sxm", "decode", "fp8", "vllm", extra=constants.curves)
    assert shipped is not None
    assert "headway calibrate" not in shipped.provenance.source


def test_a_scenario_names_the_curves(tmp_path: Path) -> None:
    write_recording(tmp_path / "own.json", record(recorder(Bench())))
    text = """\
headway: 1
model: meta-llama/Llama-3.1-8B-Instruct
workload: {profile: azure-conv, rate: 5 req/s}
slo: {ttft: {p95: 2 s}}
allow: {accelerators: [h100-sxm, l40s], tp: [1], max_num_seqs: [64], max_num_batched_tokens: [2048]}
calibration: {curves: own.json}
"""
    (tmp_path / "chat.yaml").write_text(text)
    from headway.scenario import read_scenario

    known = read_scenario(tmp_path / "chat.yaml")
    assert known.curves == {"h100-sxm": str(tmp_path / "own.json")}
    assert any(a.name == "curves of h100-sxm" and "calibrate ops" in a.source for a in known.assumptions)
    simulated = headway.simulate(known, Choice(accelerator="h100-sxm"), requests=200)
    assert simulated.deployment.pools[0].curves == known.curves["h100-sxm"]
    assert headway.simulate(known, Choice(accelerator="l40s"), requests=200).deployment.pools[0].curves == ""
    assert {c.deployment.pools[0].curves for c in headway.plan(known).candidates} <= {"", known.curves["h100-sxm"]}
    (tmp_path / "chat.yaml").write_text(text.replace("[h100-sxm, l40s]", "[l40s]"))
    with pytest.raises(InputError, match=r"own\.json.*no curves of l40s \(it has h100-sxm\)"):
        read_scenario(tmp_path / "chat.yaml")
    (tmp_path / "chat.yaml").write_text(text.replace("{curves: own.json}", "{}"))
    with pytest.raises(InputError, match=r"expected \{curves: FILE\}"):
        read_scenario(tmp_path / "chat.yaml")


def test_what_a_device_cannot_run_is_skipped_with_its_reason() -> None:
    found = record(recorder(Bench(broken=Decode)))
    assert found.skipped == {"attention": "no kernel for this device"}
    assert {name.split("/")[0] for name in found.measured} == {"gemm"}


def test_a_shape_of_attention_that_does_not_run_is_passed_over() -> None:
    class Small(Bench):
        def sampler(self, shape: Shape) -> Callable[[], float]:
            if isinstance(shape, Prefill) and shape.tokens > 4096:
                raise RuntimeError("out of memory")
            return super().sampler(shape)

    found = record(recorder(bench := Small()))
    assert not found.skipped
    assert found.measured["attention/h100-sxm/prefill/bf16"].table == pytest.approx(0.6, rel=1e-6)
    assert {shape.tokens for shape in bench.ran if isinstance(shape, Prefill)} == {128, 512, 1024, 2048, 4096}


def test_nothing_recorded_is_an_error() -> None:
    class NoGemm(Bench):
        def sampler(self, shape: Shape) -> Callable[[], float]:
            square = isinstance(shape, Gemm) and shape.m == shape.n == shape.k
            if square or isinstance(shape, Copy):
                return super().sampler(shape)
            raise RuntimeError("broken")

    with pytest.raises(EvidenceError, match=r"nothing could be recorded on NVIDIA H100.*gemm bf16: broken"):
        record(recorder(NoGemm()))


def test_a_slow_device_is_asked_less() -> None:
    found = record(recorder(Bench(slowness=1e4), budget_s=60.0))
    table, largest = found.measured["gemm/h100-sxm/bf16"].table, [len(axis) for axis in ops.GEMM_GRID.values()]
    assert 8 <= table.size < largest[0] * largest[1] * largest[2] / 2
    assert table == pytest.approx(0.7e-4)
    assert found.duration_s < 600


def test_the_budget_is_kept_where_the_least_repeats_fit_into_it() -> None:
    bench = Bench()
    found = record(recorder(bench, budget_s=120.0))
    assert found.duration_s < 120.0


def test_an_affordable_part_of_attention_still_makes_a_curve() -> None:
    bench = Bench(dataclasses.replace(DEVICE, formats=("bf16",)))
    found = record(Recorder(bench, H100, 1.0, clock=bench.clock))
    decode = found.measured["attention/h100-sxm/decode/bf16"]
    assert list(decode.grid[0]) == [128.0]
    assert decode.table == pytest.approx(0.8, rel=1e-6)


# --- which accelerator it is ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "gib", "entry"),
    [
        ("NVIDIA H100 80GB HBM3", 79.1, "h100-sxm"),
        ("NVIDIA H100 PCIe", 79.1, "h100-pcie"),
        ("NVIDIA H100 NVL", 93.1, "h100-nvl"),
        ("NVIDIA A100-SXM4-40GB", 39.4, "a100-40-sxm"),
        ("NVIDIA A100 80GB PCIe", 79.2, "a100-80-pcie"),
        ("NVIDIA L40S", 44.4, "l40s"),
        ("NVIDIA GeForce RTX 4090", 23.6, "rtx-4090"),
        ("NVIDIA RTX PRO 6000 Blackwell Server Edition", 95.0, "rtx-pro-6000"),
        ("NVIDIA GB200", 185.0, "gb200"),
        ("AMD Instinct MI300X", 191.7, "mi300x"),
        ("Tesla V100-SXM2-32GB", 31.7, "v100-sxm-32"),
    ],
)
def test_drivers_names_are_recognised(name: str, gib: float, entry: str) -> None:
    device = dataclasses.replace(DEVICE, name=name, memory_bytes=gib * 2**30)
    assert accelerator_of(device, load().accelerators).name == entry


def test_a_device_of_another_memory_or_name_is_none_of_ours() -> None:
    for name, gib in (("NVIDIA H100 80GB HBM3", 40.0), ("Intel Xeon, 2 threads", 24.0)):
        device = dataclasses.replace(DEVICE, name=name, memory_bytes=gib * 2**30)
        with pytest.raises(InputError, match=r"no entry of the catalogue \(name the entry"):
            accelerator_of(device, load().accelerators)


def test_two_entries_that_fit_are_both_named() -> None:
    twins = [H100, dataclasses.replace(H100, name="h100")]
    with pytest.raises(InputError, match="could be h100-sxm or h100"):
        accelerator_of(DEVICE, twins)


# --- the verb -------------------------------------------------------------------------------------------


@pytest.fixture
def at_hand(monkeypatch: pytest.MonkeyPatch) -> Bench:
    """The verb finds this device in place of torch's; its clock is the machine's."""
    bench = Bench()
    monkeypatch.setattr("headway.kernels.TorchBench", lambda kind: bench)
    return bench


def test_the_command_writes_the_file_and_says_what_to_run_next(
    tmp_path: Path, at_hand: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    file = str(tmp_path / "h100.json")
    assert main(["calibrate", "ops", "--out", file, "--budget", "5 s"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert "NVIDIA H100 80GB HBM3 (2 of them) as h100-sxm, measured" in out
    assert "70.0 %" in out
    assert f"headway estimate --model Qwen/Qwen3-8B --accelerator h100-sxm --curves {file}" in out
    assert main(["estimate", "--model", LLAMA, "--accelerator", "h100", "--curves", file]) == 0
    assert "headway calibrate ops on NVIDIA H100" in " ".join(capsys.readouterr().out.split())
    assert main(["calibrate", "ops", "--out", file, "--budget", "5 s", "--gpus", "1", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["schema"] == "calibrate-ops/1"
    assert "measured" not in document
    assert not any(curve["name"].startswith("collectives") for curve in document["curves"])


def test_no_file_is_left_where_recording_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(broken=Gemm)
    monkeypatch.setattr("headway.kernels.TorchBench", lambda kind: bench)
    with pytest.raises(RuntimeError):
        headway.calibrate_ops(tmp_path / "x.json", budget_s=5)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--out", "x.txt"], "ends in .json"),
        (["--out", "no/such/x.json"], "no/such/x.json: --out: cannot be written: No such file"),
        (["--out", "folder.json"], "is a folder"),
        (["--out", "x.json", "--budget", "1 s"], "--budget: expected at least 5 s"),
        (["--out", "x.json", "--budget", "180"], "--budget: '180' has no unit"),
        (["--out", "x.json", "--device", "tpu"], "unknown device 'tpu' (known: cuda, cpu)"),
        (["--out", "x.json", "--gpus", "3"], "--gpus: expected 1 to 2, got 3"),
        (["--out", "x.json", "--gpus", "0"], "--gpus: expected 1 to 2, got 0"),
        (["--out", "x.json", "--accelerator", "h10"], "unknown accelerator 'h10'"),
    ],
)
def test_what_is_wrong_is_said_before_minutes_are_spent(
    words: list[str],
    said: str,
    tmp_path: Path,
    at_hand: Bench,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.json").mkdir()
    assert main(["calibrate", "ops", *words]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert said in err
    assert not at_hand.ran
    assert [path.name for path in tmp_path.iterdir()] == ["folder.json"]


# --- curves of one's own that are wrong -------------------------------------------------------------------


def test_curves_that_cannot_be_used_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"gone\.json.*cannot be read"):
        own_curves(str(tmp_path / "gone.json"), H100)
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(InputError, match=r"bad\.json: line 1: not JSON"):
        own_curves(str(tmp_path / "bad.json"), H100)


def test_a_file_written_anew_is_read_anew(tmp_path: Path) -> None:
    path = tmp_path / "own.json"
    write_recording(path, found := record(recorder(Bench())))
    assert own_curves(str(path), H100)["gemm/h100-sxm/bf16"].table[0, 0, 0] == pytest.approx(0.7)
    halved = {name: dataclasses.replace(curve, table=curve.table / 2) for name, curve in found.measured.items()}
    write_recording(path, dataclasses.replace(found, measured=halved))
    assert own_curves(str(path), H100)["gemm/h100-sxm/bf16"].table[0, 0, 0] == pytest.approx(0.35)


def test_messages_are_whole_on_every_rank() -> None:
    for gpus, size in itertools.product((2, 3, 6, 8), range(len(ops.SENT_BYTES))):
        message = ops.messages(gpus)[size]
        assert message % (2 * gpus) == 0
        assert ops.sent_bytes(gpus, message) == pytest.approx(ops.SENT_BYTES[size], rel=0.1)
    assert [ops.groups(gpus) for gpus in (2, 3, 8)] == [[2], [2, 3], [2, 4, 8]]
    assert collectives._BACKENDS.keys() == {"cuda", "cpu"}
