"""What is measured. A measure takes a rig and returns values by row name; it raises Failed where it cannot."""

import contextlib
import itertools
import json
import select
import subprocess
import time

from . import procs
from .lab import Failed

# Each bulk measure takes a fresh port, so that what a relay still holds of the last one reaches nobody.
PORTS = itertools.cycle(range(5000, 6900))
# Beyond the window itself: start, warm-up, and a relay that is slow.
GRACE = 8
FEW_FLOWS, FLOWS = 10, 10_000
# For opening so many, which a slow relay does at some hundreds a second.
OPENING = 30
# Descriptors that a relay or a tool needs beside its flows.
SPARE_DESCRIPTORS = 1_000
# CPU time is told in ticks of 10 ms: fewer than these and the figure is off by more than a fifth.
LEAST_TICKS = 5


class Traffic:
    """A tool that runs somewhere, killed at the end of its `with`."""

    def __init__(self, where, *argv):
        self.name = argv[0].rpartition("/")[2]
        argv = [*where, *map(str, argv)]
        self.process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd="/")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.communicate()

    def line(self, expected, seconds=GRACE):
        """Waits for a line, such as the one that says that a server listens."""
        readable, _, _ = select.select([self.process.stdout], [], [], seconds)
        said = self.process.stdout.readline().decode().strip() if readable else ""
        if said != expected:
            self.fail("said nothing in time" if not readable else f"said {said!r}")

    def result(self, seconds):
        """The JSON of its last line."""
        try:
            out, error = self.process.communicate(timeout=seconds + GRACE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.fail("was not done in time")
        if self.process.returncode:
            raise Failed(f"{self.name}: {error.decode(errors='replace').strip()[-200:] or 'failed'}")
        return json.loads(out.splitlines()[-1])

    def fail(self, why):
        self.process.kill()
        error = self.process.communicate()[1].decode(errors="replace").strip()[-200:]
        raise Failed(f"{self.name} {why}" + (f": {error}" if error else ""))


@contextlib.contextmanager
def serving(where, *argv):
    with Traffic(where, *argv) as server:
        server.line("ready")
        yield server


def gigabits(result):
    return sum(result["received"]) * 8 / result["seconds"] / 1e9


def bulk(lab, server_at, client_at, host, port, mode, connections, plan):
    """Runs tcpgen both ends; returns the results of those that received: up by the server, down by the client."""
    tail = [connections, mode, plan.warm, plan.seconds]
    with serving(server_at, lab.tool("tcpgen"), "-s", port, *tail) as server:
        with Traffic(client_at, lab.tool("tcpgen"), host, port, *tail) as client:
            limit = plan.warm + plan.seconds
            down, up = client.result(limit), server.result(limit)
    results = {"up": up, "down": down}
    return results if mode == "both" else {mode: results[mode]}


def per_gigabyte(spent, received):
    """CPU seconds for each 10^9 bytes; a Failed in place of a figure that would be the clock's grain."""
    if spent < LEAST_TICKS / procs.TICKS:
        return Failed(f"{spent:.2f} s of CPU for {received} bytes is too little to tell")
    return spent / (received / 1e9)


def tcp(mode, connections):
    def measure(lab, rig, plan):
        relays = rig.relays()
        before = procs.cpu_seconds(relays)
        results = bulk(lab, lab.inside(lab.outside), rig.inside(), rig.target, next(PORTS), mode, connections, plan)
        spent = procs.cpu_seconds(relays) - before
        rates = {way: gigabits(r) for way, r in results.items()}
        row = f"tcp {mode} x{connections}"
        values = {row: sum(rates.values())}
        if mode == "both":
            values[f"{row} weaker way"] = min(rates.values()) / max(sum(rates.values()), 1e-9)
        elif connections > 1:
            received = results[mode]["received"]
            values[f"{row} min/max share"] = min(received) / max(max(received), 1)
        elif relays:
            values[f"cpu tcp {mode}"] = per_gigabyte(spent, results[mode]["total"])
        return values

    return measure


def loopback(mode):
    """The host's own loopback to a published port; with no relay, to a server of the host."""

    def measure(lab, rig, plan):
        if rig.loopback is None:
            raise Failed("it publishes no ports")
        server_at = rig.inside() if rig.relays() else lab.inside(lab.host)
        # Up is seen from the client, which is the host here.
        results = bulk(lab, server_at, lab.inside(lab.host), rig.loopback, rig.port, mode, 1, plan)
        return {f"loopback {mode} x1": gigabits(results[mode])}

    return measure


def udp(way, size):
    def measure(lab, rig, plan):
        outside = lab.inside(lab.outside)
        if way == "up":
            receiver_at, sender_at, host, port = outside, rig.inside(), rig.target, next(PORTS)
        else:
            receiver_at, sender_at, host, port = rig.inside(), outside, rig.published, rig.port
        with serving(receiver_at, lab.tool("udpgen"), "-s", port, plan.seconds) as receiver:
            # The sender goes on for longer than the receiver counts.
            with Traffic(sender_at, lab.tool("udpgen"), host, port, size, plan.seconds + 0.3) as sender:
                arrived, sent = receiver.result(plan.seconds), sender.result(plan.seconds)
        return {
            f"udp {way} {size}": arrived["packets"] / arrived["seconds"] / 1e3,
            f"udp {way} {size} sent": sent["packets"] / sent["seconds"] / 1e3,
        }

    return measure


def round_trips(proto, load_mode=None):
    """One byte there and back; with a mode, beside a bulk TCP connection of that mode."""

    def measure(lab, rig, plan):
        outside, port, name = lab.inside(lab.outside), next(PORTS), f"{proto}_rr" + (f" loaded-{load_mode}" if load_mode else "")
        with contextlib.ExitStack() as stack:
            if load_mode:
                bulk_port, tail = next(PORTS), [1, load_mode, plan.warm, plan.seconds + 1]
                stack.enter_context(serving(outside, lab.tool("tcpgen"), "-s", bulk_port, *tail))
                load = stack.enter_context(Traffic(rig.inside(), lab.tool("tcpgen"), rig.target, bulk_port, *tail))
                time.sleep(plan.warm)
            stack.enter_context(serving(outside, lab.tool("rr"), "-s", proto, port))
            client = stack.enter_context(Traffic(rig.inside(), lab.tool("rr"), proto, rig.target, port, plan.seconds))
            result = client.result(plan.seconds)
            if load_mode and load.process.poll() is not None:
                raise Failed("the load ended before the round trips did")
        return {f"{name} p50": result["p50"], f"{name} p99": result["p99"]}

    return measure


def connects(clients, close):
    def measure(lab, rig, plan):
        port, tool = next(PORTS), lab.tool("crr")
        with serving(lab.inside(lab.outside), tool, "-s", port):
            with Traffic(rig.inside(), tool, rig.target, port, plan.seconds, clients, close) as client:
                result = client.result(plan.seconds)
        if not result["done"]:
            raise Failed(f"crr: all {result['failed']} connections failed")
        return {f"crr x{clients} {close}": result["done"] / result["seconds"], f"crr x{clients} {close} failed": result["failed"]}

    return measure


def renew(rig):
    """Starts the sandbox anew: relays keep what they grew by in the measures before."""
    if rig.holder:
        rig.stop()
        rig.start()


def held(lab, rig, plan):
    """How many flows may be open at once, within what this machine has."""
    flows = min(plan.flows, lab.descriptors - SPARE_DESCRIPTORS)
    if rig.flow_bytes * flows > procs.available_bytes() / 2:
        raise Failed(f"{flows} flows would take more than half of the memory that is free")
    return flows


def idle_memory(lab, rig, plan):
    if not rig.relays():
        raise Failed("no relay")
    renew(rig)
    return {"pss idle": procs.pss_megabytes(rig.relays())}


def flow_memory(lab, rig, plan):
    if not rig.relays() or rig.holder is None:
        raise Failed("no relay that has flows")
    flows, tool, port = held(lab, rig, plan), lab.tool("tcpgen"), next(PORTS)
    renew(rig)
    before = procs.pss_megabytes(rig.relays())
    tail = [flows, "hold", 0, 0]
    with serving(lab.inside(lab.outside), tool, "-s", port, *tail) as server:
        with Traffic(rig.inside(), tool, rig.target, port, *tail) as client:
            client.line("holding", OPENING)
            server.line("holding", GRACE)
            time.sleep(0.2)
            after = procs.pss_megabytes(rig.relays())
    return {f"pss {flows} flows": after, "pss each flow": (after - before) * 1e6 / 1e3 / flows}


def exchanges(lab, rig, plan, count):
    port, tool = next(PORTS), lab.tool("flows")
    with serving(lab.inside(lab.outside), tool, "-s", port):
        with Traffic(rig.inside(), tool, rig.target, port, count, plan.seconds) as client:
            result = client.result(plan.seconds + OPENING)
    return result["done"] / result["seconds"]


def flow_rate(lab, rig, plan):
    """Small exchanges over a few connections and over many: what it costs to find the right one for each packet."""
    flows = held(lab, rig, plan)
    few, many = f"flows x{FEW_FLOWS}", f"flows x{flows}"
    values = {few: exchanges(lab, rig, plan, FEW_FLOWS)}
    try:
        values[many] = exchanges(lab, rig, plan, flows)
        values[f"{many} share of x{FEW_FLOWS}"] = values[many] / values[few]
    except Failed as error:
        values[many] = error
    return values


def run_true(lab, rig, plan):
    return {"run true": rig.run_true() * 1e3}


def catalogue(plan):
    """Every measure by name, in the order of the run."""
    found = {"pss": idle_memory, "true": run_true}
    for mode, connections in itertools.product(("up", "down", "both"), plan.connections):
        found[f"tcp-{mode}-{connections}"] = tcp(mode, connections)
    for way, size in itertools.product(("up", "down"), (64, 1400)):
        found[f"udp-{way}-{size}"] = udp(way, size)
    found["rr-tcp"], found["rr-udp"] = round_trips("tcp"), round_trips("udp")
    for mode in ("up", "down"):
        found[f"rr-loaded-{mode}"] = round_trips("tcp", mode)
    for clients, close in itertools.product((1, 8), ("rst", "fin")):
        found[f"crr-{clients}-{close}"] = connects(clients, close)
    for mode in ("up", "down"):
        found[f"loopback-{mode}"] = loopback(mode)
    found["flow-rate"] = flow_rate
    found["flows"] = flow_memory
    return found


def unit(row):
    """What a row's figures count, and whether more is better."""
    first = row.split()[0]
    if "share" in row or "weaker" in row:
        return "ratio", True
    if row.endswith("failed"):
        return "count", False
    if row.startswith("pss each"):
        return "kB", False
    units = {"tcp": ("Gbit/s", True), "loopback": ("Gbit/s", True), "udp": ("kpkt/s", True), "crr": ("conn/s", True),
             "cpu": ("s/GB", False), "pss": ("MB", False), "run": ("ms", False),
             "idle": ("ms/s", False), "kernel": ("kB", False), "attach": ("ms", False), "broadcast": ("1/s", True),
             "flows": ("exch/s", True), "calls": ("calls/conn" if "crr" in row else "calls/MB", False)}
    return units.get(first, ("us", False))
