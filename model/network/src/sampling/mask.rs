//! Which tokens a constraint allows.

/// One bit for each token of the vocabulary, set where the token may be drawn. Tokens past its end may not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TokenMask {
    words: Vec<u64>,
    num_tokens: usize,
}

impl TokenMask {
    /// Allows none of `num_tokens` tokens.
    pub fn none(num_tokens: usize) -> Self {
        Self {
            words: vec![0; num_tokens.div_ceil(64)],
            num_tokens,
        }
    }

    /// Takes the bits of `num_tokens` tokens, the lowest bit of the first word first. Words that are missing allow nothing;
    /// bits that are too many are dropped.
    pub fn from_words(mut words: Vec<u64>, num_tokens: usize) -> Self {
        words.resize(num_tokens.div_ceil(64), 0);
        let num_used = num_tokens % 64;
        if let Some(last) = words.last_mut().filter(|_| num_used > 0) {
            *last &= (1 << num_used) - 1;
        }
        Self { words, num_tokens }
    }

    /// Allows a token; one outside the vocabulary changes nothing.
    pub fn allow(&mut self, id: u32) {
        if (id as usize) < self.num_tokens {
            self.words[id as usize / 64] |= 1 << (id % 64);
        }
    }

    pub fn allows(&self, id: u32) -> bool {
        let word = self.words.get(id as usize / 64);
        word.is_some_and(|word| word >> (id % 64) & 1 == 1)
    }

    /// Tokens of the vocabulary.
    pub fn num_tokens(&self) -> usize {
        self.num_tokens
    }

    /// How many of them are allowed.
    pub fn num_allowed(&self) -> usize {
        self.words
            .iter()
            .map(|word| word.count_ones() as usize)
            .sum()
    }

    /// The bits, the lowest bit of the first word first.
    pub fn words(&self) -> &[u64] {
        &self.words
    }

    /// The allowed tokens, rising.
    pub fn ids(&self) -> impl Iterator<Item = u32> {
        self.ids_from(0)
    }

    /// The allowed tokens from the word that holds `first_id` on, rising.
    pub(super) fn ids_from(&self, first_id: u32) -> impl Iterator<Item = u32> {
        let words = self.words.iter().enumerate().skip(first_id as usize / 64);
        words.flat_map(|(index, &word)| {
            let bits = std::iter::successors(Some(word), |rest| Some(rest & (rest - 1)));
            bits.take(word.count_ones() as usize)
                .map(move |rest| index as u32 * 64 + rest.trailing_zeros())
        })
    }
}
