"""The tables of the README: medians with their spread, and how weft stands beside the others."""

import pathlib

from .lab import Failed
from .measures import unit
from .ratios import BESIDE, BEST, ratios
from .report import figure, spread, write

# What stands between these two lines of a file is replaced, and nothing else of it.
BEGIN, END = "<!-- compare: begin -->", "<!-- compare: end -->"
# The rows of the README, in its order, with what a reader would call them.
ROWS = {
    "tcp up x1": "TCP up", "tcp down x1": "TCP down", "tcp both x1": "TCP both ways, sum",
    "tcp up x64": "TCP up, 64 connections", "tcp down x64": "TCP down, 64 connections",
    "tcp both x64": "TCP both ways, 64 connections",
    "udp up 64": "UDP up, 64 bytes", "udp down 64": "UDP down, 64 bytes",
    "udp up 1400": "UDP up, 1,400 bytes", "udp down 1400": "UDP down, 1,400 bytes",
    "tcp_rr p50": "TCP round trip, p50", "tcp_rr p99": "TCP round trip, p99",
    "udp_rr p50": "UDP round trip, p50", "udp_rr p99": "UDP round trip, p99",
    "tcp_rr loaded-up p99": "TCP round trip beside bulk up, p99", "tcp_rr loaded-down p99": "TCP round trip beside bulk down, p99",
    "crr x1 rst": "connections, 1 client, closed by reset", "crr x1 fin": "connections, 1 client, closed in order",
    "crr x8 rst": "connections, 8 clients, closed by reset", "crr x8 fin": "connections, 8 clients, closed in order",
    "loopback up x1": "host's loopback to a published port", "loopback down x1": "published port to the host's loopback",
    "flows x10": "small exchanges over 10 flows", "flows x10000": "small exchanges over 10,000 flows",
    "cpu tcp up": "CPU, TCP up", "cpu tcp down": "CPU, TCP down",
    "pss idle": "memory, idle", "pss 10000 flows": "memory, 10,000 idle flows", "run true": "a sandbox for `true`",
}

USUAL_KINDS = {*BESIDE, BEST}


def line(cells):
    return "| " + " | ".join(cells) + " |"


def cell(median, values):
    """A figure with its range beneath it, where there is one."""
    return figure(median) + (f"<br><sub>{spread(values)}</sub>" if len(values) > 1 else "")


def medians(results):
    """A row for each figure: its medians, and beneath each the least and the most."""
    lines = [line(["", *results.rigs]), line(["---", *["---:"] * len(results.rigs)])]
    for row, name in ROWS.items():
        if row not in results.values:
            continue
        cells = [f"{name}, {unit(row)[0]}"]
        for rig in results.rigs:
            cells.append(cell(results.median(row, rig), results.by_round(row, rig).values()))
        lines.append(line(cells))
    return lines


def standing(results):
    """weft beside the others: at MTU 1500 each, and both at their best; nothing where no two were measured."""
    heads = [*(f"/ {other}" for other in BESIDE), "best / better peer's best"]
    lines = [line(["weft-1500", *heads]), line(["---", *["---:"] * len(heads)])]
    found = {}
    for ratio in ratios(results):
        found.setdefault(ratio.row, {})[ratio.kind] = ratio
    for row, name in ROWS.items():
        if USUAL_KINDS.isdisjoint(found.get(row, ())):
            continue
        cells = [found[row].get(key) for key in (*BESIDE, BEST)]
        lines.append(line([name, *(cell(r.median, r.values) if r else "-" for r in cells)]))
    return lines if len(lines) > 2 else []


def text(results):
    """Both tables with a line on where the figures are from."""
    session = results.sessions[-1]
    peers = ", ".join(filter(None, session.get("versions", {}).values()))
    count = len(results.sessions)
    about = (f"{results.rounds} rounds in {count} session{'s' if count != 1 else ''}, {session['cores']} cores, "
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
    whole = f"{BEGIN}\n{text(results)}{END}\n"
    if path.exists():
        before, begin, rest = path.read_text().partition(BEGIN + "\n")
        _, end, after = rest.partition(END + "\n")
        if not (begin and end):
            raise Failed(f"{path}: it has no lines {BEGIN} and {END} to write between")
        whole = before + whole + after
    write(path, whole)
