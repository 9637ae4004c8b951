"""The witnesses' own environments, below build/: pinned, made once, never part of the project's."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
BUILD = HERE.parents[1] / "build"


@dataclass(frozen=True, slots=True)
class Witness:
    """A real engine in an environment of its own.

    Attributes:
        name: of the engine; its pins stand in requirements/NAME.txt.
        first: requirements installed with all they require; those of the pins come alone.
        size: what a user is told before it is installed.
        recipe: the script that makes its model; empty: one comes with it.
    """

    name: str
    first: tuple[str, ...]
    size: str
    recipe: str = ""

    @property
    def folder(self) -> Path:
        """Where it is."""
        return BUILD / f"witness-{self.name}"

    @property
    def python(self) -> Path:
        """Its interpreter."""
        return self.folder / "bin" / "python"

    @property
    def pins(self) -> Path:
        """The file of its pinned requirements."""
        return HERE / "requirements" / f"{self.name}.txt"

    @property
    def stamp(self) -> Path:
        """Says what was installed; written last."""
        return self.folder / ".installed"

    def missing(self) -> str:
        """Say why it cannot be used; empty where it can."""
        if self.stamp.is_file() and self.stamp.read_text() == self.digest() and not self.unmade():
            return ""
        return f"no environment {self.folder.name} with the present pins: make witness-{self.name} ({self.size})"

    def digest(self) -> str:
        """Return what the stamp of the present pins says."""
        return hashlib.sha256(" ".join(self.first).encode() + self.pins.read_bytes()).hexdigest()

    def unmade(self) -> str:
        """Return the present recipe of its model, empty where it was made by it or comes with the engine."""
        recipe = (HERE / self.recipe).read_text() if self.recipe else ""
        made = self.folder / "model" / self.recipe
        return recipe if recipe and not (made.is_file() and made.read_text() == recipe) else ""

    def install(self) -> None:
        """Make it, unless it is there.

        Raises:
            subprocess.CalledProcessError: pip failed; what it said stands on standard error.
        """
        if not self.stamp.is_file() or self.stamp.read_text() != self.digest():
            print(f"installing {self.folder.name} ({self.size})", flush=True)
            subprocess.run([sys.executable, "-m", "venv", "--clear", self.folder], check=True)
            pip = [self.python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
            if self.first:
                subprocess.run([*pip, *self.first], check=True)
            subprocess.run([*pip, "--no-deps", "--requirement", self.pins], check=True)
            self.stamp.write_text(self.digest())
        if recipe := self.unmade():
            quiet = os.environ | {"HF_HUB_OFFLINE": "1"}
            subprocess.run([self.python, HERE / self.recipe, self.folder / "model"], check=True, env=quiet)
            (self.folder / "model" / self.recipe).write_text(recipe)


VLLM = Witness("vllm", ("torch==2.13.0",), "3.4 GB, some minutes", "vllm_model.py")
LLAMA = Witness("llama", (), "200 MB, some seconds")


if __name__ == "__main__":
    {"vllm": VLLM, "llama": LLAMA}[sys.argv[1]].install()
