//! Subordinate ids of a whole site.
