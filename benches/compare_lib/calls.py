"""The system calls that a relay makes for its work, counted by strace. On request: a traced relay is slow, so nothing else
is measured at the same time, and how much it does in one call is not quite what it is at full speed."""

import contextlib
import itertools
import pathlib
import re
import signal
import subprocess
import time

from . import measures
from .lab import Failed

PATIENCE = 5
# Calls that are fewer than this part of all are left out of the table.
LEAST_SHARE = 0.01
NUMBERS = itertools.count()


def traced(pid):
    try:
        return re.search(r"^TracerPid:\t(?!0$)", pathlib.Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    except OSError:
        return True


@contextlib.contextmanager
def counted(lab, rig):
    """Gives a dictionary that is filled with the number of calls by name when the work is done."""
    pids, found = rig.relays(), {}
    if not pids:
        raise Failed("no relay")
    output = lab.directory / f"calls{next(NUMBERS)}"
    attach = [word for pid in pids for word in ("-p", str(pid))]
    try:
        strace = subprocess.Popen(["strace", "-f", "-c", "-o", output, *attach], stderr=subprocess.PIPE, text=True)
    except OSError as error:
        raise Failed(f"strace: {error}") from error
    try:
        deadline = time.monotonic() + PATIENCE
        while not all(map(traced, pids)):
            if strace.poll() is not None or time.monotonic() > deadline:
                raise Failed("strace could not attach")
            time.sleep(0.01)
        yield found
    finally:
        strace.send_signal(signal.SIGINT)
        try:
            strace.communicate(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            strace.kill()
            strace.communicate()
    for line in output.read_text().splitlines():
        words = line.split()
        # % time, seconds, microseconds for a call, calls, errors (may be missing), name.
        if len(words) >= 5 and words[3].isdigit() and words[-1] != "total":
            found[words[-1]] = int(words[3])


def rows(name, calls, units):
    """All calls for each unit of work, and beneath them those that matter."""
    total = sum(calls.values())
    values = {name: total / units}
    for call, count in sorted(calls.items(), key=lambda item: -item[1]):
        if count >= LEAST_SHARE * total:
            values[f"{name} {call}"] = count / units
    return values


def bulk(mode):
    def measure(lab, rig, plan):
        with counted(lab, rig) as calls:
            results = measures.bulk(lab, lab.inside(lab.outside), rig.inside(), rig.target, next(measures.PORTS), mode, 1, plan)
        return rows(f"calls tcp {mode}", calls, max(results[mode]["total"], 1) / 1e6)

    return measure


def connects(lab, rig, plan):
    with counted(lab, rig) as calls:
        values = measures.connects(8, "rst")(lab, rig, plan)
    return rows("calls crr x8 rst", calls, values["crr x8 rst"] * plan.seconds)


def catalogue():
    """Every count by name."""
    return {"calls-up": bulk("up"), "calls-down": bulk("down"), "calls-crr": connects}
