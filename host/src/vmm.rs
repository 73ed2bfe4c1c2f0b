//! The owner of all host state.
