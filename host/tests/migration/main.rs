//! The migration engine and its bitmaps: order of events, ends of every kind, and no write forgotten.
mod engine;
mod stack;
mod world;
