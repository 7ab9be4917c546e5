"""The results: medians and ranges as a text table, everything as JSON."""

import json
import platform
import statistics
import time

from .lab import Failed
from .measures import unit

# Rows that only the JSON has.
QUIET = (" sent", " failed")


class Results:
    """Values by row and rig, one for each round, and the reasons of those that are missing."""

    def __init__(self, rigs):
        self.rigs = rigs
        self.values = {}
        self.reasons = {}

    def add(self, rig, values):
        """Takes a round's values; one that is a Failed is missing for that reason."""
        for row, value in values.items():
            if isinstance(value, Failed):
                self.fail(rig, row, str(value))
                continue
            self.values.setdefault(row, {}).setdefault(rig, []).append(value)

    def fail(self, rig, measure, reason):
        reasons = self.reasons.setdefault(measure, {}).setdefault(rig, [])
        if reason not in reasons:
            reasons.append(reason)

    def median(self, row, rig):
        values = self.values.get(row, {}).get(rig)
        return statistics.median(values) if values else None

    def rows(self):
        """The rows of the table, bulk first."""
        order = ("tcp", "loopback", "udp", "tcp_rr", "udp_rr", "crr", "flows", "cpu", "pss", "run", "calls")
        shown = [row for row in self.values if not row.endswith(QUIET)]
        return sorted(shown, key=lambda row: order.index(row.split()[0]))


def figure(value):
    if value is None:
        return "-"
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}" if value < 1 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def table(results):
    """Two lines for each row: the medians, and beneath them the least and the most where there was more than one round."""
    first = max([len(row) for row in results.rows()] + [8]) + 8
    width = max(len(rig) for rig in results.rigs) + 3
    lines = [" " * first + "".join(rig.rjust(width) for rig in results.rigs)]
    for row in results.rows():
        medians = [figure(results.median(row, rig)) for rig in results.rigs]
        lines.append(f"{row} {unit(row)[0]}".ljust(first) + "".join(m.rjust(width) for m in medians))
        ranges = [results.values[row].get(rig, []) for rig in results.rigs]
        if any(len(values) > 1 for values in ranges):
            cells = [f"{figure(min(v))}..{figure(max(v))}" if v else "" for v in ranges]
            lines.append(" " * first + "".join(cell.rjust(width) for cell in cells))
    return "\n".join(lines)


def ratios(results):
    """How weft stands: at MTU 1500 beside no relay and the bare loop, and at its best MTU beside the better peer at its.

    A ratio above 1 is weft's favour whatever the row counts. Of medians: a round's own values sway too much to pair.
    """
    lines = []
    for row in results.rows():
        name, more = unit(row)
        # System calls explain a figure; they are none that a user would notice.
        if name == "ratio" or row.startswith("calls"):
            continue
        best = max if more else min
        medians = {rig: m for rig in results.rigs if (m := results.median(row, rig))}
        ours = [m for rig, m in medians.items() if rig.startswith("weft")]
        theirs = [m for rig, m in medians.items() if rig.startswith(("pasta", "slirp"))]
        pairs = [(medians.get("weft-1500"), medians.get(other)) for other in ("none", "taploop", "pasta-1500", "slirp-1500")]
        pairs.append((best(ours, default=None), best(theirs, default=None)))
        cells = [("-" if not (a and b) else f"{a / b if more else b / a:.2f}") for a, b in pairs]
        lines.append(row.ljust(24) + "".join(cell.rjust(14) for cell in cells))
    head = ("/none", "/taploop", "/pasta-1500", "/slirp-1500", "best/best")
    return "\n".join(["weft-1500".ljust(24) + "".join(h.rjust(14) for h in head), *lines]) if lines else ""


def document(results, plan):
    """Everything as JSON: each round's value in the order of the rounds, and why a value is missing."""
    rows = {}
    for row, by_rig in results.values.items():
        name, more = unit(row)
        cells = {
            rig: {"median": statistics.median(v), "min": min(v), "max": max(v), "rounds": v} for rig, v in by_rig.items()
        }
        rows[row] = {"unit": name, "more_is_better": more, "rigs": cells}
    return json.dumps(
        {
            "kernel": platform.release(),
            "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "plan": vars(plan),
            "rigs": results.rigs,
            "rows": rows,
            "missing": results.reasons,
        },
        indent=1,
    )
