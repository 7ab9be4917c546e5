//! [2] Formats that every packet crosses, one a file.
pub mod vnet_hdr;
