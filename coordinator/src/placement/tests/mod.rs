//! Scenarios as text in and plans as text out; and what holds for all of them.

mod invariants;
mod placing;
mod scenario;
mod scenarios;
mod world;
