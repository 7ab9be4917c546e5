"""The bar chart: a panel for each question, a bar for each rig with the least and the most as a whisker, as plain SVG."""

from html import escape

from .measures import unit
from .report import figure

COLOURS = {"none": "#9aa0a6", "taploop": "#5f6368", "pasta": "#e69f00", "slirp": "#56b4e9", "weft": "#009e73",
           "bridge": "#9aa0a6", "ovs": "#e69f00", "vde": "#56b4e9"}
COLUMNS, WIDTH, LABEL, BAR, GAP, MARGIN, HEAD = 3, 330, 88, 14, 4, 14, 22
FIGURE = 60


def bar(rig, value, values, x, top, scale):
    """A rig's line: its name, the bar of the median, the whisker, the figure."""
    left, middle = x + LABEL, top + BAR / 2
    parts = [f'<text x="{left - 5}" y="{top + 11}" text-anchor="end">{escape(rig)}</text>']
    if value is None:
        return parts + [f'<text x="{left + 4}" y="{top + 11}">-</text>']
    end = left + value * scale
    parts.append(f'<rect x="{left}" y="{top}" width="{value * scale:.1f}" height="{BAR}" fill="{COLOURS[rig.partition("-")[0]]}"/>')
    if len(values) > 1:
        low, high = left + min(values) * scale, left + max(values) * scale
        parts.append(f'<path d="M{low:.1f} {middle}H{high:.1f}M{low:.1f} {top + 3}v{BAR - 6}M{high:.1f} {top + 3}v{BAR - 6}"/>')
        end = max(end, high)
    return parts + [f'<text x="{end + 4:.1f}" y="{top + 11}">{figure(value)}</text>']


def panel(results, row, title, x, y):
    name, more = unit(row)
    values = {rig: list(results.by_round(row, rig).values()) for rig in results.rigs}
    most = max((max(v) for v in values.values() if v), default=0) or 1
    scale = (WIDTH - LABEL - FIGURE - MARGIN) / most
    parts = [f'<text x="{x}" y="{y + 12}"><tspan class="t">{escape(title)}</tspan>, {escape(name)}, {"more" if more else "less"} is better</text>']
    for index, rig in enumerate(results.rigs):
        parts += bar(rig, results.median(row, rig), values[rig], x, y + HEAD + index * (BAR + GAP), scale)
    return parts


def svg(results):
    """Every panel that was measured."""
    rows = [(row, title) for row, title in results.group.panels.items() if row in results.values]
    height = HEAD + len(results.rigs) * (BAR + GAP) + MARGIN
    width = COLUMNS * WIDTH + MARGIN
    total = (len(rows) + COLUMNS - 1) // COLUMNS * height + MARGIN
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {total}" width="{width}" height="{total}" role="img">',
        f"<title>{escape(results.group.title)}</title>",
        "<style>text{font:11px sans-serif;fill:#202124}.t{font-weight:bold}path{stroke:#202124;fill:none}</style>",
        f'<rect width="{width}" height="{total}" fill="#fff"/>',
    ]
    for index, (row, title) in enumerate(rows):
        parts += panel(results, row, title, MARGIN + index % COLUMNS * WIDTH, MARGIN + index // COLUMNS * height)
    return "\n".join([*parts, "</svg>"]) + "\n"
