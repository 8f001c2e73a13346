"""The HTML of a report: one file, with its pictures inside."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterable, Sequence
from html import escape
from importlib.resources import files
from string import Template
from typing import NamedTuple

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from scdiffusion.pl._metric_words import WORDS

# class of the style sheet and sign of each verdict, readable without colours as well
MARKS = {
    "within floor": ("good", "●"),
    "between": ("fair", "◆"),
    "worse than floor": ("fair", "◆"),
    "worse than baseline": ("bad", "✕"),
}
NO_MARK = ("none", "–")
DOTS_PER_INCH, CSS_PIXELS_PER_INCH = 144, 96

READING = """
<dl>
<dt>Floor</dt><dd>What real cells score against other real cells, at the same number of cells. Two samples of one tissue
differ too, the more the fewer the cells. No generator can be expected to do better.</dd>
<dt>Baseline</dt><dd>What cells score whose genes were drawn one by one, each with its right distribution within the
type, but without any idea of which genes go together. Anything worth using beats it.</dd>
<dt><span class="mark good">●</span> within floor</dt><dd>No worse than real cells, as far as so many cells can tell. Of
few cells little can be told: look at their number, too.</dd>
<dt><span class="mark fair">◆</span> between</dt><dd>Worse than real cells by more than chance, better than the
baseline.</dd>
<dt><span class="mark bad">✕</span> worse than baseline</dt><dd>No better than genes drawn one by one.</dd>
</dl>
<p>± is one standard deviation by sampling of cells. Of a hundred figures of real cells about one falls outside the floor
by chance. No figure decides alone: mean expression is easy to get right, a classifier on genes is hard to please.</p>
"""


class Section(NamedTuple):
    """A part of the page; the body is HTML."""

    title: str
    words: str
    body: str


def page(title: str, subtitle: str, sections: Sequence[Section]) -> str:
    """Return the whole file."""
    template = Template(files("scdiffusion.pl").joinpath("_page.html").read_text(encoding="utf-8"))
    links, bodies = [], []
    for section in sections:
        anchor = escape(section.title.lower().replace(" ", "-"))
        links.append(f'<a href="#{anchor}">{escape(section.title)}</a>')
        words = f"<p>{escape(section.words)}</p>\n" if section.words else ""
        bodies.append(f'<section id="{anchor}">\n<h2>{escape(section.title)}</h2>\n{words}{section.body}\n</section>')
    return template.substitute(
        title=escape(title), subtitle=escape(subtitle), links="\n".join(links), sections="\n".join(bodies)
    )


def picture(title: str, draw: Callable[[], Figure]) -> str:
    """Return the figure that ``draw`` returns, or why there is none."""
    try:
        figure = draw()
    except ValueError as error:
        return not_drawn(title, error)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DOTS_PER_INCH, facecolor="white", bbox_inches="tight")
    plt.close(figure)
    png = buffer.getvalue()
    # the header of a PNG has its size in pixels
    width, height = (int.from_bytes(png[i : i + 4]) * CSS_PIXELS_PER_INCH // DOTS_PER_INCH for i in (16, 20))
    source = f"data:image/png;base64,{base64.b64encode(png).decode()}"
    return (
        f'<figure><div class="scroll"><img alt="{escape(title)}" width="{width}" height="{height}" '
        f'style="--width: {width}px" src="{source}"></div></figure>'
    )


def not_drawn(title: str, reason: ValueError) -> str:
    """Return what stands in the place of a picture."""
    return f'<p class="missing">{escape(title)} not drawn: {escape(str(reason))}</p>'


def gallery(pictures: Iterable[str]) -> str:
    """Return pictures side by side, as many as there is room for."""
    return f'<div class="gallery">{"".join(pictures)}</div>'


def summary(table: pd.DataFrame) -> str:
    """Return how many rows have which verdict, the worst of them by name, and the notes of the evaluation."""
    counts = table["verdict"].value_counts()
    judged = [verdict for verdict in MARKS if verdict in counts]
    bar = "".join(f'<div class="{MARKS[v][0]}" style="flex: {counts[v]}"></div>' for v in judged)
    items = [f"{_mark(verdict)} <b>{n}</b> {escape(verdict)}" for verdict, n in counts.items()]
    notable = {v: _some_rows(table[table["verdict"] == v]) for v in judged if v != "within floor"}
    notes = [f"{verdict.capitalize()}: {rows}." for verdict, rows in notable.items()] + table.attrs.get("notes", [])
    return (
        f'<div class="bar" aria-hidden="true">{bar}</div>\n'
        f'<ul class="counts">{"".join(f"<li>{item}</li>" for item in items)}</ul>\n'
        f'<ul class="soft">{"".join(f"<li>{escape(note)}</li>" for note in notes)}</ul>'
    )


def metric_table(table: pd.DataFrame) -> str:
    """Return the figures of all cells, a row per metric."""
    rows = []
    for _, row in table[table["group"] == "all"].iterrows():
        words = f"{WORDS.get(row['metric'], '')} ({row['space']})" if pd.notna(row.get("space")) else ""
        cells = [
            f'<th scope="row" class="metric">{escape(_name(row["metric"]))}<br><small>{escape(words)}</small></th>',
            f'<td class="left">{_mark(row["verdict"])} {escape(row["verdict"])}</td>',
            *(f"<td>{_number(row[side], row.get(f'{side}_sd'))}</td>" for side in ("generated", "floor", "baseline")),
            f"<td>{escape(_goal(row['better']))}</td>",
            f"<td>{row.get('n_cells', '')}</td>",
        ]
        rows.append("".join(cells))
    return _table(["Metric", "Verdict", "Generated", "Floor", "Baseline", "Better", "Cells"], rows)


def group_table(table: pd.DataFrame) -> str:
    """Return the generated figure and the verdict of every type and metric; nothing if there are no types."""
    table = table[table["group"] != "all"]
    if table.empty:
        return ""
    metrics = list(table["metric"].unique())
    rows = []
    for group, figures in table.groupby("group", sort=False):
        figures = figures.set_index("metric")
        cells = [f'<th scope="row">{escape(str(group))}</th>']
        for metric in metrics:
            row = figures.loc[metric]
            told = f"{row['verdict']}; floor {_number(row['floor'])}, baseline {_number(row['baseline'])}"
            shown = _number(row["generated"]) if row["verdict"] in MARKS else escape(row["verdict"])
            cells.append(f'<td title="{escape(told)}">{_mark(row["verdict"])} {shown}</td>')
        rows.append("".join(cells))
    return _table(["Type", *map(_name, metrics)], rows, "groups")


def _table(head: Sequence[str], rows: Iterable[str], style: str = "") -> str:
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in head)
    body = "\n".join(f"<tr>{row}</tr>" for row in rows)
    return (
        f'<div class="scroll" tabindex="0"><table class="{style}">\n<thead><tr>{head}</tr></thead>\n'
        f"<tbody>\n{body}\n</tbody></table></div>"
    )


def _some_rows(table: pd.DataFrame, n: int = 12) -> str:
    rows = [
        _name(metric) + ("" if group == "all" else f" ({group})")
        for metric, group in zip(table["metric"], table["group"], strict=True)
    ]
    return ", ".join(rows[:n]) + (f" and {len(rows) - n} more" if len(rows) > n else "")


def _mark(verdict: str) -> str:
    color, sign = MARKS.get(verdict, NO_MARK)
    return f'<span class="mark {color}">{sign}</span>'


def _name(metric: str) -> str:
    return metric.replace("_", " ")


def _number(value: float, deviation: float | None = None) -> str:
    if pd.isna(value):
        return "–"
    return f"{value:.3g}" + (f" ± {deviation:.2g}" if deviation is not None and pd.notna(deviation) else "")


def _goal(better: str | float) -> str:
    return better if isinstance(better, str) else f"near {better:.3g}" if pd.notna(better) else "–"
