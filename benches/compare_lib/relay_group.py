"""The rotation of relays: one sandbox and the way out of it, weft run beside pasta and slirp4netns."""

from . import calls, measures, rigs
from .groups import BEST, OWN, Group

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
PANELS = {
    "tcp up x1": "TCP up", "tcp down x1": "TCP down", "tcp both x1": "TCP both ways, sum",
    "tcp up x64": "TCP up, 64 connections", "tcp down x64": "TCP down, 64 connections", "crr x8 rst": "Connections, 8 clients",
    "udp up 64": "UDP up, 64 bytes", "udp down 64": "UDP down, 64 bytes", "crr x1 rst": "Connections, 1 client",
    "tcp_rr p50": "TCP round trip, p50", "udp_rr p50": "UDP round trip, p50", "loopback up x1": "Published port, from loopback",
    "cpu tcp up": "CPU, TCP up", "cpu tcp down": "CPU, TCP down", "run true": "A sandbox for true",
    "pss idle": "Memory, idle", "pss 10000 flows": "Memory, 10,000 idle flows", "flows x10000": "Exchanges over 10,000 flows",
}
GROUP = Group(
    name="relay", title="weft beside its peers", mark="compare", rigs=rigs.ALL, catalogue=measures.catalogue, usual="weft-1500",
    beside=("none", "taploop", "pasta-1500", "slirp-1500"), rivals=("pasta", "slirp"), aims=AIMS, rows=ROWS, panels=PANELS,
    traced=calls.catalogue,
)
