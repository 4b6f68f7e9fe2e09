//! Operations element by element.

mod add;

pub use add::add_assign;
