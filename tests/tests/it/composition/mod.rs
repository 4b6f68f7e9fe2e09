//! Composition as clients see it, over gRPC, of real coordinators. `prompts`, `refusals`, `sources` and most of `resume` put workers behind them
//! that answer by a script (`scripted`); `instructions`, `replay`, `lost_workers` and `edits` the small model that ships, which has
//! learnt to compose.

mod client;
mod edits;
mod export;
mod instructions;
mod lost_workers;
mod pictures;
mod prompts;
mod refusals;
mod replay;
mod resume;
mod scripted;
mod sources;
mod web;
mod words;
mod zip;
