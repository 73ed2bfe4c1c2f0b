//! Dirty tracking: K, S, D and V.
