//! Activations.

mod gelu_erf;
mod quick_gelu;
mod silu_mul;

pub use gelu_erf::gelu_erf;
pub use quick_gelu::quick_gelu;
pub use silu_mul::silu_mul;
