//! The model's tokens as llguidance wants them: each one's bytes in a text.

use std::sync::Arc;

use inkstone_interface::tokenizer::Tokenizer;
use llguidance::{
    Matcher, ParserFactory,
    toktrie::{TokEnv, TokRxInfo, TokTrie, TokenId, TokenizerEnv},
};

use super::{Constraint, ConstraintForm, first_line, grammar, in_words};

/// What all constraints of a process share. Cloning is cheap.
#[derive(Clone)]
pub struct ConstraintVocabulary {
    factory: Arc<ParserFactory>,
    stop_token_ids: Vec<u32>,
    num_tokens: usize,
}

impl ConstraintVocabulary {
    /// Made once per process: it takes some tenths of a second. `num_tokens` is the number of logits in a row, which may differ from the
    /// tokenizer's; `stop_token_ids` are the model's.
    pub fn new(
        tokenizer: &Tokenizer,
        num_tokens: usize,
        stop_token_ids: &[u32],
    ) -> Result<Self, String> {
        let stop_token_ids: Vec<u32> = stop_token_ids
            .iter()
            .copied()
            .filter(|&id| (id as usize) < num_tokens)
            .collect();
        if stop_token_ids.is_empty() {
            return Err("a constraint needs a stop token, the model has none".into());
        }
        let bytes = |id| text_bytes(tokenizer, id, &stop_token_ids);
        let tokens: Vec<Vec<u8>> = (0..num_tokens as u32).map(bytes).collect();
        let info = TokRxInfo::new(num_tokens as u32, stop_token_ids[0]);
        let trie = TokTrie::from(&info, &tokens).with_eos_tokens(&stop_token_ids);
        let env: TokEnv = Arc::new(Vocabulary(trie));
        let mut factory = ParserFactory::new_simple(&env).map_err(in_words)?;
        *factory.limits_mut() = grammar::limits();
        factory.quiet();
        Ok(Self {
            factory: Arc::new(factory),
            stop_token_ids,
            num_tokens,
        })
    }

    /// A constraint at the beginning of an answer, or what is wrong with its form.
    pub fn compile(&self, form: &ConstraintForm) -> Result<Constraint, String> {
        let kind = match form {
            ConstraintForm::Choices(_) => "choices",
            ConstraintForm::JsonSchema(_) => "JSON schema",
            ConstraintForm::Regex(_) => "regular expression",
        };
        let in_context = |reason: String| format!("the {kind} cannot be used: {reason}");
        let grammar = grammar::grammar(form).map_err(in_context)?;
        let parser = self.factory.create_parser(grammar);
        let parser = parser.map_err(|error| in_context(first_line(&format!("{error:#}"))))?;
        let mut constraint = Constraint::new(Matcher::new(Ok(parser)), self).map_err(in_context)?;
        // A form that no text has is refused here rather than with the first token.
        match constraint.allowed().map_err(in_context)?.num_allowed() {
            0 => Err(in_context("no text has this form".into())),
            _ => Ok(constraint),
        }
    }

    /// Bits of a mask.
    pub fn num_tokens(&self) -> usize {
        self.num_tokens
    }

    /// The tokens that end an answer.
    pub fn stop_token_ids(&self) -> &[u32] {
        &self.stop_token_ids
    }
}

/// The bytes of a token that may be part of a constrained text; none for one that may not.
fn text_bytes(tokenizer: &Tokenizer, id: u32, stop_token_ids: &[u32]) -> Vec<u8> {
    let bytes = tokenizer.token_bytes(id);
    // No text holds this byte, and llguidance marks tokens that are no text with it.
    let is_marked = bytes.first() == Some(&TokTrie::SPECIAL_TOKEN_MARKER);
    match is_marked || tokenizer.is_reserved(id) || stop_token_ids.contains(&id) {
        true => Vec::new(),
        false => bytes.to_vec(),
    }
}

/// The tokens alone. Any way to spell a text in tokens is as good as any other: what is forced is left to the model.
struct Vocabulary(TokTrie);

impl TokenizerEnv for Vocabulary {
    fn tok_trie(&self) -> &TokTrie {
        &self.0
    }

    fn tokenize_bytes(&self, text: &[u8]) -> Vec<TokenId> {
        self.0.greedy_tokenize(text)
    }

    fn tokenize_is_canonical(&self) -> bool {
        false
    }
}
