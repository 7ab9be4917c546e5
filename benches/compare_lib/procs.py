"""What /proc says of the relays' processes: who they are, their CPU time, their memory."""

import os
import pathlib
import re
import signal
import time

PROC = pathlib.Path("/proc")
TICKS = os.sysconf("SC_CLK_TCK")


def _stat(pid):
    """The fields of /proc/PID/stat after the command's name, or None once the process is gone."""
    try:
        return (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None


def _read(path):
    try:
        return path.read_bytes()
    except OSError:
        return b""


def marked(marker):
    """Every process whose environment has the marker."""
    pids = (int(entry.name) for entry in PROC.iterdir() if entry.name.isdigit())
    return [pid for pid in pids if marker.encode() in _read(PROC / str(pid) / "environ")]


def family(root, marker):
    """Every living descendant of `root` and every process whose environment has the marker, parents before children.

    The marker finds those whose parent has ended; the tree finds those that were started with a clean environment.
    """
    parents = {}
    for entry in PROC.iterdir():
        if entry.name.isdigit() and (fields := _stat(entry.name)) and fields[0] not in "ZX":
            parents[int(entry.name)] = int(fields[1])
    found = {pid for pid in parents if pid == root or marker.encode() in _read(PROC / str(pid) / "environ")}
    grown = True
    while grown:
        more = {pid for pid, parent in parents.items() if parent in found} - found
        grown = bool(more)
        found |= more
    return sorted(found)


def command(pid):
    """A process's arguments."""
    return [a.decode(errors="replace") for a in _read(PROC / str(pid) / "cmdline").split(b"\0")[:-1]]


def cpu_seconds(pids):
    """User and system time of the processes so far. Units: seconds."""
    stats = [s for s in map(_stat, pids) if s]
    return sum(int(s[11]) + int(s[12]) for s in stats) / TICKS


def run_seconds(pids):
    """The same as the scheduler counts it, for what is too little to be seen in ticks. Units: seconds."""
    files = (path for pid in pids for path in (PROC / str(pid) / "task").glob("*/schedstat"))
    return sum(int((_read(path).split() or [0])[0]) for path in files) / 1e9


def kernel_bytes():
    """What the kernel holds for itself: its slabs, what it has for each CPU, and its larger tables."""
    found = re.findall(rb"^(?:Slab|Percpu|VmallocUsed):\s+(\d+)", _read(PROC / "meminfo"), re.MULTILINE)
    return sum(map(int, found)) * 1024


def dismantling():
    """Whether the kernel is still taking removed namespaces apart: it holds the lock of all links for long while it does."""
    return any(b"+netns" in _read(entry / "comm") for entry in PROC.iterdir() if entry.name.isdigit())


def pss_megabytes(pids):
    """Proportional share of the memory that the processes hold, MB of 10^6 bytes."""
    kib = 0
    for pid in pids:
        match = re.search(rb"^Pss:\s+(\d+)", _read(PROC / str(pid) / "smaps_rollup"), re.MULTILINE)
        kib += int(match.group(1)) if match else 0
    return kib * 1024 / 1e6


def available_bytes():
    """Memory that the machine could give to new work."""
    match = re.search(rb"^MemAvailable:\s+(\d+)", _read(PROC / "meminfo"), re.MULTILINE)
    return int(match.group(1)) * 1024 if match else 0


def end(pids, patience=3):
    """Asks the processes to end, and makes them when they do not."""
    for sign in (signal.SIGTERM, signal.SIGKILL):
        for pid in pids:
            try:
                os.kill(pid, sign)
            except ProcessLookupError:
                pass
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline:
            if not any((s := _stat(p)) and s[0] not in "ZX" for p in pids):
                return
            time.sleep(0.02)
