//! What the tokenizer of a synthesised model knows: some English, some Chinese, and then whatever fills the vocabulary
//! up to its exact size. The real tokenizer's file is not ours to copy, and a model with random weights needs none of
//! its words; it needs the same places for bytes, marks and turns.

use std::collections::HashSet;

use inkstone_interface::tokenizer::{Tokenizer, TokenizerError, synthetic};

/// Words after a space, and by themselves; their beginnings become pieces too.
const ENGLISH: &str = "the of and to in a is that for it as was with be by on not he his but at are this have from or \
    had an they which one you were her all she there would their we him been has when who will more no if out so said \
    what up its about into than them can only other new some could time these two may then do first any my now such \
    like our over man me even most made after also did many before must through back years where much your way well \
    down should because each just those people how too little state good very make world still own see men work long \
    get here between both life being under never day same another know while last might us great old year off come \
    since against go came right used take three picture image photo text article paragraph title section write \
    describe question answer assistant user system show look color red green blue yellow black white light dark left \
    top bottom middle front behind near small large tall round square person woman child dog cat bird tree flower \
    water river sea mountain sky sun moon cloud house street city road car train bridge building window door table \
    chair food fruit apple bread tea autumn winter spring summer morning evening night leaf leaves garden forest lake \
    snow rain wind holding standing sitting walking running wearing red number letter word line page book paper sign \
    name place part side hand head face eye hair shirt hat glass cup plate computer phone screen machine language \
    model helpful honest harmless please thank hello yes";

/// Characters by rough frequency, with those that prompts for pictures and articles need.
const CHINESE: &str = "的一是不了在人有我他这为之大来以个中上们到说国和地也子时道出而要于就下得可你年生自会那后能对着事其里所去行过\
    家十用发天如然作方成者多日都三小军二无同么经法当起与好看学进种将还分此心前面又定见只主没公从使把图片文章段落标题请写描述问\
    题答助手户系统颜色红绿蓝黄黑白左右顶底间近城市街路车水山河海树花鸟狗猫孩女男房屋桥门窗桌椅食果茶秋冬春夏早晚夜月阳云雪雨\
    风叶林湖园北京上海历史文化世界美丽配插适合内容根据给以下第句话位置推荐";

const CHINESE_WORDS: &str = "你好 世界 图片 文章 段落 标题 描述 问题 助手 颜色 城市 秋天 北京 上海 历史 文化 美丽 适合 内容 根据 位置 推荐";

/// Ranges of code points that fill a large vocabulary, one piece each.
const CODE_POINTS: [(char, char); 10] = [
    ('\u{4e00}', '\u{9fff}'),
    ('\u{3001}', '\u{3017}'),
    ('\u{ff01}', '\u{ff5e}'),
    ('\u{3041}', '\u{3096}'),
    ('\u{30a1}', '\u{30fa}'),
    ('\u{00a1}', '\u{017f}'),
    ('\u{0391}', '\u{03c9}'),
    ('\u{0410}', '\u{044f}'),
    ('\u{ac00}', '\u{d7a3}'),
    ('\u{3400}', '\u{4dbf}'),
];

/// Why no tokenizer can be made.
#[derive(Debug, thiserror::Error)]
pub enum VocabularyError {
    #[error("a vocabulary of {found} pieces cannot be made; wanted from {least} to {most}")]
    Size {
        found: usize,
        least: usize,
        most: usize,
    },
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
}

/// A `tokenizer.model` of exactly `vocab_size` pieces, whose last 147 are `[UNUSED_TOKEN_0]` and on.
pub(crate) fn tokenizer_model(vocab_size: usize) -> Result<Vec<u8>, VocabularyError> {
    let least = Tokenizer::from_model_bytes(&synthetic::model_bytes(&[]))?.vocab_size();
    let left = vocab_size.saturating_sub(least);
    let mut vocabulary = Vocabulary {
        words: Vec::new(),
        known: HashSet::new(),
        left,
    };
    for word in candidates() {
        if vocabulary.left == 0 {
            break;
        }
        vocabulary.add(word);
    }
    if vocab_size < least || vocabulary.left > 0 {
        return Err(VocabularyError::Size {
            found: vocab_size,
            least,
            most: vocab_size - vocabulary.left,
        });
    }
    let words: Vec<&str> = vocabulary.words.iter().map(String::as_str).collect();
    Ok(synthetic::model_bytes(&words))
}

struct Vocabulary {
    words: Vec<String>,
    /// Pieces that the words bring, besides ASCII.
    known: HashSet<String>,
    /// Pieces still wanted.
    left: usize,
}

impl Vocabulary {
    /// Takes the word if it does not bring too many pieces.
    fn add(&mut self, word: String) {
        let new: Vec<String> = pieces_of(&word)
            .filter(|piece| !self.known.contains(piece))
            .collect();
        if !new.is_empty() && new.len() <= self.left {
            self.left -= new.len();
            self.known.extend(new);
            self.words.push(word);
        }
    }
}

/// What a word adds to a tokenizer besides ASCII: its beginnings and its characters.
fn pieces_of(word: &str) -> impl Iterator<Item = String> {
    let beginnings = word
        .char_indices()
        .skip(1)
        .map(|(at, char)| word[..at + char.len_utf8()].to_owned());
    let others: HashSet<char> = word.chars().filter(|char| !char.is_ascii()).collect();
    beginnings.chain(others.into_iter().map(String::from))
}

/// Words in the order in which they are wanted. A vocabulary of 1024 takes the first few hundred, the real size all
/// but the last.
fn candidates() -> impl Iterator<Item = String> {
    let letters = || 'a'..='z';
    let words = || ENGLISH.split_whitespace();
    let code_points = CODE_POINTS
        .into_iter()
        .flat_map(|(first, last)| first..=last)
        .map(String::from);
    let pairs = letters().flat_map(move |a| letters().map(move |b| format!("{a}{b}")));
    let triples = |first: Vec<char>| {
        let two = move |a: char| {
            letters().flat_map(move |b| letters().map(move |c| format!("{a}{b}{c}")))
        };
        first.into_iter().flat_map(two)
    };
    let common = CHINESE
        .chars()
        .filter(|char| !char.is_whitespace())
        .map(String::from);
    words()
        .take(100)
        .map(|word| format!(" {word}"))
        .chain(common)
        .chain(words().skip(100).map(|word| format!(" {word}")))
        .chain(words().map(str::to_owned))
        .chain(CHINESE_WORDS.split_whitespace().map(str::to_owned))
        .chain(pairs)
        .chain(code_points)
        .chain(triples(letters().collect()))
        .chain(triples(vec![' ']))
        .chain(triples(('A'..='Z').collect()))
        .chain(spaced_triples())
}

fn spaced_triples() -> impl Iterator<Item = String> {
    let letters = || 'a'..='z';
    letters().flat_map(move |a| {
        letters().flat_map(move |b| letters().map(move |c| format!(" {a}{b}{c}")))
    })
}
