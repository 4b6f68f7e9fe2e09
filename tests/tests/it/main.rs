//! One binary, a module per promise. `golden` runs the numbers of the reference implementation, `end_to_end` real processes,
//! `tidy` the rules of the house.

mod golden;
mod tidy;
