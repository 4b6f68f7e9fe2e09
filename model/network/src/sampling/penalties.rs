//! The repetition penalty.

use std::borrow::Cow;

/// This rank's logits with the penalty applied: of every distinct id in `seen` that lies in the slice, a positive logit is divided
/// by `penalty` and a negative one multiplied (spec section 10.3). `logits[0]` is token `first_id`. Borrows where nothing changes.
pub fn penalise<'a>(
    logits: &'a [f32],
    first_id: u32,
    seen: &[u32],
    penalty: f32,
) -> Cow<'a, [f32]> {
    let mut penalised = Cow::Borrowed(logits);
    if penalty == 1.0 {
        return penalised;
    }
    for &id in seen {
        let column = id.wrapping_sub(first_id) as usize;
        // Taken from the logits as they came, so that an id that was seen twice is penalised once.
        if let Some(&logit) = logits.get(column) {
            penalised.to_mut()[column] = if logit < 0.0 {
                logit * penalty
            } else {
                logit / penalty
            };
        }
    }
    penalised
}
