//! From characters to symbols: what text is made of before any merging.
//!
//! A symbol is a piece id. A character that stands inside pieces without being one gets a symbol past the last id, so
//! that it can still take part in merges. A character no piece knows has none and becomes its UTF-8 bytes.

/// No symbol: the character is in no piece.
pub(super) const NO_SYMBOL: u32 = u32::MAX >> 1;

const STARTS_USER_DEFINED: u32 = 1 << 31;
const PAGE_SIZE: usize = 256;
const NUM_PAGES: usize = 0x11_0000 / PAGE_SIZE;

/// What the encoder must know of a character.
#[derive(Debug, Clone, Copy)]
pub(super) struct CharClass(u32);

impl CharClass {
    pub(super) fn symbol(self) -> u32 {
        self.0 & !STARTS_USER_DEFINED
    }

    /// Whether a user-defined piece begins with this character.
    pub(super) fn starts_user_defined(self) -> bool {
        self.0 & STARTS_USER_DEFINED != 0
    }
}

/// A table over all of Unicode in which the pages that hold nothing are one page.
#[derive(Debug, Clone)]
pub(super) struct CharTable {
    page_of: Box<[u16; NUM_PAGES]>,
    pages: Vec<[u32; PAGE_SIZE]>,
}

impl CharTable {
    pub(super) fn new() -> Self {
        Self {
            page_of: Box::new([0; NUM_PAGES]),
            pages: vec![[NO_SYMBOL; PAGE_SIZE]],
        }
    }

    #[inline]
    pub(super) fn get(&self, c: char) -> CharClass {
        let code = c as usize;
        CharClass(self.pages[self.page_of[code / PAGE_SIZE] as usize][code % PAGE_SIZE])
    }

    pub(super) fn set_symbol(&mut self, c: char, symbol: u32) {
        let entry = self.entry(c);
        *entry = *entry & STARTS_USER_DEFINED | symbol;
    }

    pub(super) fn mark_user_defined(&mut self, c: char) {
        *self.entry(c) |= STARTS_USER_DEFINED;
    }

    fn entry(&mut self, c: char) -> &mut u32 {
        let code = c as usize;
        let page = &mut self.page_of[code / PAGE_SIZE];
        if *page == 0 {
            *page = self.pages.len() as u16;
            self.pages.push([NO_SYMBOL; PAGE_SIZE]);
        }
        &mut self.pages[*page as usize][code % PAGE_SIZE]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn symbol_and_flag_of_a_character_do_not_disturb_each_other() {
        let mut table = CharTable::new();
        table.mark_user_defined('[');
        assert_eq!(table.get('[').symbol(), NO_SYMBOL);
        table.set_symbol('[', 7);
        table.set_symbol('\u{10ffff}', 8);
        assert_eq!(
            (
                table.get('[').symbol(),
                table.get('[').starts_user_defined()
            ),
            (7, true)
        );
        assert_eq!(
            (table.get('\u{10ffff}').symbol(), table.get(']').symbol()),
            (8, NO_SYMBOL)
        );
        assert!(!table.get('\u{10ffff}').starts_user_defined());
    }
}
