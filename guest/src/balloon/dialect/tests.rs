//! The request dialects against a device that answers at once.
