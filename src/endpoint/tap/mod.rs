//! endpoint/tap
