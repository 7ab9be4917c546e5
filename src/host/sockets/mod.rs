//! host/sockets
