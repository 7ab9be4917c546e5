//! The integration tests: one binary, one module a subject.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
#![allow(clippy::print_stdout, reason = "a test says what it goes without")]

mod addresses;
mod attach;
mod capture;
mod cli;
mod daemon;
mod daemon_api;
mod daemon_death;
mod daemon_hostile;
mod daemon_internal;
mod daemon_limits;
mod daemon_loopback;
mod daemon_multicast;
mod daemon_names;
mod daemon_packet;
mod daemon_peer;
mod daemon_policy;
mod daemon_publish;
mod daemon_refused;
mod daemon_service;
mod daemon_stations;
mod daemon_vlan;
mod daemon_workers;
mod demo;
mod dns;
mod dns_tcp;
mod harness;
mod icmp;
mod impair;
mod layering;
mod loopback;
mod memory;
mod overlay_backends;
mod overlay_faults;
mod overlay_flannel;
mod overlay_names;
mod overlay_paths;
mod overlay_peers;
mod overlay_sealed;
mod overlay_service;
mod overlay_told;
mod overlay_vxlan;
mod publish;
mod readme;
mod regress;
mod run;
mod run_network;
mod run_packet;
mod sidecar;
mod source;
mod support;
mod tcp;
mod udp;

#[global_allocator]
static MEMORY: weft::memory::Lazy = weft::memory::Lazy;
