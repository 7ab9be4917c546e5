"""How weft stands: its figures held against another's of the same round, each named after what it is held against.

A ratio above 1 is weft's favour whatever the row counts. It is taken within each round, where both stood on the same machine at
nearly the same time, and shown as the median of the rounds with the least and the most.
"""

import statistics
import typing

from .groups import BEST, OWN, WEFT
from .measures import unit
from .report import figure, spread

LIMIT = "limit"


class Ratio(typing.NamedTuple):
    """One line: `ours` of a row held against `against`, which is nothing for a row that is a share itself.

    `kind` is the column of `against`, or BEST, or OWN, or LIMIT: then the values are the row's own, and `aim` is the most that they
    may be. Elsewhere it is the least that is wanted; None where nothing is.
    """

    row: str
    ours: str
    kind: str | None
    against: str
    values: list
    aim: float | None

    @property
    def median(self):
        return statistics.median(self.values)

    def verdict(self):
        if self.aim is None:
            return ""
        if self.kind == LIMIT:
            return f"{'within' if self.median <= self.aim else 'above'} {figure(self.aim)} {unit(self.row)[0]}"
        return f"{'reached' if self.median >= self.aim else 'below'} {figure(self.aim)}"


def paired(ours, theirs, more):
    """The ratios of those rounds that have both values."""
    both = [(ours[n], theirs[n]) for n in sorted(ours.keys() & theirs.keys())]
    return [a / b if more else b / a for a, b in both if a and b]


def best(results, row, names, more):
    """The rig with the best median among those whose names begin so."""
    medians = {rig: m for rig in results.rigs if rig.startswith(names) and (m := results.median(row, rig))}
    return (max if more else min)(medians, key=medians.get) if medians else None


def held(results, row, ours, theirs, kind, against):
    """One column's row held against another's, if some round has both."""
    values = paired(results.by_round(row, ours), results.by_round(row, theirs), unit(row)[1])
    if values:
        yield Ratio(row, ours, kind, against, values, results.group.aim(row, ours, kind))


def held_against(results, row):
    """weft beside every other in one row: at MTU 1500, then each side at whatever MTU it is best at."""
    group = results.group
    for other in group.beside:
        yield from held(results, row, group.usual, other, other, other)
    for ours, other in group.also:
        yield from held(results, row, ours, other, other, other)
    if not group.rivals:
        return
    more = unit(row)[1]
    ours, theirs = best(results, row, WEFT, more), best(results, row, group.rivals, more)
    if ours and theirs:
        yield from held(results, row, ours, theirs, BEST, f"{theirs}, the better peer at its best MTU")


def against_one(results, row, rig):
    """Many connections held against one, of the same rig."""
    head, _, many = row.rpartition(" x")
    values = paired(results.by_round(row, rig), results.by_round(f"{head} x1", rig), True) if many == "64" else []
    if values:
        yield Ratio(row, rig, OWN, "its own x1", values, results.group.aim(row, rig, OWN))


def alone(results, row):
    """The figures of a row that is held against nothing but a bound: a share, or what weft may take at most."""
    share, limit = unit(row)[0] == "ratio", results.group.limits.get(row)
    for rig in results.rigs:
        values = list(results.by_round(row, rig).values())
        if values and share:
            yield Ratio(row, rig, None, "", values, results.group.aim(row, rig, None))
        elif values and limit is not None and rig.startswith(WEFT):
            yield Ratio(row, rig, LIMIT, "", values, limit)


def ratios(results):
    """Every ratio that the results hold."""
    found = []
    for row in results.rows():
        # System calls explain a figure; they are none that a user would notice.
        if row.startswith("calls"):
            continue
        found += alone(results, row)
        if unit(row)[0] == "ratio":
            continue
        found += held_against(results, row)
        if row.startswith("tcp "):
            found += [ratio for rig in results.rigs for ratio in against_one(results, row, rig)]
    return found


def text(results):
    """A line for each ratio, with its spread and whether it is what is aimed at."""
    lines, found = [], ratios(results)
    first = max((len(ratio.row) for ratio in found), default=0) + 2
    for ratio in found:
        name = f"{ratio.ours} / {ratio.against}" if ratio.against else ratio.ours
        cells = [ratio.row.ljust(first), name.ljust(64), figure(ratio.median).rjust(7), spread(ratio.values).rjust(15)]
        lines.append(("".join(cells) + "   " + ratio.verdict()).rstrip())
    head = "Ratios within each round, where above 1 is weft's favour; shares, and figures that are bounded:"
    return "\n".join([head, *lines]) if lines else ""


def records(results):
    """The same for the JSON."""
    return [{"row": r.row, "ours": r.ours, "against": r.against, "median": r.median, "min": min(r.values),
             "max": max(r.values), "rounds": r.values, "aim": r.aim} for r in ratios(results)]
