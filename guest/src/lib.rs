//! The guest. Filled in by its modules.
