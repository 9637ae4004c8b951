"""The part of a scenario that says what was measured: `calibration: {curves: …, endpoint: …}`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from headway.errors import InputError
from headway.scenario.nouns import Assumption

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from headway.perf import EndpointCalibration
    from headway.reading import Node
    from headway.types import Accelerator, Model

KEYS = ("curves", "endpoint")


class CalibrationParts:
    """What a scenario says under `calibration`; files in it are relative to its folder.

    Args:
        node: where it stands, or None where the scenario leaves it out.
        folder: the scenario's.
        endpoints: calibrations named from outside, in place of the scenario's own.

    Raises:
        InputError: an unknown key, nothing under it, or a calibration that cannot be read.
    """

    def __init__(self, node: Node | None, folder: Path, endpoints: Sequence[str] = ()) -> None:
        self._folder = folder
        parts = node.entries(KEYS) if node is not None else {}
        if node is not None and not parts:
            node.fail("expected {curves: FILE}, {curves: perfdb} or {endpoint: NAME}")
        self._curves, self._node = parts.get("curves"), None if endpoints else parts.get("endpoint")
        own = self._own(self._node) if self._node is not None else []
        self._endpoints = list(endpoints) or own

    def _own(self, node: Node) -> list[str]:
        """Return the endpoints a scenario names: a name is looked up, a file is relative to the scenario."""
        texts = [item.text() for item in node.items()]
        return [str(self._folder / text) if "/" in text or text.endswith(".yaml") else text for text in texts]

    def _known(self) -> list[tuple[str, EndpointCalibration]]:
        from headway.perf import known_endpoint

        try:
            return [(source, known_endpoint(source)) for source in self._endpoints]
        except InputError as error:
            if error.file or self._node is None:
                raise
            self._node.fail(error.problem, error.hint)

    def nouns(self) -> list[Accelerator | Model]:
        """Return what was measured, for where the catalogue has no such model or accelerator."""
        if not self._endpoints:
            return []
        from headway.perf import measured_nouns

        return [noun for _, found in self._known() for noun in measured_nouns(found)]

    def endpoints(
        self, models: tuple[Model, ...], accelerators: tuple[Accelerator, ...], ledger: list[Assumption]
    ) -> tuple[str, ...]:
        """Return the calibrations of endpoints, each of a model and an accelerator that the scenario allows.

        Raises:
            InputError: one is of another model or accelerator.
        """
        for source, found in self._known():
            _check_allowed("model", found.model, models, found.name)
            _check_allowed("allow.accelerators", found.hardware, accelerators, found.name)
            what = f"{found.engine} {found.engine_version}, {found.model} on {found.hardware}".replace(" ,", ",")
            measured = f"{source}: fitted to {len(found.runs)} runs, {found.made}"
            ledger.append(Assumption(name=f"calibration {found.name}", value=what, source=measured))
        return tuple(self._endpoints)

    def curves(self, accelerators: tuple[Accelerator, ...], ledger: list[Assumption]) -> dict[str, str]:
        """Return the source of curves of each accelerator allowed that it has curves of.

        Raises:
            InputError: it cannot be read, or has curves of none of them.
        """
        if self._curves is None:
            return {}
        from headway.perf import PERFDB, own_curves

        text = self._curves.text()
        source = text if text == PERFDB else str(self._folder / text)
        found, refusals = {}, list[InputError]()
        for accelerator in accelerators:
            try:
                origins = sorted({curve.provenance.source for curve in own_curves(source, accelerator).values()})
            except InputError as error:
                refusals.append(error)
                continue
            found[accelerator.name] = source
            ledger.append(Assumption(name=f"curves of {accelerator.name}", value=text, source="; ".join(origins)))
        if not found:
            raise refusals[0]
        return found


def _check_allowed(place: str, name: str, allowed: Sequence[Accelerator | Model], calibration: str) -> None:
    from headway.perf import is_called

    if not any(is_called(noun, name) for noun in allowed):
        shown = ", ".join(noun.name for noun in allowed[:6]) or "nothing that has a price"
        raise InputError(
            f"the calibration {calibration} is of {name!r}; the scenario has {shown}",
            place=place,
            hint=f"name {name!r} there",
        )
