"""The bar chart: a panel for each question, a bar for each rig, drawn as plain SVG."""

from html import escape

from .measures import unit
from .report import figure

PANELS = ("tcp up x1", "tcp down x1", "tcp both x1", "udp up 64", "udp down 64", "crr x8 rst", "tcp_rr p50", "udp_rr p50",
          "cpu tcp up", "cpu tcp down", "pss idle", "run true")
COLOURS = {"none": "#9aa0a6", "taploop": "#5f6368", "pasta": "#e69f00", "slirp": "#56b4e9", "weft": "#009e73"}
COLUMNS, WIDTH, LABEL, BAR, GAP, MARGIN = 3, 330, 88, 15, 4, 14
FIGURE = 52


def panel(results, row, x, y):
    name, more = unit(row)
    values = [(rig, results.median(row, rig)) for rig in results.rigs]
    most = max(value or 0 for _, value in values) or 1
    better = "more" if more else "less"
    parts = [f'<text x="{x}" y="{y + 12}" class="t">{escape(row)}, {escape(name)} ({better} is better)</text>']
    for index, (rig, value) in enumerate(values):
        top = y + 20 + index * (BAR + GAP)
        length = (WIDTH - LABEL - FIGURE - MARGIN) * (value or 0) / most
        colour = COLOURS[rig.partition("-")[0]]
        parts.append(f'<text x="{x + LABEL - 5}" y="{top + 12}" text-anchor="end">{escape(rig)}</text>')
        parts.append(f'<rect x="{x + LABEL}" y="{top}" width="{length:.1f}" height="{BAR}" fill="{colour}"/>')
        parts.append(f'<text x="{x + LABEL + length + 4:.1f}" y="{top + 12}">{figure(value)}</text>')
    return parts


def svg(results):
    """Medians of the panels that were measured."""
    rows = [row for row in PANELS if row in results.values]
    height = 20 + len(results.rigs) * (BAR + GAP) + MARGIN
    lines = (len(rows) + COLUMNS - 1) // COLUMNS
    width = COLUMNS * WIDTH + MARGIN
    total = lines * height + MARGIN
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {total}" width="{width}" height="{total}">',
        "<style>text{font:11px sans-serif;fill:#202124}.t{font-weight:bold}</style>",
        f'<rect width="{width}" height="{total}" fill="#fff"/>',
    ]
    for index, row in enumerate(rows):
        parts += panel(results, row, MARGIN + index % COLUMNS * WIDTH, MARGIN + index // COLUMNS * height)
    return "\n".join([*parts, "</svg>"]) + "\n"
