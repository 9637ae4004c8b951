"""A figure as PNG and SVG: the same bytes for the same figure, wherever and whenever it is drawn."""

from __future__ import annotations

import contextlib
import io
from typing import TYPE_CHECKING, Any

from headway.errors import EvidenceError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from matplotlib.figure import Figure

#: Okabe and Ito's palette, told apart with every form of colour vision (Okabe & Ito 2008, Color Universal Design).
BLUE, VERMILION, GREEN, ORANGE, PURPLE, SKY = "#0072B2", "#D55E00", "#009E73", "#E69F00", "#CC79A7", "#56B4E9"
INK, FAINT = "#222222", "#9a9a9a"
#: Of what an SVG holds as pixels, not as shapes.
_PIXELS_DPI = 150

_STYLE: dict[str, Any] = {
    "axes.axisbelow": True,
    "axes.edgecolor": FAINT,
    "axes.grid": True,
    "axes.labelcolor": INK,
    "axes.labelsize": 10,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 11,
    "figure.constrained_layout.use": True,
    "figure.dpi": 110,
    "font.family": "DejaVu Sans",  # comes with matplotlib: no other machine draws it differently
    "font.size": 10,
    "grid.alpha": 0.35,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "savefig.dpi": 110,
    "svg.hashsalt": "headway",
    "xtick.color": INK,
    "ytick.color": INK,
}


@contextlib.contextmanager
def drawing() -> Iterator[None]:
    """Draw in headway's style, whatever the user's own matplotlib settings are.

    Raises:
        EvidenceError: matplotlib is not installed.
    """
    try:
        import matplotlib as mpl
    except ModuleNotFoundError:
        raise EvidenceError("pictures need matplotlib: pip install 'headway[pictures]'") from None
    with mpl.rc_context():
        mpl.rcdefaults()
        for name, value in _STYLE.items():
            mpl.rcParams[name] = value  # type: ignore[index] # the stubs know settings as literals
        yield


def png(figure: Figure) -> bytes:
    """Return a figure as PNG, without date or program in it."""
    return _saved(figure, "png", {"Software": None})


def svg(figure: Figure) -> bytes:
    """Return a figure as SVG, without date or program in it."""
    return _saved(figure, "svg", {"Date": None, "Creator": None}, dpi=_PIXELS_DPI)


def _settle(figure: Figure) -> None:
    """Lay a figure out and round where its panels are.

    The last digits of the solver hang on addresses in memory, and the names of clip paths in an SVG on those digits.
    """
    if figure.get_layout_engine() is None:
        return
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    for axes in figure.axes:
        left, bottom, width, height = (round(edge, 6) for edge in axes.get_position().bounds)
        axes.set_position((left, bottom, width, height))


def _saved(figure: Figure, form: str, metadata: dict[str, Any], **options: Any) -> bytes:
    stream = io.BytesIO()
    with drawing():
        _settle(figure)
        figure.savefig(stream, format=form, metadata=metadata, **options)
    return stream.getvalue()


def picture_files(figures: Mapping[str, Figure]) -> dict[str, bytes]:
    """Return each figure as `NAME.png` and `NAME.svg`."""
    return {
        f"{name}.{form}": save(figure)
        for name, figure in figures.items()
        for form, save in (("png", png), ("svg", svg))
    }
