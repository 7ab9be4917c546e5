"""One rig for each way between two hosts: two namespaces joined by a veth of MTU 1500, a sandbox on each, and what carries frames
from one to the other.
"""

import shutil

from .lab import Failed, batch, call
from .switch_rigs import FIRST_ADDRESS, NETWORK, PAIR, Api, Switch, TapLoop

# Where the two hosts meet, and their addresses there.
UNDERLAY = ("198.18.16.1", "198.18.16.2")
LINK = "under0"
VNI = 42
# What is left of 1,500 bytes behind IPv4, UDP and VXLAN, and the inner Ethernet header.
VXLAN_MTU = 1450
# What weft's carriers take of a packet: IPv4, UDP, VXLAN, the inner Ethernet header; and the seal.
OVERHEAD = {"vxlan": 50, "sealed": 82}
# The same of WireGuard, for either family of addresses.
WIREGUARD_MTU = 1420
SOCKETS = "/var/run/wireguard"


class Hosts(Switch):
    """Two hosts, joined; sandbox 0 is on the first and sandbox 1 on the second."""

    def begin(self):
        self.hosts = [f"{self.lab.name}T{self.port}x{number}" for number in range(PAIR)]
        for space in self.hosts:
            self.lab.add_space(space)
        (one, other), (at, there) = self.hosts, UNDERLAY
        self.lab.join(one, LINK, at, other, LINK, there)

    def grow(self, count):
        if count > PAIR:
            raise Failed("there are two hosts with a sandbox each")
        super().grow(count)

    def stop(self):
        super().stop()
        self.lab.drop_spaces(getattr(self, "hosts", []))
        self.hosts = []

    def alive(self):
        return self.joined > 0 and all(process.poll() is None for process in self.processes)


class Underlay(Hosts):
    """No tunnel at all: from host to host."""

    def make(self, count):
        self.spaces = list(self.hosts)

    def connect(self, numbers):
        pass

    @staticmethod
    def address(number):
        return UNDERLAY[number]


class KernelVxlan(Hosts):
    """The kernel's VXLAN device on the kernel's bridge, and a veth pair for each sandbox."""

    def connect(self, numbers):
        for number in numbers:
            host, other = self.hosts[number], UNDERLAY[1 - number]
            batch(f"link add vxlan0 type vxlan id {VNI} remote {other} dstport 4789 dev {LINK}\n"
                  "link add bridge0 type bridge\n"
                  f"link set bridge0 mtu {VXLAN_MTU} up\n"
                  f"link set vxlan0 mtu {VXLAN_MTU} master bridge0 up\n"
                  f"link add port0 type veth peer name eth0 netns {self.spaces[number]}\n"
                  f"link set port0 mtu {VXLAN_MTU} master bridge0 up\n", host)
            batch(f"addr add {self.address(number)}/20 dev eth0\nlink set eth0 mtu {VXLAN_MTU} up\n", self.spaces[number])


class WireGuard(Underlay):
    """wireguard-go on each host; the hosts' own addresses behind it are the sandboxes."""

    program = "wireguard-go"

    def begin(self):
        super().begin()
        keys = [call(["wg", "genkey"]).strip() for _ in range(PAIR)]
        for number, host in enumerate(self.hosts):
            link = f"wb{self.port}{'ab'[number]}"
            self.spawn([*self.lab.inside(host), self.path, "--foreground", link])
            self.wait_for("wireguard-go", lambda: link in call(["ip", "-n", host, "link"]))
            secret = self.lab.directory / f"{link}.key"
            secret.write_text(keys[number])
            there = call(["sh", "-c", f"echo {keys[1 - number]} | wg pubkey"]).strip()
            inside = self.lab.inside(host)
            call([*inside, "wg", "set", link, "listen-port", "51820", "private-key", secret, "peer", there,
                  "endpoint", f"{UNDERLAY[1 - number]}:51820", "allowed-ips", f"{self.address(1 - number)}/32"])
            batch(f"addr add {self.address(number)}/20 dev {link}\nlink set {link} mtu {WIREGUARD_MTU} up\n", host)

    @staticmethod
    def address(number):
        return Switch.address(number)


class WeftTunnel(Hosts):
    """weft's daemon on each host, and an overlay network between them."""

    program = "weft"
    carrier = "sealed"

    def begin(self):
        super().begin()
        self.apis = []
        for number, host in enumerate(self.hosts):
            directory = self.lab.directory / f"weft{self.port}{'ab'[number]}"
            shutil.rmtree(directory, ignore_errors=True)
            directory.mkdir()
            where = directory / "api.sock"
            options = ["--workers", "1", "--socket", where, "--store", directory / "store"]
            self.spawn([*self.lab.inside(host), self.path, "up", *options])
            api = Api(where)
            self.wait_for("weft up", api.answers)
            self.apis.append(api)
        self.meet()

    def connect(self, numbers):
        for number in numbers:
            api = self.apis[number]
            # The server lets go of a connection that was idle for some seconds.
            api.close()
            api.post("/v1/endpoints", {"network": "bench", "sandbox": f"/run/netns/{self.spaces[number]}", "ip": self.address(number)})
        self.wait_for("the tunnel", self.reached)

    def reached(self):
        return "1 received" in call([*self.inside(0), "ping", "-c1", "-W1", self.address(1)], check=False)

    def meet(self):
        """Makes the network on both hosts, each handing out a part of it, and has each know the other."""
        networks = [str(part) for part in NETWORK.subnets(new_prefix=NETWORK.prefixlen + 1)]
        overhead = OVERHEAD[self.carrier]
        for api, part in zip(self.apis, networks):
            api.post("/v1/networks", {"name": "bench", "driver": "overlay", "vni": VNI, "opt": [f"carrier={self.carrier}"], "ipv6": False,
                                      "subnet": str(NETWORK), "ip-range": part, "mtu": self.mtu - overhead})
        self.know(networks)

    def know(self, networks):
        for api, there, part in zip(self.apis, UNDERLAY[::-1], networks[::-1]):
            api.post("/v1/peers", {"name": "other", "carrier": self.carrier, "endpoint": there, "networks": ["bench"]})

    @staticmethod
    def address(number):
        """An address of the part that the sandbox's host hands out."""
        parts = list(NETWORK.subnets(new_prefix=NETWORK.prefixlen + 1))
        return str(parts[number][FIRST_ADDRESS])


class WeftVxlan(WeftTunnel):
    """By plain VXLAN."""

    carrier = "vxlan"


class WeftSealed(WeftTunnel):
    """Sealed; the second host takes the first one's invite."""

    def meet(self):
        one, other = self.apis
        one.post("/v1/networks", {"name": "bench", "driver": "overlay", "vni": VNI, "ipv6": False, "subnet": str(NETWORK),
                                  "ip-range": next(str(part) for part in NETWORK.subnets(new_prefix=NETWORK.prefixlen + 1)),
                                  "mtu": self.mtu - OVERHEAD[self.carrier]})
        invite = one.post("/v1/invites", {"name": "other", "networks": ["bench"], "endpoint": UNDERLAY[0]})
        other.post("/v1/invites/accept", {"invite": invite["invite"]})


# Every rig by the name it has in the table: class and MTU of the underlay.
ALL = {
    "underlay": (Underlay, 1500),
    "taploop": (TapLoop, 1500),
    "vxlan": (KernelVxlan, 1500),
    "wireguard": (WireGuard, 1500),
    "weft-vxlan": (WeftVxlan, 1500),
    "weft-sealed": (WeftSealed, 1500),
}
