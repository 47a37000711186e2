"""A picture of what became of each query: one bar each, from the greatest loss to the greatest gain."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from tasks.measures import PerQuery

MEASURE = "nDCG@10"  # what is looked at query by query, and decides where there are judgements

_WIDTH, _HEIGHT = 720, 200
_MOST_BARS = 600  # with more queries, bars stand for some of them, evenly chosen
# Seen on light and dark ground alike.
_LOSS, _GAIN, _AXIS = "#d9534f", "#3b82f6", "#8a8f99"


@dataclass(frozen=True, slots=True)
class Difference:
    """One query's nDCG@10 in a reference, and now."""

    query: str
    before: float
    now: float

    @property
    def gain(self) -> float:
        """Below 0 where the answer became worse."""
        return self.now - self.before


def differences(now: PerQuery, before: PerQuery) -> list[Difference]:
    """Of the queries that both measured, the greatest loss first, then by id."""
    both = [Difference(query, before[query][MEASURE], now[query][MEASURE]) for query in now.keys() & before.keys()]
    return sorted(both, key=lambda one: (one.gain, one.query))


def picture(rows: Sequence[Difference]) -> str:
    """An SVG of differences, in their order."""
    shown = (
        [rows[at * (len(rows) - 1) // (_MOST_BARS - 1)] for at in range(_MOST_BARS)] if len(rows) > _MOST_BARS else rows
    )
    middle, step = _HEIGHT / 2, _WIDTH / max(1, len(shown))
    bars = []
    for at, one in enumerate(shown):
        height = abs(one.gain) * middle
        top, colour = (middle, _LOSS) if one.gain < 0 else (middle - height, _GAIN)
        place = f'x="{at * step:.2f}" y="{top:.1f}" width="{max(0.5, step * 0.9):.2f}" height="{height:.1f}"'
        told = f"{escape(one.query)}: {one.before:.4f} before, {one.now:.4f} now"
        bars.append(f'<rect {place} fill="{colour}"><title>{told}</title></rect>')
    axis = f'<line x1="0" x2="{_WIDTH}" y1="{middle}" y2="{middle}" stroke="{_AXIS}"/>'
    size = f'viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="Differences of {len(rows)} queries"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size}>{axis}{"".join(bars)}</svg>'


def picture_address(rows: Sequence[Difference]) -> str:
    """The picture as an address that holds it, for whatever shows images."""
    return "data:image/svg+xml;base64," + base64.b64encode(picture(rows).encode()).decode()
