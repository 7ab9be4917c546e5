"""The rotation of switches: two sandboxes of one host and more, weft up beside the kernel's bridge, the bare loop, OVS and VDE."""

from . import switch_measures, switch_rigs
from .groups import Group

# At least so much is aimed at, by the row and what it is held against.
AIMS = {
    ("tcp x1", "taploop"): 0.95, ("tcp x4", "taploop"): 0.95, ("tcp x1", "ovs"): 2.5, ("tcp x4", "ovs"): 2.5,
    ("tcp x1", "ovs-veth"): 2.5, ("tcp x4", "ovs-veth"): 2.5,
    ("udp 64", "taploop"): 1.5, ("udp 64", "bridge"): 1.4,
    # Within a tenth of the bare loop's.
    ("tcp_rr p50", "taploop"): 1 / 1.1, ("udp_rr p50", "taploop"): 1 / 1.1,
    ("tcp among 1000 share of 2", None): 0.9,
}
# At most so much. Idle is none at all; what is less than a thousandth of a core is what a clock that is looked at takes.
LIMITS = {"idle cpu": 1, "pss each endpoint": 64, "kernel each endpoint": 500, "attach at 1000": 5}
ROWS = {
    "tcp x1": "TCP", "tcp x4": "TCP, 4 connections", "tcp pairs x4": "TCP, 4 pairs at once, sum",
    "udp 64": "UDP, 64 bytes",
    "tcp_rr p50": "TCP round trip, p50", "tcp_rr p99": "TCP round trip, p99",
    "udp_rr p50": "UDP round trip, p50", "udp_rr p99": "UDP round trip, p99",
    "cpu tcp": "CPU, TCP", "idle cpu": "CPU, idle",
    "tcp beside udp flood": "TCP of a pair while a third floods a fourth",
    "tcp beside udp flood apart": "the same while its load goes nowhere",
    "tcp beside udp flood share of apart": "share of that",
    "tcp_rr beside udp flood p99": "TCP round trip beside it, p99",
    "tcp_rr beside udp flood apart p99": "the same while its load goes nowhere, p99",
    "tcp among 1000": "TCP of a pair among 1,000 endpoints", "tcp among 1000 share of 2": "the same, share of that among 2",
    "tcp beside broadcast 100": "TCP of a pair beside 100 broadcasts a second to 1,000",
    "tcp_rr beside broadcast 100 p99": "TCP round trip beside them, p99",
    "tcp beside broadcast flood": "TCP of a pair beside one that floods 1,000 with broadcasts",
    "tcp beside broadcast flood apart": "the same while they go nowhere",
    "tcp beside broadcast flood share of apart": "share of that",
    "tcp_rr beside broadcast flood p99": "TCP round trip beside it, p99",
    "tcp_rr beside broadcast flood apart p99": "the same while they go nowhere, p99",
    "attach at 100": "the hundredth endpoint joins", "attach at 1000": "the thousandth endpoint joins", "pss each endpoint": "memory, each idle endpoint",
    "kernel each endpoint": "the kernel's memory, each endpoint",
}
PANELS = {row: ROWS[row] for row in ("tcp x1", "tcp x4", "udp 64", "tcp_rr p50", "udp_rr p50", "tcp pairs x4", "cpu tcp", "idle cpu")}
GROUP = Group(
    name="switch", title="weft up beside other switches", mark="compare switch", rigs=switch_rigs.ALL,
    catalogue=switch_measures.catalogue, usual="weft", beside=("bridge", "taploop", "ovs", "ovs-veth", "vde"), aims=AIMS, limits=LIMITS, rows=ROWS,
    panels=PANELS, also=(("weft-w2", "weft"), ("weft-packet", "weft"), ("weft-packet", "bridge"), ("weft-packet", "ovs-veth")),
)
