//! From logits to scores: everything that makes single tokens more or less likely, or impossible, before temperature and truncation.
//! In this order: repetition penalty, presence and frequency penalty, logit bias, then what may not be drawn at all.

use std::borrow::Cow;

use super::{RowSampling, TokenMask};

/// Where tokens stand in a row of numbers.
#[derive(Clone, Copy)]
pub(super) enum Columns<'a> {
    /// A slice of the vocabulary: this token and those after it.
    From(u32),
    /// These tokens, by rising id.
    Of(&'a [u32]),
}

impl Columns<'_> {
    /// The column of a token; one past the row's end, or none, where it is not in the row.
    pub(super) fn of(self, id: u32) -> Option<usize> {
        match self {
            Self::From(first_id) => id.checked_sub(first_id).map(|column| column as usize),
            Self::Of(ids) => ids.binary_search(&id).ok(),
        }
    }

    /// The token of a column that is in the row.
    pub(super) fn id(self, column: u32) -> u32 {
        match self {
            Self::From(first_id) => first_id + column,
            Self::Of(ids) => ids[column as usize],
        }
    }
}

/// The score of a token that may not be drawn. All others are finite.
pub(super) const FORBIDDEN: f32 = f32::NEG_INFINITY;

/// This rank's logits with the penalty applied: of every distinct id in `seen` that lies in the slice, a positive logit is divided
/// by `penalty` and a negative one multiplied (spec section 10.3). `logits[0]` is token `first_id`. Borrows where nothing changes.
pub fn penalise<'a>(
    logits: &'a [f32],
    first_id: u32,
    seen: &[u32],
    penalty: f32,
) -> Cow<'a, [f32]> {
    penalise_in(logits, Columns::From(first_id), seen, penalty)
}

fn penalise_in<'a>(
    logits: &'a [f32],
    columns: Columns<'_>,
    seen: &[u32],
    penalty: f32,
) -> Cow<'a, [f32]> {
    rescore_seen(logits, columns, seen, penalty, |logit| {
        if logit < 0.0 {
            logit * penalty
        } else {
            logit / penalty
        }
    })
}

/// Whether something makes a token likelier than its logit says.
pub(super) fn raises(row: &RowSampling<'_>) -> bool {
    row.params.repetition_penalty < 1.0 || shifts(row).any(|(_, shift)| shift > 0.0)
}

/// The scores that tokens are drawn by.
pub(super) fn scores<'a>(
    logits: &'a [f32],
    columns: Columns<'_>,
    row: &RowSampling<'_>,
) -> Cow<'a, [f32]> {
    let penalty = row.params.repetition_penalty;
    let mut scores = penalise_in(logits, columns, row.seen, penalty);
    shift(&mut scores, columns, row);
    forbid(&mut scores, columns, row);
    scores
}

/// What tokens are ordered by for a beam search, where penalties apply to log-probabilities: a rank does not know the sum that
/// turns its logits into those. It does not matter to the order among seen tokens, whose log-probabilities (never positive)
/// are all multiplied, nor to that among the others.
pub(super) fn beam_keys<'a>(
    logits: &'a [f32],
    columns: Columns<'_>,
    row: &RowSampling<'_>,
) -> Cow<'a, [f32]> {
    let penalty = row.params.repetition_penalty;
    let mut keys = rescore_seen(logits, columns, row.seen, penalty, |logit| logit * penalty);
    shift(&mut keys, columns, row);
    forbid(&mut keys, columns, row);
    keys
}

/// A token's log-probability with what the row's penalties and bias make of it, as in the beam search of transformers 4.33:
/// they apply after the softmax. In double precision, so that tokens with different logits never tie.
pub(super) fn beam_score(row: &RowSampling<'_>, id: u32, logprob: f64) -> f64 {
    let penalty = row.params.repetition_penalty;
    let mut score = logprob.min(0.0);
    if penalty != 1.0 && row.seen.contains(&id) {
        score *= f64::from(penalty);
    }
    let of_token = shifts(row).filter(|&(other, _)| other == id);
    score + of_token.map(|(_, shift)| f64::from(shift)).sum::<f64>()
}

fn rescore_seen<'a>(
    logits: &'a [f32],
    columns: Columns<'_>,
    seen: &[u32],
    penalty: f32,
    rescore: impl Fn(f32) -> f32,
) -> Cow<'a, [f32]> {
    let mut scores = Cow::Borrowed(logits);
    if penalty == 1.0 {
        return scores;
    }
    for &id in seen {
        // Taken from the logits as they came, so that an id that was seen twice is penalised once.
        if let Some(column) = columns.of(id)
            && let Some(&logit) = logits.get(column)
        {
            scores.to_mut()[column] = finite(rescore(logit));
        }
    }
    scores
}

/// What is added to the scores of tokens: presence and frequency penalty, then bias. An id may come several times.
fn shifts(row: &RowSampling<'_>) -> impl Iterator<Item = (u32, f32)> {
    let (presence, frequency) = (row.params.presence_penalty, row.params.frequency_penalty);
    let generated = match presence == 0.0 && frequency == 0.0 {
        true => &[],
        false => row.generated,
    };
    generated
        .iter()
        .map(move |&(id, times)| (id, -(presence + frequency * times as f32)))
        .chain(row.logit_bias.iter().copied())
}

fn shift(scores: &mut Cow<'_, [f32]>, columns: Columns<'_>, row: &RowSampling<'_>) {
    for (id, shift) in shifts(row) {
        if let Some(column) = columns.of(id)
            && let Some(&score) = scores.get(column)
        {
            scores.to_mut()[column] = finite(score + shift);
        }
    }
}

fn forbid(scores: &mut Cow<'_, [f32]>, columns: Columns<'_>, row: &RowSampling<'_>) {
    if let Some(mask) = row.allowed {
        *scores = Cow::Owned(masked(scores, columns, mask));
    }
    for &id in row.banned {
        if let Some(column) = columns.of(id).filter(|&column| column < scores.len()) {
            scores.to_mut()[column] = FORBIDDEN;
        }
    }
}

fn masked(scores: &[f32], columns: Columns<'_>, mask: &TokenMask) -> Vec<f32> {
    let mut masked = vec![FORBIDDEN; scores.len()];
    let first_id = match columns {
        Columns::From(first_id) => first_id,
        Columns::Of(ids) => ids.first().copied().unwrap_or(0),
    };
    for id in mask.ids_from(first_id) {
        // Ids of the same word may lie before the row, and others between its tokens.
        let Some(column) = columns.of(id) else {
            continue;
        };
        match scores.get(column) {
            Some(&score) => masked[column] = score,
            None => break,
        }
    }
    masked
}

/// Extreme settings must not make a score infinite: that means forbidden, and has no softmax.
fn finite(score: f32) -> f32 {
    score.clamp(f32::MIN, f32::MAX)
}
