//! Subordinate ids of a whole site: who gets which, and whether what is there is right.
//!
//! ```text
//! users (getent, a file, a directory's dump) ──┐
//!                                              ├─► plan ──► write (/etc/subuid, /etc/subgid)  export ──► import
//! rule (/etc/berth/subid.toml, or built in) ───┘
//! what is there ──► check, migrate
//! ```
//!
//! The rule is a function of the uid and of nothing else: no other user, no order and no file of allocations. So ranges are
//! disjoint because the function is injective, and nobody's range moves when somebody comes or leaves. The same function is in
//! `libsubid_berth.so`, for which there need be no entries at all.

pub mod check;
pub mod exchange;
pub mod files;
pub mod lock;
pub mod migrate;
pub mod nsswitch;
pub mod past;
pub mod plan;
pub mod rule;
pub mod scheme;
pub mod shift;
pub mod users;

pub use berth_container::subid::{IdKind, Range};
pub use plan::{Plan, Planned};
pub use rule::{FIRST_PERSON, Refused, Rule, RuleError};
pub use users::{Group, User};

/// The last id of a range.
pub fn last(range: Range) -> u32 {
    range.first + (range.count - 1)
}
