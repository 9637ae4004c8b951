"""Whatever is wrong is one line that names the place and the nearest fix; no traceback reaches a user."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from headway.cli import main

GOOD = """\
headway: 1
model: meta-llama/Llama-3.1-8B-Instruct
workload: {profile: azure-conv, rate: 8 req/s}
slo: {ttft: {p95: 800 ms}, tpot: {p95: 60 ms}}
allow: {accelerators: [h100-sxm]}
"""
AZURE = "TIMESTAMP,ContextTokens,GeneratedTokens\n"
ROW = "2023-11-16 18:15:46.6805900,374,44\n"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HEADWAY_DEBUG", "")
    Path("good.yaml").write_text(GOOD)


def refusal(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    """Return the exit code and the one line."""
    code = main(words)
    out, err = capsys.readouterr()
    assert out == "", "stdout carries results only"
    assert err.startswith("error: "), err
    assert err.endswith("\n")
    assert err.count("\n") == 1
    assert len(err) < 1000
    return code, err


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("slo:", "slos:", ("bad.yaml", "line 4", "did you mean 'slo'?")),
        ("800 ms", "800", ("line 4", "slo.ttft.p95", "has no unit", "500 ms")),
        ("800 ms", "800 GB", ("slo.ttft.p95", "unknown unit 'GB'")),
        ("800 ms", "-1 ms", ("slo.ttft.p95", "below the least")),
        ("ttft:", "tfft:", ("line 4", "did you mean 'ttft'?")),
        ("p95: 800", "95: 800", ("slo.ttft", "no percentile")),
        ("8 req/s", "-8 req/s", ("workload.rate",)),
        ("8 req/s", "8", ("workload.rate", "has no unit")),
        ("azure-conv", "azure-cnv", ("workload.profile", "did you mean 'azure-conv'?")),
        ("Llama-3.1-8B-Instruct", "Llama-3.1-8B-Instrct", ("line 2, model", "did you mean")),
        ("h100-sxm", "h100-smx", ("allow.accelerators[0]", "did you mean")),
        ("headway: 1", "headway: 2", ("line 1, headway", "format 2 is not known")),
        ("headway: 1", "", ("the scenario has no 'headway'",)),
        ("headway: 1", "headway: 1\nheadway: 1", ("stands twice",)),
        ("slo: {", "slo: {{", ("not valid YAML",)),
        ("profile: azure-conv, rate: 8 req/s", "trace: nowhere.csv", ("nowhere.csv", "cannot be read")),
        ("[h100-sxm]", "[]", ("allow.accelerators",)),
    ],
)
@pytest.mark.parametrize("verb", ["plan", "scenario check"])
def test_a_wrong_scenario(
    capsys: pytest.CaptureFixture[str], verb: str, old: str, new: str, said: tuple[str, ...]
) -> None:
    assert old in GOOD
    Path("bad.yaml").write_text(GOOD.replace(old, new))
    code, err = refusal(capsys, *verb.split(), "bad.yaml")
    assert code == 2
    assert not [part for part in said if part not in err], err


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", ("the file is empty",)),
        (b"\xff\xfe\x00", ()),
        (AZURE.encode(), ()),
        (b"TIMESTAMP,ContextTokens\n2023-11-16 18:15:46,3\n", ()),
        (f"{AZURE}{ROW}2023-11-16 18:15:47,many,4\n".encode(), ("line 3",)),
        (f"{AZURE}{ROW}2023-11-16 18:15:47,nan,4\n".encode(), ("line 3",)),
        (f"{AZURE}{ROW}yesterday,3,4\n".encode(), ("line 3",)),
        (gzip.compress(f"{AZURE}{ROW}".encode() * 500)[:-20], ("gzip",)),
        (b'{"timestamp": 0, "input_length": 3}\n', ()),
        (b"PAR1 is what it says", ()),
    ],
    ids=range(10),
)
@pytest.mark.parametrize("verb", ["plan", "simulate", "workload describe"])
def test_a_wrong_trace(capsys: pytest.CaptureFixture[str], verb: str, content: bytes, said: tuple[str, ...]) -> None:
    Path("t.csv").write_bytes(content)
    words = [*verb.split(), "t.csv"] if verb == "workload describe" else [verb, "good.yaml", "--trace", "t.csv"]
    code, err = refusal(capsys, *words)
    assert code == 2
    assert "t.csv" in err
    assert not [part for part in said if part not in err], err


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["plan", "nowhere.yaml"], 2, "nowhere.yaml: cannot be read"),
        (["plan", "."], 2, "cannot be read"),
        (["plan", "good.yaml", "--trace", "nowhere.csv"], 2, "nowhere.csv"),
        (["plan", "good.yaml", "--rate", "0 req/s"], 2, "rate"),
        (["plan", "good.yaml", "--out", "good.yaml"], 2, "--out"),
        (["simulate", "good.yaml", "--accelerator", "h10"], 2, "did you mean"),
        (["simulate", "good.yaml", "--replicas", "0"], 2, "replicas: expected at least 1"),
        (["simulate", "good.yaml", "--router", "rond-robin"], 2, "did you mean 'round-robin'?"),
        (["simulate", "good.yaml", "--rate-factor", "nan"], 2, "rate_factor"),
        (["simulate", "good.yaml", "--requests", "0"], 2, "requests"),
        (["simulate", "good.yaml", "--requests", "-5"], 2, "requests"),
        (["simulate", "good.yaml", "--set", "max_num_seq=9"], 2, "did you mean 'max_num_seqs'?"),
        (["simulate", "good.yaml", "--set", "max_num_seqs=many"], 2, "expected a whole number"),
        (["simulate", "good.yaml", "--set", "max_num_seqs"], 2, "expected NAME=VALUE"),
        (["simulate", "good.yaml", "--set", "max_num_seqs=[1"], 2, "--set"),
        (["simulate", "good.yaml", "--weights", "fp7"], 2, "unknown number format 'fp7'"),
        (["simulate", "good.yaml", "--engine", "vlm"], 2, "did you mean 'vllm'?"),
        (["simulate", "good.yaml", "--engine", "vllm@9.9"], 2, "unknown version '9.9'"),
        (["simulate", "good.yaml", "--router", "session-affinity"], 2, "session"),
        (["estimate"], 2, "model: none is named (choose one with --model)"),
        (["estimate", "good.yaml", "--batch", "0"], 2, "batch"),
        (["estimate", "good.yaml", "--batch", "9999"], 2, "--set max_num_seqs=9999"),
        (["estimate", "good.yaml", "--context", "999999"], 2, "max_model_len"),
        (["estimate", "good.yaml", "--prefill", "x@y"], 2, "--prefill: expected NEW@DONE"),
        (["estimate", "good.yaml", "--tp", "3"], 3, "binds"),
        (["price", "h10"], 2, "did you mean"),
        (["price", "h100", "--gpus", "0"], 2, "gpus: expected at least 1"),
        (["price", "h100", "--region", "us-est-1"], 2, "did you mean 'us-"),
        (["price", "h100", "--term", "spt"], 2, "did you mean 'spot'?"),
        (["price", "h100", "--provider", "AW"], 2, "did you mean 'AWS'?"),
        (["price", "h100", "--tokens-per-s", "-1"], 2, "tokens_per_s"),
        (["price", "h100", "--catalog", "nowhere.csv"], 2, "nowhere.csv: cannot be read"),
        (["catalog", "show", "h10"], 2, "did you mean"),
        (["catalog", "show", "azure-conv", "--kind", "models"], 2, "has no model 'azure-conv'"),
        (["catalog", "list", "models", "--where", "vendor"], 2, "is no condition"),
        (["catalog", "list", "models", "--where", "vndor=x"], 2, "there is no field 'vndor'"),
        (["catalog", "list", "accelerators", "--where", "hbm_bytes>=80 W"], 2, "unknown unit 'W'"),
        (["catalog", "list", "accelerators", "--where", "vendor>=a"], 2, "it can only be equal"),
        (["workload", "describe", "azure-conv"], 2, "did you mean profile:azure-conv?"),
        (["workload", "describe", "profile:azure-con"], 2, "did you mean 'azure-conv'?"),
        (["workload", "synthesize", "profile:azure-conv", "-o", "x.txt", "--requests", "9"], 2, ".parquet, .csv"),
        (["workload", "synthesize", "profile:azure-conv", "-o", "x.csv"], 2, "exactly one"),
        (["workload", "synthesize", "profile:azure-conv", "-o", "x.csv", "--requests", "0"], 2, "requests"),
        (["workload", "synthesize", "good.yaml", "-o", "no/x.csv", "--requests", "9"], 2, "no/x.csv"),
        (["scenario", "new", "--model", "lama"], 2, "unknown model"),
        (["scenario", "new", "--rate", "0 req/s"], 2, "rate"),
        (["scenario", "new", "-o", "good.yaml"], 2, "not overwritten"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_wrong_word(capsys: pytest.CaptureFixture[str], words: list[str], code: int, said: str) -> None:
    found, err = refusal(capsys, *words)
    assert found == code
    assert said in err
    assert {path.name for path in Path().iterdir()} == {"good.yaml"}, "nothing is left behind"


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
def test_no_file_gives_a_traceback(capsys: pytest.CaptureFixture[str], content: bytes) -> None:
    Path("x.yaml").write_bytes(content)
    for words in (["plan", "x.yaml"], ["workload", "describe", "x.yaml"], ["plan", "good.yaml", "--trace", "x.yaml"]):
        code, err = refusal(capsys, *words)
        assert code == 2
        assert "unexpected" not in err
