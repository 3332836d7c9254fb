//! Numbers only: how many of each thing there may be, and how many bytes each room may use. It names no room.
//!
//! Every capacity in the program is one of these constants. Where a table is full the code at that place says what happens
//! (oldest out, refused, dropped and counted); nothing grows.

/// Peers alive at once, enrolments and farewells included.
pub const PEERS: usize = 64;
/// Sessions kept for tombstones (used and expired tickets, peers that left) at once; the oldest makes room.
pub const FAREWELLS: usize = 4;
/// Tickets open, used or expired that are remembered; a new one takes the place of the oldest that is closed.
pub const TICKETS: usize = 64;
/// Peers that left and are remembered.
pub const LEFT: usize = 64;
/// How long a peer that left and knows it is remembered, in seconds (90 days); one that was never told, until its place is needed.
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
/// Addresses of this host inside its own pod prefixes, with the ends of their subnets, which no peer may reach.
pub const BARRED: usize = 96;
/// Endpoints of third clusters told to peers, over all peers; one more is left out and counted.
pub const TRANSIT: usize = 1_024;
/// The largest IP packet carried, in bytes.
pub const PACKET_MAX: usize = 1600;
/// The size in bytes of a packet that every path carries whole: IPv6's smallest link, 1280, less IPv6, UDP and WireGuard headers.
pub const PACKET_SAFE: u16 = 1200;
/// The largest datagram that carries such a packet, in bytes: what WireGuard adds, padding included, comes on top.
pub const DATAGRAM_MAX: usize = PACKET_MAX + 48;
/// The most packets that one frame for the TUN device is made of.
pub const FRAME_PACKETS: usize = 64;
/// Packets opened before they are written to the TUN device: how many, and their bytes. When full they are written.
pub const OPENED_PACKETS: usize = 128;
/// Bytes of such packets.
pub const OPENED_BYTES: usize = 128 * 1024;
/// Batches of datagrams taken from the socket at once; the first's place also holds the frame read from the device.
pub const BATCHES: usize = 3;
/// Bytes of one batch, or of one frame with its header: the kernel joins no more. With [`BATCHES`], 198 KiB.
pub const BATCH_BYTES: usize = 66 * 1024;
/// Single datagrams taken from the socket at once, where the kernel joins none, in the same place.
pub const SINGLES: usize = 64;
/// Bytes of each.
pub const SINGLE_BYTES: usize = 2048;
/// Sealed datagrams that wait for the end of a batch, in bytes: two whole frames. When full they are sent.
pub const OUTGOING_BYTES: usize = 140 * 1024;
/// The same in runs of one size to one destination.
pub const RUNS: usize = 64;
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
/// Twin namespaces of all consumers.
pub const TWINS: usize = 1_024;
/// Of [`TWINS`], those one consumer may have, besides what is being made ([`CALLS_EACH`]) when it is full; one more is refused.
pub const TWINS_EACH: usize = 32;
/// Objects of each kind of Kubernetes' own that a consumer may keep in one of its twin namespaces.
pub const TWIN_OBJECTS: usize = 256;
/// Rows of a reflected kind.
pub const ROWS: usize = 5_120;
/// API calls under way at once.
pub const CALLS: usize = 8;
/// API calls under way at once at one server.
pub const CALLS_EACH: usize = 4;
/// Of [`CALLS`], those that peers' servers leave free for home.
pub const CALLS_HOME: usize = 2;
/// API calls handed to the shell and not yet answered; more are told to wait.
pub const CALLS_WAITING: usize = 32;
/// Idle connections kept to one API server; the one idle longest makes room.
pub const CONNECTIONS_IDLE: usize = 4;
/// Bytes of one object above which only one exchange at a time goes on.
pub const LARGE: usize = 64 * 1024;
/// Watches open at once; one more is refused.
pub const WATCHES: usize = 512;
/// Of [`CONTROL_CONNECTIONS`], those one caller may have; one more is closed.
pub const CONTROL_CONNECTIONS_EACH: usize = 8;
/// API passages open at once; one more is refused.
pub const PASSAGES: usize = 512;
/// API passages of one caller: one a watch and a few for calls; one more is refused.
pub const PASSAGES_EACH: usize = 96;
/// Readers of the metrics at once; one more is closed.
pub const SCRAPES: usize = 4;
/// Callers of the local socket at once; more wait outside.
pub const LOCAL_CALLERS: usize = 16;
/// The longest request line on the local socket, in bytes.
pub const LOCAL_LINE_MAX: usize = 64 * 1024;
/// The largest kubeconfig, certificate, key or token file, in bytes.
pub const CREDENTIAL_FILE_MAX: usize = 256 * 1024;
