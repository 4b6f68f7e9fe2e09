//! One binary, a module per promise. `golden` runs the numbers of the reference implementation, `end_to_end`, `company` and `constraint` real
//! processes, `eval` and `bench` what those commands print, `small_model` the checkpoint that ships, `training` the program that
//! made it, `composition` articles with pictures, `faults` clusters that are hurt in every way, `fairness` that tenants take turns, `tidy` the
//! rules of the house.

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "tests say what they ran and what they skipped"
)]

mod bench;
mod cluster_fixture;
mod company;
mod composition;
mod constraint;
mod end_to_end;
mod eval;
mod fairness;
mod faults;
mod golden;
mod small_model;
mod tidy;
mod training;
