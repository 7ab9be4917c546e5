//! frag
