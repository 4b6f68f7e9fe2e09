//! What a request must know of a model without its weights: its config, its tokenizer, its chat template and how many
//! tokens a picture takes.

pub mod chat_template;
pub mod config;
pub mod description;
pub mod picture_geometry;
pub mod prompt;
pub mod tokenizer;

#[cfg(test)]
mod tests {
    pub(crate) mod golden_data;
}
