"""A report as one HTML file that needs nothing else, and its charts as pictures."""

import base64
import gzip
import html
import json
from collections.abc import Sequence
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from counterpoint.errors import ConfigError
from counterpoint.files import write_bytes, write_text
from counterpoint.report.charts import Chart, complete
from counterpoint.report.document import Document
from counterpoint.report.fit import fit
from counterpoint.report.palette import COLOURS, LIGHT
from counterpoint.report.text import INVISIBLE, visible

FILES = ("page.html", "page.css", "page.charts.js", "page.readout.js", "page.samples.js", "page.js")
LIMIT = 5_000_000
"""Bytes of a report."""
PICTURES = 6
"""Pictures of a chart in which the reader of the page chooses what is drawn."""
IN_PAGE = {
    "ink": "var(--ink)", "quiet": "var(--quiet)", "line": "var(--line)",
    "series": tuple(f"var(--series-{i})" for i in range(COLOURS)),
}  # fmt: skip
"""The page's style sheet knows the colours, so that they follow the reader's choice of light or dark without drawing again."""


def page(document: Document, charts: Sequence[Chart], live: bool = False) -> str:
    """The report as HTML of at most `LIMIT` bytes. What has no room is left out, and it says how much.

    What models wrote is packed, and taken out as text: none of it is ever parsed as markup.
    """
    parts = {name: files("counterpoint.report").joinpath(name).read_text("utf-8") for name in FILES}
    library = vega()
    values = {
        "title": html.escape(visible(document["title"])),
        "headlines": static_headlines(document),
        "style": parts["page.css"],
        "library": library,
        "script": "".join(parts[name] for name in FILES if name.endswith(".js")),
        "report": "",
        "live": "true" if live else "false",
        "connect": "'self'" if live else "'none'",
        "invisible": html.escape(INVISIBLE),
    }
    room = LIMIT - len(fill(parts["page.html"], values).encode("utf-8", "replace"))
    return fill(parts["page.html"], values | {"report": fitted(drawable(document, charts), room)})


def drawable(document: Document, charts: Sequence[Chart]) -> Document:
    """The document with each chart's spec, in colours that the style sheet knows."""
    specs = {chart.id: complete(chart, IN_PAGE, legend=False) for chart in charts}
    return document | {"charts": [values | {"spec": specs[values["id"]]} for values in document["charts"]]}


def fitted(document: Document, room: int) -> str:
    """The document packed into at most `room` characters; what has no room is left out, and it says what."""
    packed: list[str] = []

    def size(document: Document) -> int:
        packed[:] = [pack(document)]
        return len(packed[0])

    fit(document, room, size)
    return packed[0]


def pack(document: Document) -> str:
    """JSON, gzip, base64: a quarter of the size, and no character that could end a script."""
    text = json.dumps(finite(document), ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return base64.b64encode(gzip.compress(text.encode("utf-8", "replace"), 6, mtime=0)).decode()


def finite(value: Any) -> Any:
    """`value` with null for numbers that JSON has no word for."""
    if isinstance(value, float):
        return value if value - value == 0 else None
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    return [finite(item) for item in value] if isinstance(value, list | tuple) else value


def static_headlines(document: Document) -> str:
    """The answer as markup, for readers without scripts and previews."""

    def plain(text: str) -> str:
        return html.escape(visible(text))

    parts = []
    for headline in document["headlines"]:
        figures = "".join(
            f"<div><dt>{plain(f['label'])}</dt><dd><strong>{plain(f['value'])}</strong><span>{plain(f['detail'])}</span></dd></div>"
            for f in headline["figures"]
        )
        how = "; ".join(map(plain, headline["how"]))
        parts.append(
            f"<div class=headline><p class=sentence>{plain(headline['sentence'])}</p>"
            + (f"<dl>{figures}</dl>" if figures else "")
            + (f"<p class=how>{how}.</p>" if how else "")
            + "</div>"
        )
    return "".join(parts)


def fill(template: str, values: dict[str, str]) -> str:
    """`template` with {{name}} filled in, all at once: what is filled in is never looked at again."""
    pieces = template.split("{{")
    filled = [pieces[0]]
    for piece in pieces[1:]:
        name, _, rest = piece.partition("}}")
        filled += [values[name], rest]
    return "".join(filled)


@lru_cache
def vega() -> str:
    """Vega, Vega-Lite and Vega-Embed as one script. Raises `ConfigError` without the package that carries them."""
    return library().javascript_bundle().replace("</script", "<\\/script")


def library() -> Any:
    try:
        import vl_convert
    except ImportError as error:
        raise ConfigError('a report needs vl_convert; install it with: pip install "counterpoint[report]"') from error
    return vl_convert


def draw_figures(charts: Sequence[Chart], folder: Path) -> list[Path]:
    """Every chart as PNG and SVG, on white, with its legend. Returns the files."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for chart in charts:
        for i, (values, choice) in enumerate(pictures_of(chart), 1):
            title = f"{chart.title}: {choice}" if choice else chart.title
            spec = complete(chart, LIGHT, legend=True) | {"title": title}
            rows = [dict(zip(values, row, strict=True)) for row in zip(*values.values(), strict=True)]
            spec["data"] = {"name": "rows", "values": finite(rows)}
            spec["background"] = "white"
            spec = drawable_text(spec)
            file = folder / (f"{chart.id}-{i}" if choice else chart.id)
            write_text(file.with_suffix(".svg"), library().vegalite_to_svg(spec))
            write_bytes(file.with_suffix(".png"), library().vegalite_to_png(spec, scale=2))
            written += [file.with_suffix(".svg"), file.with_suffix(".png")]
    return written


def drawable_text(value: Any) -> Any:
    """`value` with nothing in its texts that XML has no character for, as models may write it."""
    if isinstance(value, str):
        return visible(value)
    if isinstance(value, dict):
        return {key: drawable_text(item) for key, item in value.items()}
    return [drawable_text(item) for item in value] if isinstance(value, list | tuple) else value


def pictures_of(chart: Chart) -> list[tuple[dict[str, list[Any]], str]]:
    """The numbers of each picture, and the choice in it: one picture where the reader chooses nothing, else one for each choice.

    Of a chart with more than `PICTURES` choices, as of responses to a question, the first is drawn.
    """
    if not chart.choose:
        return [(chart.columns, "")]
    chosen = chart.columns[chart.choose]
    choices = list(dict.fromkeys(chosen))
    return [
        (
            {name: [v for v, c in zip(values, chosen, strict=True) if c == choice] for name, values in chart.columns.items()},
            choice,
        )
        for choice in (choices if len(choices) <= PICTURES else choices[:1])
    ]
