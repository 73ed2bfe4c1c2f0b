//! The balloon device.
