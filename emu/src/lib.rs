//! From a scenario file to a report.
//!
//! The data's way: [`scenario`] (a file becomes plain values) → [`world`] (guest, host, clock and schedule step until the run ends; the guest
//! runs on [`vcpu`], from [`image`]) → [`oracle`] (events become violations) → [`outcome`] → [`report`] (text, snapshots, comparison).
//! [`cli`] puts these together for the command line.

pub mod cli;
pub mod image;
pub mod museum;
pub mod oracle;
pub mod outcome;
pub mod report;
pub mod scenario;
pub mod search;
pub mod vcpu;
pub mod world;
