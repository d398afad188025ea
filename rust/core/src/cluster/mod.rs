//! The decisions of a client of a Redis Cluster: which node a command goes to, and what follows a reply or a failure there.
//!
//! * [`slot`]: from keys to hash slots. [`plan`]: whether the keys of a command lie together, and how it is split where not.
//! * [`address`], [`reply`], [`view`]: what the servers say of the cluster, read and checked.
//! * [`nodes`]: the nodes by number. [`topology`]: which node owns a slot, and which of two contradicting facts holds.
//! * [`refresh`]: when the servers are asked, and which. [`redirect`]: what follows MOVED, ASK and their like.
//! * [`waiting`]: whether a call waits for a failover or fails. [`pipeline`]: what of a pipeline goes where in each round.
//! * [`state`]: all of it behind one door, as the bindings use it.
//!
//! # Rules
//!
//! Each can be switched off by [`Rules`]: the simulation in `rust/core/tests/cluster_simulation/` has to find what breaks then, and
//! `rust/core/tests/cluster_pipeline.rs` for pipelines.
//!
//! | rule | without it |
//! |---|---|
//! | Facts have a stamp, the time when their question was sent; a MOVED is replaced only by views asked for after it | slots go back to where they were |
//! | Of two views, the larger epoch wins | the view of a node that was cut off replaces the present one |
//! | A lower epoch wins after all if a majority of its primaries has shown it for ten seconds | a cluster that was made anew is never recognised |
//! | At most four questions a second, one round at a time | refresh storms |
//! | Suspect nodes are asked last | a round is lost to a node that is down |
//! | ASK patches nothing | a slot is sent to a node that does not own it yet |
//! | Redirects of one call are bounded | a loop lasts as long as the deadline |
//! | While calls wait, questions go on | a failover is never noticed by a client that has nothing else to do |
//! | An open circuit rejects only if a view asked for after it opened names the node, and no failover can be under way | errors during a failover |
//! | A call whose slot has no owner waits for one | errors while a slot is assigned anew |
//! | It waits two seconds, and until a view that was asked for later names no owner either | calls for a slot that is not served last as long as the deadline |
//! | Waiting calls are bounded per node | memory grows with the outage |
//! | Of a pipeline, what was answered or is unknown is never sent again, nor what follows the unknown in its slot | doubled or reordered writes |
//!
//! Times are nanoseconds of the caller's clock, and random numbers come from the generator that is passed in.

pub mod address;

pub mod nodes;
pub mod pipeline;
pub mod plan;
pub mod redirect;
pub mod refresh;
pub mod reply;
pub mod slot;
pub mod state;
pub mod topology;
pub mod view;
pub mod waiting;

/// One second of the caller's clock.
pub const SECOND_NS: u64 = 1_000_000_000;
/// One millisecond of the caller's clock.
pub const MILLISECOND_NS: u64 = 1_000_000;

/// Which rules hold: all of them, but in a simulation that shows what each is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "independent switches, one per rule")]
pub struct Rules {
    /// A MOVED is replaced only by views asked for after it.
    pub facts_have_stamps: bool,
    /// Of two views, the larger epoch wins.
    pub larger_epoch_wins: bool,
    /// A lower epoch that a majority has shown for long is accepted.
    pub majority_resets_epoch: bool,
    /// At most four questions a second.
    pub questions_are_limited: bool,
    /// Suspect nodes are asked last.
    pub suspects_are_asked_last: bool,
    /// ASK leaves the table of slots as it is.
    pub ask_patches_nothing: bool,
    /// The redirects of one call are bounded.
    pub redirects_are_bounded: bool,
    /// Questions go on while calls wait.
    pub waiting_keeps_asking: bool,
    /// Calls wait for a failover.
    pub calls_wait_for_failover: bool,
    /// A node without replicas, or past the time of a failover, is rejected.
    pub waiting_ends: bool,
    /// Calls wait for their slot to get an owner.
    pub calls_wait_for_owner: bool,
    /// That wait ends before the deadline.
    pub owner_wait_ends: bool,
    /// At most so many calls wait per node.
    pub waiting_is_bounded: bool,
    /// A command whose reply was lost is not sent again.
    pub unknown_is_final: bool,
    /// What follows an unknown command in its slot is not sent again.
    pub order_follows_unknown: bool,
}

impl Rules {
    /// All rules.
    pub const ALL: Self = Self {
        facts_have_stamps: true,
        larger_epoch_wins: true,
        majority_resets_epoch: true,
        questions_are_limited: true,
        suspects_are_asked_last: true,
        ask_patches_nothing: true,
        redirects_are_bounded: true,
        waiting_keeps_asking: true,
        calls_wait_for_failover: true,
        waiting_ends: true,
        calls_wait_for_owner: true,
        owner_wait_ends: true,
        waiting_is_bounded: true,
        unknown_is_final: true,
        order_follows_unknown: true,
    };
}

impl Default for Rules {
    fn default() -> Self {
        Self::ALL
    }
}
