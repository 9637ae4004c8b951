"""What `main` makes of each way a command can end."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable

import click
import pytest

from headway.cli import app as tree
from headway.cli import main
from headway.cli.common import pairs
from headway.errors import EvidenceError, HeadwayError, InfeasibleError, InputError

Captured = pytest.CaptureFixture[str]
Ending = Callable[[BaseException], None]


@pytest.fixture
def ending(monkeypatch: pytest.MonkeyPatch) -> Ending:
    """Make `headway plan` end with an error."""

    def end(error: BaseException) -> None:
        def fail() -> None:
            raise error

        command = click.Command("plan", callback=fail)
        monkeypatch.setattr(tree.app, "get_command", lambda *_: command)

    return end


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (HeadwayError("no"), 1, "error: no"),
        (InputError("wrong", file="a.yaml", place="line 3"), 2, "error: a.yaml: line 3: wrong"),
        (InfeasibleError("cannot", binding="hbm_bytes"), 3, "error: cannot; hbm_bytes binds"),
        (EvidenceError("too little"), 4, "error: too little"),
        (KeyboardInterrupt(), 130, "error: interrupted"),
        (RuntimeError("a\nb"), 1, "error: unexpected RuntimeError: a b (set HEADWAY_DEBUG=1"),
        (RecursionError("deep"), 1, "error: unexpected RecursionError: deep"),
        (MemoryError(), 1, "error: unexpected MemoryError:"),
        (OSError(errno.ENOSPC, "No space left on device"), 1, "error: cannot write the result: No space left"),
        (ModuleNotFoundError("x", name="polars"), 1, "error: polars is not installed"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_every_error_is_one_line_and_its_code(
    ending: Ending, capsys: Captured, error: BaseException, code: int, said: str
) -> None:
    ending(error)
    assert main(["plan"]) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.lstrip().startswith(said)  # after ^C click ends the terminal's line first
    assert err.strip().count("\n") == 0


def test_debugging_shows_the_traceback(ending: Ending, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADWAY_DEBUG", "1")
    ending(RuntimeError("seen"))
    with pytest.raises(RuntimeError, match="seen"):
        main(["plan"])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["plam"], "No such command 'plam'; did you mean 'plan'?"),
        (["catalog", "lst"], "No such command 'lst'; did you mean 'list'?"),
        (["plan"], "Missing argument 'SCENARIO' (see `headway plan --help`)"),
        (["plan", "a", "--jsn"], "No such option '--jsn'"),
        (["plan", "a", "b"], "Got unexpected extra argument"),
        (["simulate", "a", "--tp", "two"], "'two' is not a valid integer"),
        (["catalog", "list", "gpus"], "'gpus' is not one of"),
        (["completion", "csh"], "'csh' is not one of"),
        (["plan", "a", "--rate", "40"], "--rate: '40' has no unit"),
        (
            ["workload", "synthesize", "profile:x", "-o", "x.csv", "--duration", "1 req/s"],
            "--duration: '1 req/s' has an unknown unit",
        ),
    ],
)
def test_a_wrong_command_line_is_one_line(capsys: Captured, words: list[str], said: str) -> None:
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert said in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("words", [[], ["catalog"]])
def test_no_words_show_the_help(capsys: Captured, words: list[str]) -> None:
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("Usage: headway")
    assert "Commands:" in err


def test_version(capsys: Captured) -> None:
    from headway import __version__

    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"headway {__version__}\n"


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_completion_prints_a_script(capsys: Captured, shell: str) -> None:
    assert main(["completion", shell]) == 0
    assert "_HEADWAY_COMPLETE" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("headway ca", "plain,catalog"),
        ("headway price h100-s", "plain,h100-sxm"),
        ("headway simulate --accelerator MI300", "plain,mi300x"),
    ],
)
def test_the_shell_completes(words: str, found: str) -> None:
    env = os.environ | {
        "_HEADWAY_COMPLETE": "bash_complete",
        "COMP_WORDS": words,
        "COMP_CWORD": str(len(words.split()) - 1),
    }
    code = "import sys; from headway.cli import main; sys.exit(main([]))"
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)
    assert found in done.stdout.split(), done.stderr


def test_pairs() -> None:
    assert pairs(["a=1", "b=x=y"], "--set") == {"a": "1", "b": "x=y"}
    for wrong, said in ((["a"], "NAME=VALUE"), (["=1"], "NAME=VALUE"), (["a=1", "a=2"], "stands twice")):
        with pytest.raises(InputError, match=said):
            pairs(wrong, "--set")
