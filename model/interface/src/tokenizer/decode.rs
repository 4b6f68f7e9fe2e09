//! Ids to text, at once or token by token (spec section 9.4).
//!
//! Tokens are pieces of UTF-8, not of text: a character that no piece knows comes as one token a byte. What can still
//! become a character is held back; a byte that cannot is written U+FFFD.

use super::Tokenizer;

/// Turns a stream of ids into text that never has to be taken back. Owned, so that it can live in a task.
#[derive(Debug, Clone)]
pub struct StreamDecoder {
    tokenizer: Tokenizer,
    special: SpecialTokens,
    pending: PendingText,
}

/// What becomes of tokens that are no text: `<s>`, `</s>`, `<unk>` and aliases such as `<|im_end|>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SpecialTokens {
    Skip,
    Write,
}

impl StreamDecoder {
    pub(super) fn new(tokenizer: Tokenizer, special: SpecialTokens) -> Self {
        Self {
            tokenizer,
            special,
            pending: PendingText::default(),
        }
    }

    /// Takes the next id and gives the text that is certain by now, which may be empty. Leading spaces are kept, and
    /// the results joined are the text. An id outside the vocabulary is no text.
    pub fn push(&mut self, id: u32) -> String {
        let mut text = String::new();
        self.push_to(id, &mut text);
        text
    }

    /// Ends the stream: each byte that is still held becomes U+FFFD. The decoder can be used again afterwards.
    pub fn finish(&mut self) -> String {
        let mut text = String::new();
        self.pending.end(&mut text);
        text
    }

    /// Whether bytes of an unfinished character are held back.
    pub fn has_pending(&self) -> bool {
        self.pending.length > 0
    }

    /// The same, at the end of a text that is there already.
    pub fn push_to(&mut self, id: u32, text: &mut String) {
        let surface = match self.special {
            SpecialTokens::Skip => self.tokenizer.token_bytes(id),
            SpecialTokens::Write => self.tokenizer.token_bytes_with_special(id),
        };
        self.pending.push(surface, text);
    }
}

/// Bytes that are the beginning of a character: at most three.
#[derive(Debug, Clone, Copy, Default)]
struct PendingText {
    bytes: [u8; 4],
    length: usize,
}

impl PendingText {
    fn push(&mut self, bytes: &[u8], text: &mut String) {
        if self.length == 0
            && let Ok(whole) = std::str::from_utf8(bytes)
        {
            text.push_str(whole);
            return;
        }
        for &byte in bytes {
            self.bytes[self.length] = byte;
            self.length += 1;
            self.settle(text);
        }
    }

    /// Writes what is decided, and leaves what may yet become a character.
    fn settle(&mut self, text: &mut String) {
        loop {
            match std::str::from_utf8(&self.bytes[..self.length]) {
                Ok(character) => {
                    text.push_str(character);
                    self.length = 0;
                    return;
                }
                Err(error) if error.valid_up_to() == 0 && error.error_len().is_none() => return,
                // Only the first byte is lost: those after it may begin a character.
                Err(_) => self.replace_first(text),
            }
        }
    }

    fn end(&mut self, text: &mut String) {
        while self.length > 0 {
            self.replace_first(text);
        }
    }

    fn replace_first(&mut self, text: &mut String) {
        text.push(char::REPLACEMENT_CHARACTER);
        self.bytes.copy_within(1..self.length, 0);
        self.length -= 1;
    }
}
