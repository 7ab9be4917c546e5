"""The results: every round's values, kept, written and joined as JSON, and shown as a text table."""

import json
import os
import pathlib
import statistics

from . import groups
from .lab import Failed
from .measures import unit

# Rows that only the JSON has.
QUIET = (" sent", " failed")
# What a session's plan must agree in for its figures to be comparable with another's.
SAME_PLAN = ("seconds", "warm", "flows", "crowd")
ORDER = ("tcp", "loopback", "udp", "tcp_rr", "udp_rr", "crr", "flows", "broadcast", "cpu", "idle", "pss", "kernel",
         "attach", "run", "calls")


class Results:
    """Values by row, rig and round, and the reasons of those that are missing. `sessions` says when and how they came."""

    def __init__(self, group, rigs, session=None):
        self.group = group
        self.rigs = rigs
        self.sessions = [session] if session else []
        self.rounds = 0
        self.values = {}
        self.reasons = {}

    def add(self, rig, number, values):
        """Takes what one measure gave in a round; one that is a Failed is missing for that reason."""
        self.rounds = max(self.rounds, number + 1)
        for row, value in values.items():
            if isinstance(value, Failed):
                self.fail(rig, row, str(value))
                continue
            self.values.setdefault(row, {}).setdefault(rig, {})[number] = value

    def fail(self, rig, measure, reason):
        reasons = self.reasons.setdefault(measure, {}).setdefault(rig, [])
        if reason not in reasons:
            reasons.append(reason)

    def by_round(self, row, rig):
        """The values by the number of their round."""
        return self.values.get(row, {}).get(rig, {})

    def median(self, row, rig):
        values = self.by_round(row, rig)
        return statistics.median(values.values()) if values else None

    def rows(self):
        """The rows of the table, bulk first."""
        shown = [row for row in self.values if not row.endswith(QUIET)]
        return sorted(shown, key=lambda row: ORDER.index(row.split()[0]))

    def document(self, more=None):
        """Everything for the JSON: a value for each round, null where it is missing, and why."""
        rows = {}
        for row, by_rig in self.values.items():
            name, more_is_better = unit(row)
            cells = {rig: self._cell(values) for rig, values in by_rig.items()}
            rows[row] = {"unit": name, "more_is_better": more_is_better, "rigs": cells}
        return {"group": self.group.name, "sessions": self.sessions, "rigs": self.rigs, "rounds": self.rounds, "rows": rows, **(more or {}),
                "missing": self.reasons}

    def _cell(self, values):
        found = values.values()
        return {"median": statistics.median(found), "min": min(found), "max": max(found),
                "rounds": [values.get(number) for number in range(self.rounds)]}

    @classmethod
    def load(cls, path):
        """The results that an earlier run wrote. Raises Failed where the file is none of ours."""
        try:
            document = json.loads(pathlib.Path(path).read_text())
            results = cls(groups.by_name()[document.get("group", "relay")], document["rigs"])
            results.sessions, results.rounds = document["sessions"], document["rounds"]
            results.reasons = document["missing"]
            for row, content in document["rows"].items():
                for rig, cell in content["rigs"].items():
                    values = {number: v for number, v in enumerate(cell["rounds"]) if v is not None}
                    results.values.setdefault(row, {})[rig] = values
        except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            raise Failed(f"{path}: not results of compare: {error}") from error
        return results

    def join(self, other):
        """Takes another session's rounds as further rounds of its own.

        Raises Failed where that was another rotation.
        """
        if other.group.name != self.group.name:
            raise Failed(f"rotations of {self.group.name} and of {other.group.name} have nothing to join")
        for row, by_rig in other.values.items():
            for rig, values in by_rig.items():
                later = {self.rounds + number: value for number, value in values.items()}
                self.values.setdefault(row, {}).setdefault(rig, {}).update(later)
        self.rounds += other.rounds
        self.rigs = [rig for rig in self.group.rigs if rig in self.rigs or rig in other.rigs]
        self.sessions += other.sessions
        for measure, by_rig in other.reasons.items():
            for rig, reasons in by_rig.items():
                for reason in reasons:
                    self.fail(rig, measure, reason)

    def differences(self):
        """What the sessions differ in that makes their figures hard to hold against each other."""
        plans = [{key: s["plan"].get(key) for key in SAME_PLAN} for s in self.sessions]
        kernels = {s["kernel"] for s in self.sessions}
        found = [f"{key}: {', '.join(map(str, values))}" for key in SAME_PLAN if len(values := {p[key] for p in plans}) > 1]
        return found + ([f"kernel: {', '.join(sorted(kernels))}"] if len(kernels) > 1 else [])


def write(path, text):
    """Replaces a file at once: whoever is killed meanwhile leaves the old one or the new one."""
    path = pathlib.Path(path)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    beside.write_text(text)
    beside.replace(path)


def figure(value):
    if value is None:
        return "-"
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}" if value < 1 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def spread(values):
    """The least and the most of several values; nothing for a single one."""
    return f"{figure(min(values))}..{figure(max(values))}" if len(values) > 1 else ""


def table(results):
    """Two lines for each row: the medians, and beneath them the least and the most where there was more than one round."""
    first = max([len(row) for row in results.rows()] + [8]) + 8
    ranges = {row: [spread(results.by_round(row, rig).values()) for rig in results.rigs] for row in results.rows()}
    width = max(len(cell) for cells in (results.rigs, *ranges.values()) for cell in cells) + 2
    lines = [" " * first + "".join(rig.rjust(width) for rig in results.rigs)]
    for row in results.rows():
        medians = [figure(results.median(row, rig)) for rig in results.rigs]
        lines.append(f"{row} {unit(row)[0]}".ljust(first) + "".join(m.rjust(width) for m in medians))
        if any(ranges[row]):
            lines.append(" " * first + "".join(cell.rjust(width) for cell in ranges[row]))
    return "\n".join(lines)
