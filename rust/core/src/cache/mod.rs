//! A client-side cache that the server keeps current: which reply may be served without asking, and for how long.
//!
//! - [`machine`]: the state machine: flights, lease, epochs, own writes. It is what the bindings use.
//! - [`store`]: the entries, bounded in bytes, evicted by S3-FIFO.
//! - [`commands`]: which commands may be cached, and which keys a write changes.
//!
//! Rules
//! - **Flight.** A miss under way has an identity. It stands in the table before its request is sent. An invalidation, an own
//!   write or the end of the connection removes it: its reply then reaches its waiters, but is not cached.
//! - **Lease.** A hit needs proof that every invalidation of the last `max_staleness` has arrived. A reply on the tracking
//!   connection whose request was *sent* at t is that proof for everything executed before t.
//! - **Epoch.** One tracking connection. Its end ends lease and flights at once; the next one begins empty.
//! - **Expiry.** An entry lives from the *sending* of its request, for the shorter of the time to live and the server's PTTL,
//!   which is asked behind the read.
//! - **Own writes** remove their keys when they have been answered, have failed or were cancelled.

pub mod commands;
pub mod machine;
pub mod store;
