//! Numbers only: how many of each thing there may be, and how many bytes each room may use. It names no room.
//!
//! Every capacity in the program is one of these constants. Where a table is full the code at that place says what happens
//! (oldest out, refused, dropped and counted); nothing grows.

/// Peers alive at once, enrolments and farewells included.
pub const PEERS: usize = 64;
/// Sessions kept for tombstones (used and expired tickets, peers that left) at once; the oldest makes room.
pub const FAREWELLS: usize = 4;
/// Tickets open, used or expired that are remembered, and for how long (seconds).
pub const TICKETS: usize = 64;
/// How long a used or expired ticket is remembered, in seconds (7 days).
pub const TICKET_MEMORY: u64 = 7 * 86_400;
/// Peers that left and are remembered.
pub const LEFT: usize = 64;
/// How long a peer that left is remembered, in seconds (90 days).
pub const LEFT_MEMORY: u64 = 90 * 86_400;
/// Endpoint candidates of a peer.
pub const ENDPOINTS: usize = 8;
/// Pod prefixes a cluster may claim.
pub const PREFIXES: usize = 2;
/// Packets parked while a handshake runs, over all peers.
pub const PARKED: usize = 32;
/// Prefix pairs of one peer; a peering needs [`PREFIXES`], a wg-quick file may list more.
pub const PEER_ROUTES: usize = 16;
/// Routes over all peers, control and node ends included.
pub const ROUTES: usize = 320;
/// Addresses of this host inside its own pod prefixes, which no peer may reach.
pub const BARRED: usize = 32;
/// The largest IP packet carried, in bytes.
pub const PACKET_MAX: usize = 1600;
/// The largest Kubernetes object handled, in bytes; a larger one is refused with an event.
pub const OBJECT_MAX: usize = 1 << 20;
/// The largest body of a control request or answer, in bytes.
pub const CONTROL_BODY_MAX: usize = 16 * 1024;
/// The largest HTTP head accepted, in bytes.
pub const HEAD_MAX: usize = 8 * 1024;
/// Connections the control listener serves at once.
pub const CONTROL_CONNECTIONS: usize = 64;
/// Offloaded namespaces.
pub const NAMESPACES: usize = 64;
/// Rows of a reflected kind.
pub const ROWS: usize = 5_120;
/// API calls under way at once.
pub const CALLS: usize = 8;
