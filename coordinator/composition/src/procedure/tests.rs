//! The procedure in a made-up world: which runs it asks for, what it makes of their results, and that it always ends.

mod failures;
mod order;
mod runs;
mod world;
