//! The prompts of composition as the official demo words them. `<Seg{k}>` numbers an article's segments from 0.

/// How answers begin that the model is given the beginning of.
pub(crate) const PLACES_PREFIX: &str = "适合插入图像的行是";
pub(crate) const CAPTION_PREFIX: &str = "标题是\"";
pub(crate) const CHOICE_PREFIX: &str = "最合适的图是";

/// Opens the choice of a picture; the text so far follows, with earlier pictures in it, then [`CANDIDATES`].
pub(crate) const CHOOSE: &str = "根据给定上下文和候选图像，选择合适的配图：";
pub(crate) const CANDIDATES: &str = "候选图像包括: ";

/// Names of candidates.
pub(crate) const LETTERS: [&str; 4] = ["A", "B", "C", "D"];

/// Segments as numbered lines.
pub(crate) fn lines(segments: &[&str]) -> String {
    let lines = segments.iter().enumerate();
    lines
        .map(|(index, text)| format!("<Seg{index}> {text}\n"))
        .collect()
}

/// Asks for `count` places, or as many as there are.
pub(crate) fn places(segments: &[&str], count: Option<usize>) -> String {
    let count = count.map(|count| count.to_string()).unwrap_or_default();
    let full = lines(segments);
    format!("给定文章\"{full}\" 根据上述文章，选择适合插入图像的{count}行")
}

/// How places are answered.
pub(crate) fn places_answer(segments: &[usize]) -> String {
    let named: Vec<String> = segments.iter().map(|k| format!("<Seg{k}>")).collect();
    format!("{}。", named.join("，"))
}

/// Asks for the caption after `segment`, with the captions given before. `segments` are all of the article's.
pub(crate) fn caption(segments: &[&str], past: &[(usize, String)], segment: usize) -> String {
    let head = lines(&segments[..segments.len().min(segment + 2)]);
    let past: Vec<String> = past
        .iter()
        .map(|(segment, caption)| format!("<Seg{segment}>后插入图像对应的标题是\"{caption}\""))
        .collect();
    let past = match past.as_slice() {
        [] => String::new(),
        past => format!("现在{}。", past.join("， ")),
    };
    format!("给定文章\"{head}\" {past}给出适合在<Seg{segment}>后插入的图像对应的标题。")
}

pub(crate) fn rewrite(text: &str, material: &str) -> String {
    format!("改写以下段落：{text}\n基于以下素材：{material}")
}

pub(crate) fn expand(text: &str, material: &str) -> String {
    format!("扩写以下段落：{text}\n基于以下素材：{material}")
}

pub(crate) fn abbreviate(text: &str) -> String {
    format!("缩写以下段落：{text}")
}

/// Asks for a paragraph between two, of which one may be empty.
pub(crate) fn insert(first: &str, second: &str, outline: &str) -> String {
    format!("在以下两段中插入一段。\n第一段：{first}\n第二段：{second}\n插入段的大纲：{outline}")
}

#[cfg(test)]
mod tests;
