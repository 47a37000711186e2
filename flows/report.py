"""An evaluation as one page that needs nothing else: measures, a picture of all queries, the worst and the best."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from flows.evaluation import Comparison, measures_table
from flows.picture import MEASURE, Difference, differences, picture
from index_format.errors import InputError

_SHOWN = 10  # queries at either end

_STYLE = """
:root { color-scheme: light dark; --ink: light-dark(#1c1d21, #e8e9ed); --soft: light-dark(#62666f, #9aa0ad);
  --line: light-dark(#dcdfe6, #33363f); --ground: light-dark(#fbfbfc, #16171b); }
body { margin: 0 auto; max-width: 60rem; padding: 1.6rem 1rem 3rem; background: var(--ground); color: var(--ink);
  font: 16px/1.55 system-ui, sans-serif; }
h1 { font-size: 1.3rem; } h2 { font-size: 1.1rem; margin-top: 2.2rem; } h3, caption { font-size: .95rem; }
p, caption { color: var(--soft); } caption { text-align: left; } .wide { overflow-x: auto; }
table { border-collapse: collapse; margin: .8rem 0; font-size: .9rem; } svg { width: 100%; height: auto; }
th, td { text-align: left; padding: .25rem .9rem .25rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
"""


def write_report(path: Path, comparison: Comparison) -> None:
    """Write the page of an evaluation by judged queries. Raises InputError where no file can be written."""
    try:
        path.write_text(page(comparison), encoding="utf-8")
    except OSError as error:
        raise InputError(f"{path}: the report cannot be written: {error.strerror}.") from error


def page(comparison: Comparison) -> str:
    """The page of an evaluation as HTML."""
    measured = comparison.measured
    title = f"{comparison.index}, version {measured.version}"
    sections = [
        _section(name, differences(measured.per_query, reference), comparison.texts)
        for name, reference in comparison.references.items()
    ]
    return f"""<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title><style>{_STYLE}</style></head>
<body>
<h1>{escape(title)}</h1>
<p>{measured.queries} queries, encoded by {escape(measured.encoder)}. Each document stands at the place of its best
passage. Measures are those of trec_eval.</p>
{_table("Mean over all queries", measures_table(comparison))}
{"".join(sections)}
</body>
</html>
"""


def _section(name: str, rows: Sequence[Difference], texts: Mapping[str, str]) -> str:
    worse = [row for row in rows if row.gain < 0]
    better = [row for row in rows[::-1] if row.gain > 0]
    counts = (
        f"{len(worse)} queries are answered worse, {len(better)} better, {len(rows) - len(worse) - len(better)} alike."
    )
    return f"""<h2>Beside {escape(name)}</h2>
<p>{MEASURE} of each query less that of {escape(name)}, from the greatest loss to the greatest gain. {counts}</p>
{picture(rows)}
{_table("Worse", [_row(row, name, texts) for row in worse[:_SHOWN]])}
{_table("Better", [_row(row, name, texts) for row in better[:_SHOWN]])}
"""


def _row(row: Difference, name: str, texts: Mapping[str, str]) -> dict[str, object]:
    told: dict[str, object] = {"query": row.query, "text": texts.get(row.query, "")}
    return told | {name: f"{row.before:.4f}", "now": f"{row.now:.4f}"}


def _table(caption: str, rows: Sequence[Mapping[str, object]]) -> str:
    if not rows:
        return ""
    head = "".join(f"<th>{escape(name)}</th>" for name in rows[0])
    body = "".join(
        "<tr>" + "".join(f"<td>{escape('' if value is None else str(value))}</td>" for value in row.values()) + "</tr>"
        for row in rows
    )
    return f'<div class="wide"><table><caption>{escape(caption)}</caption><tr>{head}</tr>{body}</table></div>'
