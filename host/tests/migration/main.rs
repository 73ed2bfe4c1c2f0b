//! The migration engine and its bitmaps: order of events, ends of every kind, and no write forgotten.
mod decoder;
mod engine;
mod image;
mod stack;
mod world;
