//! Who may share what: the root of a prompt's chain of hashes.

/// Tells this derivation from every other use of the same bytes.
const CONTEXT: &str = "inkstone prefix cache: salt of a prompt's blocks, version 1";

/// The root of a prompt's hashes. Two prompts share blocks only where all three agree: `namespace` is what the group says of itself
/// (`DescribeLanguageResponse.cache_namespace`: the model and its numbers), `tenant_salt` is whose blocks they are
/// (`GenerateRequest.cache_salt`), and `rope_class` is that of the prompt ([`rope_class`]).
pub fn salt(namespace: &[u8], tenant_salt: &[u8], rope_class: u32) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new_derive_key(CONTEXT);
    // A length in front, so that the end of one cannot be read as the beginning of the other.
    hasher.update(&(namespace.len() as u64).to_le_bytes());
    hasher.update(namespace);
    hasher.update(&rope_class.to_le_bytes());
    hasher.update(tenant_salt);
    *hasher.finalize().as_bytes()
}

/// Which rotary base a prompt's keys have: two prompts have the same one when their classes are equal. A model whose base grows
/// with the prompt beyond `fixed_up_to` positions (`ModelConfig::rope_base_fixed_up_to`) has a base for each longer prompt; any
/// other (`None`) has one for all.
pub fn rope_class(prompt_tokens: usize, fixed_up_to: Option<usize>) -> u32 {
    match fixed_up_to {
        Some(limit) if prompt_tokens > limit => u32::try_from(prompt_tokens).unwrap_or(u32::MAX),
        Some(_) | None => 0,
    }
}
