"""The rotation of tunnels: a sandbox on each of two hosts, weft's overlay networks beside the kernel's VXLAN, wireguard-go and no
tunnel at all; and the bare loop on one host, for its round trips."""

from . import switch_measures, tunnel_rigs
from .groups import Group

# At least so much is aimed at, by the row, what it is held against, and which of weft's carriers.
AIMS = {
    ("tcp x1", "wireguard", "weft-vxlan"): 10, ("tcp x1", "vxlan", "weft-vxlan"): 0.4,
    ("tcp x1", "wireguard", "weft-sealed"): 6, ("tcp x1", "weft-vxlan", "weft-sealed"): 0.6,
    ("udp 64", "wireguard", "weft-vxlan"): 2.5, ("udp 64", "wireguard", "weft-sealed"): 1.5,
}
ROWS = {
    "tcp x1": "TCP", "tcp x4": "TCP, 4 connections",
    "udp 64": "UDP, 64 bytes",
    "tcp_rr p50": "TCP round trip, p50", "tcp_rr p99": "TCP round trip, p99",
    "udp_rr p50": "UDP round trip, p50", "udp_rr p99": "UDP round trip, p99",
    "cpu tcp": "CPU of both hosts' processes, TCP", "idle cpu": "CPU of both, idle",
}
PANELS = {row: ROWS[row] for row in ("tcp x1", "tcp x4", "udp 64", "tcp_rr p50", "udp_rr p50", "cpu tcp")}


def catalogue(plan):
    """Every measure by name."""
    found = switch_measures.catalogue(plan)
    return {name: found[name] for name in ("idle", "tcp-1", "tcp-4", "udp-64", "rr-tcp", "rr-udp")}


GROUP = Group(
    name="tunnel", title="weft's overlay networks beside other tunnels", mark="compare tunnel", rigs=tunnel_rigs.ALL,
    catalogue=catalogue, usual="weft-vxlan", beside=("underlay", "taploop", "vxlan", "wireguard"), aims=AIMS, rows=ROWS, panels=PANELS,
    also=(("weft-sealed", "underlay"), ("weft-sealed", "taploop"), ("weft-sealed", "vxlan"), ("weft-sealed", "wireguard"), ("weft-sealed", "weft-vxlan")),
)
