//! The parts that a decoder layer is put together from. Each loads its own shard (the rules stand in `checkpoint::shard`) and
//! knows whether its output is whole, a part, or a part of a sum.

mod column_parallel;
mod norm;
mod row_parallel;
mod weights;

pub use column_parallel::ColumnParallelLinear;
pub use norm::RmsNorm;
pub use row_parallel::RowParallelLinear;
pub use weights::WeightReader;
