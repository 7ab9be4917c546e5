//! The program `weft`: everything that touches the kernel, and the front ends. Modules in the order of a packet's way.
pub mod cli;
pub mod cluster;
pub mod config;
pub mod control;
pub mod endpoint;
pub mod host;
pub mod memory;
pub mod observe;
pub mod worker;
