//! The image's root. Everything is in the `guest` library, which `emu/build.rs` compiles with `--cfg image`; the entry is
//! `_start` of its `arch` module.
#![no_std]
#![no_main]

extern crate guest as _;
