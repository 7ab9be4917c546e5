"""The tables of the README: medians with their spread, and how weft stands beside the others."""

import pathlib

from .groups import BEST
from .lab import Failed
from .measures import unit
from .ratios import ratios
from .report import figure, spread, write


def counted(number, thing):
    """So many of a thing, in words."""
    return f"{number} {thing}{'s' if number != 1 else ''}"


def marks(group):
    """What stands between these two lines of a file is replaced, and nothing else of it."""
    return f"<!-- {group.mark}: begin -->", f"<!-- {group.mark}: end -->"


def line(cells):
    return "| " + " | ".join(cells) + " |"


def cell(median, values):
    """A figure with its range beneath it, where there is one."""
    return figure(median) + (f"<br><sub>{spread(values)}</sub>" if len(values) > 1 else "")


def medians(results):
    """A row for each figure: its medians, and beneath each the least and the most."""
    lines = [line(["", *results.rigs]), line(["---", *["---:"] * len(results.rigs)])]
    for row, name in results.group.rows.items():
        if row not in results.values:
            continue
        cells = [f"{name}, {unit(row)[0]}"]
        for rig in results.rigs:
            cells.append(cell(results.median(row, rig), results.by_round(row, rig).values()))
        lines.append(line(cells))
    return lines


def standing(results):
    """weft beside the others: at MTU 1500 each, and both at their best; nothing where no two were measured."""
    group = results.group
    kinds = [*group.beside, *([BEST] if group.rivals else [])]
    heads = ["best / better peer's best" if kind == BEST else f"/ {kind}" for kind in kinds]
    lines = [line([group.usual, *heads]), line(["---", *["---:"] * len(heads)])]
    found = {}
    for ratio in ratios(results):
        # Another column of weft's may be held against one of these too.
        if ratio.kind != BEST and ratio.ours != group.usual:
            continue
        found.setdefault(ratio.row, {})[ratio.kind] = ratio
    for row, name in results.group.rows.items():
        if not any(kind in found.get(row, ()) for kind in kinds):
            continue
        cells = [found[row].get(kind) for kind in kinds]
        lines.append(line([name, *(cell(r.median, r.values) if r else "-" for r in cells)]))
    return lines if len(lines) > 2 else []


def text(results):
    """Both tables with a line on where the figures are from."""
    session = results.sessions[-1]
    peers = ", ".join(filter(None, session.get("versions", {}).values()))
    count = len(results.sessions)
    about = (f"{counted(results.rounds, 'round')} in {counted(count, 'session')}, {counted(session['cores'], 'core')}, "
             f"Linux {session['kernel']}" + (f"; {peers}" if peers else "") + ".")
    lines = [about + " Medians; beneath them the least and the most.", "", *medians(results)]
    beside = standing(results)
    if beside:
        lines += ["", "weft held against the others within each round; above 1 is weft's favour.", "", *beside]
    return "\n".join(lines) + "\n"


def put(path, results):
    """Writes the tables to a file of their own, or between the two marks of a file that has other text.

    Raises Failed where a file is there that has no marks.
    """
    path = pathlib.Path(path)
    first, last = marks(results.group)
    whole = f"{first}\n{text(results)}{last}\n"
    if path.exists():
        before, begin, rest = path.read_text().partition(first + "\n")
        _, end, after = rest.partition(last + "\n")
        if not (begin and end):
            raise Failed(f"{path}: it has no lines {first} and {last} to write between")
        whole = before + whole + after
    write(path, whole)
