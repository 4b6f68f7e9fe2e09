//! Activations.

mod quick_gelu;

pub use quick_gelu::quick_gelu;
