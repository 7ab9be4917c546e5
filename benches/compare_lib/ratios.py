"""How weft stands: its figures held against another's of the same round, each named after what it is held against.

A ratio above 1 is weft's favour whatever the row counts. It is taken within each round, where both stood on the same machine at
nearly the same time, and shown as the median of the rounds with the least and the most.
"""

import statistics
import typing

from .measures import unit
from .report import figure, spread

WEFT, PEERS = "weft", ("pasta", "slirp")
# weft at the MTU of most networks, and what it is held against there.
USUAL = "weft-1500"
BESIDE = ("none", "taploop", "pasta-1500", "slirp-1500")
BEST, OWN = "best", "x1"
# At least so much is aimed at, by the row's first words and what it is held against.
AIMS = {
    ("tcp up x1", "none"): 0.40, ("tcp down x1", "none"): 0.52,
    ("tcp up x1", "taploop"): 0.7, ("tcp down x1", "taploop"): 0.7, ("tcp both x1", "taploop"): 0.8,
    ("tcp up x1", "pasta-1500"): 10, ("tcp down x1", "pasta-1500"): 10,
    ("tcp up x1", "slirp-1500"): 5, ("tcp down x1", "slirp-1500"): 5,
    ("tcp up x1", BEST): 1, ("tcp down x1", BEST): 1,
    ("tcp both x1 weaker way", None): 1 / 3,
    ("tcp up x64", OWN): 1, ("tcp down x64", OWN): 1,
    ("tcp up x64 min/max share", None): 0.5, ("tcp down x64 min/max share", None): 0.5,
    ("udp up 64", BEST): 1, ("udp down 64", BEST): 1, ("udp up 1400", BEST): 1, ("udp down 1400", BEST): 1,
    ("tcp_rr p50", BEST): 1, ("udp_rr p50", BEST): 1,
    ("crr x1 rst", BEST): 1.5, ("crr x8 rst", BEST): 1.5, ("crr x1 fin", BEST): 1.5, ("crr x8 fin", BEST): 1.5,
    ("loopback up x1", "pasta-1500"): 1, ("loopback down x1", "pasta-1500"): 1,
    ("run true", "pasta-1500"): 1,
    ("flows x10000 share of x10", None): 0.9,
}


class Ratio(typing.NamedTuple):
    """One line: `ours` of a row held against `against`, which is nothing for a row that is a share itself.

    `kind` is the column of `against`, or BEST, or OWN.
    """

    row: str
    ours: str
    kind: str | None
    against: str
    values: list

    @property
    def aim(self):
        """The least that is wanted of weft, None where nothing is."""
        return AIMS.get((self.row, self.kind)) if self.ours.startswith(WEFT) else None

    @property
    def median(self):
        return statistics.median(self.values)

    def verdict(self):
        if self.aim is None:
            return ""
        return f"{'reached' if self.median >= self.aim else 'below'} {figure(self.aim)}"


def paired(ours, theirs, more):
    """The ratios of those rounds that have both values."""
    both = [(ours[n], theirs[n]) for n in sorted(ours.keys() & theirs.keys())]
    return [a / b if more else b / a for a, b in both if a and b]


def best(results, row, names, more):
    """The rig with the best median among those whose names begin so."""
    medians = {rig: m for rig in results.rigs if rig.startswith(names) and (m := results.median(row, rig))}
    return (max if more else min)(medians, key=medians.get) if medians else None


def held_against(results, row, more):
    """weft beside every other in one row: at MTU 1500, then each side at whatever MTU it is best at."""
    for other in BESIDE:
        values = paired(results.by_round(row, USUAL), results.by_round(row, other), more)
        if values:
            yield Ratio(row, USUAL, other, other, values)
    ours, theirs = best(results, row, WEFT, more), best(results, row, PEERS, more)
    if ours and theirs:
        values = paired(results.by_round(row, ours), results.by_round(row, theirs), more)
        if values:
            yield Ratio(row, ours, BEST, f"{theirs}, the better peer at its best MTU", values)


def against_one(results, row, rig):
    """Many connections held against one, of the same rig."""
    head, _, many = row.rpartition(" x")
    values = paired(results.by_round(row, rig), results.by_round(f"{head} x1", rig), True) if many == "64" else []
    if values:
        yield Ratio(row, rig, OWN, "its own x1", values)


def ratios(results):
    """Every ratio that the results hold."""
    found = []
    for row in results.rows():
        name, more = unit(row)
        # System calls explain a figure; they are none that a user would notice.
        if row.startswith("calls"):
            continue
        if name == "ratio":
            found += [Ratio(row, rig, None, "", list(values.values())) for rig in results.rigs if (values := results.by_round(row, rig))]
            continue
        found += held_against(results, row, more)
        if row.startswith("tcp "):
            found += [ratio for rig in results.rigs for ratio in against_one(results, row, rig)]
    return found


def text(results):
    """A line for each ratio, with its spread and whether it is what is aimed at."""
    lines = []
    for ratio in ratios(results):
        name = f"{ratio.ours} / {ratio.against}" if ratio.against else ratio.ours
        cells = [ratio.row.ljust(30), name.ljust(64), figure(ratio.median).rjust(7), spread(ratio.values).rjust(15)]
        lines.append(("".join(cells) + "   " + ratio.verdict()).rstrip())
    return "\n".join(["Ratios within each round; above 1 is weft's favour:", *lines]) if lines else ""


def records(results):
    """The same for the JSON."""
    return [{"row": r.row, "ours": r.ours, "against": r.against, "median": r.median, "min": min(r.values),
             "max": max(r.values), "rounds": r.values, "aim": r.aim} for r in ratios(results)]
