//! endpoint/wrap
