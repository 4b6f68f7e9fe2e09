//! Writing the article (spec section 2). The pictures stand first, joined by spaces, and the instruction follows at once.

use super::StepSettings;
use crate::{
    Asked, ComposeRequest, Generation, Meter, PictureId, Prompt, TooLong,
    meter::{Budget, fit},
};

/// Room below which no article is begun.
const LEAST_TOKENS: usize = 16;

/// The question for an article.
pub fn prompt(instruction: &str, pictures: &[PictureId], system: Option<&str>) -> Prompt {
    let mut prompt = Prompt::new(system, "");
    for (index, picture) in pictures.iter().enumerate() {
        if index > 0 {
            prompt = prompt.text(" ");
        }
        prompt = prompt.picture(picture);
    }
    prompt.text(instruction)
}

/// Asks for the article. An instruction is never shortened.
pub fn ask(
    request: &ComposeRequest,
    settings: &StepSettings<'_>,
    meter: &dyn Meter,
) -> Result<Asked, TooLong> {
    let pictures: Vec<PictureId> = request.pictures.iter().map(|p| p.id.clone()).collect();
    let budget = Budget {
        wanted: request.max_tokens,
        least: LEAST_TOKENS.min(request.max_tokens),
    };
    let fitted = fit(meter, budget, 1, |_| {
        prompt(&request.instruction, &pictures, settings.system)
    })?;
    let asked = super::asked(fitted, settings, None, &[]);
    Ok(Asked {
        generation: Generation {
            num_beams: request.num_beams,
            ..asked.generation
        },
        ..asked
    })
}
