//! Ranks under the engine, with a small model of random weights: what a request gets does not depend on who else runs, and a rank
//! that dies or hangs ends the group.

mod company;
mod constrained;
mod failures;
mod group;
mod resumed;
