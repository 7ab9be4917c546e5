"""What is measured of a switch. Each measure says how many sandboxes it wants; traffic goes from sandbox 0 to sandbox 1."""

import contextlib
import statistics
import time

from . import procs
from .lab import Failed
from .measures import PORTS, Traffic, bulk, gigabits, per_gigabyte, serving
from .switch_rigs import NETWORK, PAIR

PAIRS = 4
# A sandbox of the crowd that broadcasts, and one where it is counted what arrives.
LOUD, LISTENING = 2, 3
# Broadcasts a second as on a network with many neighbours; 0 is as many as one sandbox can send.
STEADY, FLOOD = 100, 0
BROADCAST_SIZE = 64
# The time that joining takes is the median of so many, the last of them all, and of as many before the hundredth.
LAST_JOINED, EARLY = 50, 100
# What a switch does for new endpoints is over when it takes less than this part of a core, or after so many seconds.
CALM, CALM_WINDOW, CALM_PATIENCE = 0.03, 0.5, 20
PAUSE = 0.3
# For starting the tools of two measures.
STARTING = 2


def between(lab, rig, plan, connections=1, client=0, server=1):
    """Bulk TCP from one sandbox to another; returns what arrived."""
    return bulk(lab, rig.inside(server), rig.inside(client), rig.address(server), next(PORTS), "up", connections, plan)["up"]


def tcp(connections):
    def measure(lab, rig, plan):
        rig.sized(PAIR)
        relays = rig.relays()
        before = procs.cpu_seconds(relays)
        result = between(lab, rig, plan, connections)
        spent = procs.cpu_seconds(relays) - before
        row = f"tcp x{connections}"
        values = {row: gigabits(result)}
        if connections > 1:
            values[f"{row} min/max share"] = min(result["received"]) / max(*result["received"], 1)
        elif relays:
            values["cpu tcp"] = per_gigabyte(spent, result["total"])
        return values

    return measure


def udp(size):
    def measure(lab, rig, plan):
        rig.sized(PAIR)
        port, tool = next(PORTS), lab.tool("udpgen")
        with serving(rig.inside(1), tool, "-s", port, plan.seconds) as receiver:
            # The sender goes on for longer than the receiver counts.
            with Traffic(rig.inside(0), tool, rig.address(1), port, size, plan.seconds + 0.3) as sender:
                arrived, sent = receiver.result(plan.seconds), sender.result(plan.seconds)
        return {f"udp {size}": arrived["packets"] / arrived["seconds"] / 1e3,
                f"udp {size} sent": sent["packets"] / sent["seconds"] / 1e3}

    return measure


def ask(lab, rig, plan, proto):
    """One byte there and back, one at a time."""
    port, tool = next(PORTS), lab.tool("rr")
    with serving(rig.inside(1), tool, "-s", proto, port):
        with Traffic(rig.inside(0), tool, proto, rig.address(1), port, plan.seconds) as client:
            return client.result(plan.seconds)


def round_trips(proto):
    def measure(lab, rig, plan):
        rig.sized(PAIR)
        result = ask(lab, rig, plan, proto)
        return {f"{proto}_rr p50": result["p50"], f"{proto}_rr p99": result["p99"]}

    return measure


def calm(rig):
    """Waits until the switch is done with what it was given, and the kernel with the sandboxes of those before it."""
    deadline = time.monotonic() + CALM_PATIENCE
    while time.monotonic() < deadline:
        before = procs.run_seconds(rig.relays())
        time.sleep(CALM_WINDOW)
        if procs.run_seconds(rig.relays()) - before < CALM * CALM_WINDOW and not procs.dismantling():
            return


def idle(lab, rig, plan):
    """CPU time of a switch that nobody uses. Two namespaces' own first words on their network are waited for."""
    rig.sized(PAIR)
    relays = rig.relays()
    if not relays:
        raise Failed("it has no process")
    calm(rig)
    before = procs.run_seconds(relays)
    time.sleep(plan.idle)
    return {"idle cpu": (procs.run_seconds(relays) - before) * 1e3 / plan.idle}


def pairs(lab, rig, plan):
    """Bulk TCP in each of several pairs at once."""
    rig.sized(PAIRS * 2)
    port, tool, tail = next(PORTS), lab.tool("tcpgen"), [1, "up", plan.warm, plan.seconds]
    with contextlib.ExitStack() as stack:
        servers = [stack.enter_context(serving(rig.inside(2 * n + 1), tool, "-s", port, *tail)) for n in range(PAIRS)]
        clients = [stack.enter_context(Traffic(rig.inside(2 * n), tool, rig.address(2 * n + 1), port, *tail)) for n in range(PAIRS)]
        for client in clients:
            client.result(plan.warm + plan.seconds)
        rates = [gigabits(server.result(plan.seconds)) for server in servers]
    row = f"tcp pairs x{PAIRS}"
    return {row: sum(rates), f"{row} min/max share": min(rates) / max(*rates, 1e-9)}


def lasting(plan):
    """As long as the bulk and the round trips of a pair take, with what starting them takes."""
    return 2 * plan.seconds + plan.warm + STARTING


def beside(lab, rig, plan, where, argv):
    """A pair's throughput and round trips while another sends; and what that tells, once it is done."""
    with Traffic(where, *argv) as loud:
        time.sleep(PAUSE)
        rate, trips = gigabits(between(lab, rig, plan)), ask(lab, rig, plan, "tcp")
        if loud.process.poll() is not None:
            raise Failed(f"{loud.name} ended before the pair did")
        return rate, trips, loud.result(lasting(plan))


def held_against(row, quiet, apart, found):
    """A pair's figures beside one that floods, as shares of its throughput alone and beside one that is as busy, and
    whose load goes nowhere: what it takes of the processors by sending alone is no switch's doing."""
    (rate, trips, _), (rate_apart, trips_apart, _) = found, apart
    return {row: rate, f"{row} apart": rate_apart, f"{row} share of quiet": rate / quiet, f"{row} share of apart": rate / rate_apart,
            **{f"{row.replace('tcp', 'tcp_rr', 1)} {p}": trips[p] for p in ("p50", "p99")},
            f"{row.replace('tcp', 'tcp_rr', 1)} apart p99": trips_apart["p99"]}


def beside_flood(lab, rig, plan):
    """A pair's throughput and round trips, alone and while a third floods a fourth with small packets; and while the same load
    is dropped at once, beside the switch."""
    rig.sized(PAIR * 2)
    quiet, port, tool = gigabits(between(lab, rig, plan)), next(PORTS), lab.tool("udpgen")
    argv = [tool, rig.address(LISTENING), port, BROADCAST_SIZE, lasting(plan)]
    with rig.apart(LOUD) as where:
        apart = beside(lab, rig, plan, where, argv)
    with serving(rig.inside(LISTENING), tool, "-s", port, lasting(plan)):
        found = beside(lab, rig, plan, rig.inside(LOUD), argv)
    return held_against("tcp beside udp flood", quiet, apart, found)


def joining(rig, plan):
    """How long the last ones took to join, and those before them: what grows with the number of endpoints shows."""
    points = {EARLY, plan.crowd}
    return {f"attach at {n}": statistics.median(rig.took[n - LAST_JOINED : n]) * 1e3 for n in sorted(points)}


def crowd(lab, rig, plan):
    """A pair's throughput among two endpoints and among many, and what those many take."""
    if not rig.crowds:
        raise Failed("it is not measured with so many")
    rig.stop()
    rig.sized(PAIR)
    # What a namespace takes is not the switch's.
    rig.make(plan.crowd)
    calm(rig)
    few = gigabits(between(lab, rig, plan))
    pss, kernel = procs.pss_megabytes(rig.relays()), procs.kernel_bytes()
    rig.sized(plan.crowd)
    calm(rig)
    more = plan.crowd - PAIR
    kernel_each = (procs.kernel_bytes() - kernel) / 1e3 / more
    pss_each = (procs.pss_megabytes(rig.relays()) - pss) * 1e3 / more
    many = gigabits(between(lab, rig, plan))
    row = f"tcp among {plan.crowd}"
    values = {row: many, f"{row} share of {PAIR}": many / few, "kernel each endpoint": kernel_each}
    return values | ({"pss each endpoint": pss_each, **joining(rig, plan)} if rig.relays() else {})


def beside_broadcast(lab, rig, plan, rate, quiet):
    """A pair's throughput and round trips while a third broadcasts to everyone, and while it does so where nobody is; what a fourth
    counts of it."""
    port, name = next(PORTS), f"broadcast {rate or 'flood'}"
    argv = [lab.tool("bcast"), NETWORK.broadcast_address, port, BROADCAST_SIZE, rate, lasting(plan)]
    with rig.apart(LOUD) as where:
        apart = beside(lab, rig, plan, where, argv)
    with serving(rig.inside(LISTENING), lab.tool("udpgen"), "-s", port, plan.seconds) as listener:
        found = beside(lab, rig, plan, rig.inside(LOUD), argv)
        heard, sent = listener.result(plan.seconds), found[2]
    return held_against(f"tcp beside {name}", quiet, apart, found) | {
        f"{name} heard": heard["packets"] / heard["seconds"],
        f"{name} sent": sent["packets"] / sent["seconds"],
    }


def broadcast(lab, rig, plan):
    """The same pair with nobody, somebody and a flooder broadcasting to a crowd."""
    if not rig.crowds:
        raise Failed("it is not measured with so many")
    if rig.joined != plan.crowd:
        rig.sized(plan.crowd)
        calm(rig)
    quiet = gigabits(between(lab, rig, plan))
    values = {}
    for rate in (STEADY, FLOOD):
        values |= beside_broadcast(lab, rig, plan, rate, quiet)
    return values


def catalogue(plan):
    """Every measure by name, in the order of the run: the sandboxes become more."""
    found = {"idle": idle}
    for connections in (1, 4):
        found[f"tcp-{connections}"] = tcp(connections)
    found["udp-64"] = udp(64)
    found["rr-tcp"], found["rr-udp"] = round_trips("tcp"), round_trips("udp")
    found["flood"] = beside_flood
    found["pairs"] = pairs
    found["crowd"] = crowd
    found["broadcast"] = broadcast
    return found
