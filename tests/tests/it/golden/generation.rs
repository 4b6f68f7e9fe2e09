//! Generated tokens: `gen.CASE.tokens` and `.logits` of greedy decoding with a cache, chats from messages to the answer's text,
//! and prompts of different lengths in one batch.

use anyhow::{Context, Result, bail, ensure};
use inkstone_interface::{
    chat_template::{BosRule, ChatMessage, ChatTemplate, RenderOptions, SystemPrompt},
    description::{ModelDescription, Variant},
    tokenizer::Tokenizer,
};
use inkstone_model::sampling::SamplingParams;
use serde::Deserialize;

use super::{
    compare::{same, within},
    folder::Folder,
    group::{Generated, Group, Job},
    pictures::{PictureRequest, Pictures},
    prompt::{Prompt, requests},
    report::Report,
    tokenizer::check_text,
};

/// Tokens beyond those of a golden that ends with a stop token: a model that does not stop there gives more.
const MORE_TOKENS: usize = 4;

/// A case `gen.CASE`; where a manifest has less to say, all of it follows from the name.
#[derive(Debug, Default, Deserialize)]
struct GenerationCase {
    prompt: Option<String>,
    repetition_penalty: Option<f32>,
    penalty_over: Option<PenaltyOver>,
    text: Option<String>,
    eos: Option<Vec<u32>>,
}

/// Which tokens the repetition penalty counts.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
enum PenaltyOver {
    #[serde(rename = "none")]
    Nothing,
    #[serde(rename = "new tokens")]
    NewTokens,
    #[serde(rename = "prompt and new tokens")]
    PromptAndNewTokens,
}

/// What the cases of a model are run with.
pub(super) struct Ready<'a> {
    pub(super) folder: &'a Folder,
    pub(super) description: &'a ModelDescription,
    pub(super) group: &'a Group,
    pub(super) pictures: &'a Pictures<'a>,
    pub(super) tokenizer: Option<&'a Tokenizer>,
    /// What tensors of this checkpoint begin with.
    pub(super) prefix: &'a str,
}

impl Ready<'_> {
    /// The generation cases of this checkpoint, without `gen.` and `.tokens`.
    pub(super) fn generation_names(&self) -> Vec<String> {
        let stems = self.folder.stems(".tokens").into_iter();
        let start = format!("{}gen.", self.prefix);
        stems
            .filter_map(|stem| stem.strip_prefix(&start).map(str::to_owned))
            .collect()
    }

    pub(super) fn run_generation(&self, report: &mut Report) {
        for name in self.generation_names() {
            let tokens = format!("{}gen.{name}.tokens", self.prefix);
            report.case(&self.folder.name, &tokens, || self.check_generation(&name));
        }
    }

    /// A generation case that other numbers of ranks should repeat: one with pictures if there is any.
    pub(super) fn generation_to_repeat(&self) -> Option<String> {
        let names = self.generation_names();
        let has_pictures = |name: &&String| {
            self.prompt_of(name, None)
                .is_ok_and(|prompt| prompt.has_pictures())
        };
        names.iter().find(has_pictures).or(names.first()).cloned()
    }

    /// Tokens, logits where there are any, and the text.
    pub(super) fn check_generation(&self, name: &str) -> Result<()> {
        let stem = format!("{}gen.{name}", self.prefix);
        let (case, wanted, found) = self.generate(name, &stem)?;
        self.check_tokens(&stem, &wanted, &found.tokens)?;
        self.check_logits(&stem, &found)?;
        match (self.tokenizer, case.text) {
            (Some(tokenizer), Some(text)) => check_text(&text, &tokenizer.decode(&wanted)),
            _ => Ok(()),
        }
    }

    /// Tokens up to the first step that was decided by no more than `lead`.
    pub(super) fn check_decided_tokens(&self, name: &str, lead: f32) -> Result<()> {
        let stem = format!("{}gen.{name}", self.prefix);
        let (_, wanted, found) = self.generate(name, &stem)?;
        let margins = self.folder.f32(&format!("{stem}.margins"))?.values;
        let decided = margins.iter().take_while(|margin| **margin > lead).count();
        let decided = decided.min(found.tokens.len());
        self.check_tokens(&stem, &wanted[..decided], &found.tokens[..decided])
    }

    /// Runs a case; gives what it says, the tokens it wants and what was generated.
    fn generate(&self, name: &str, stem: &str) -> Result<(GenerationCase, Vec<u32>, Generated)> {
        let case: GenerationCase = match self.folder.case(stem) {
            Some(case) => Deserialize::deserialize(case)?,
            None => GenerationCase::default(),
        };
        let wanted = self.folder.ids(&format!("{stem}.tokens"))?;
        let prompt = self.prompt_of(name, case.prompt.as_deref())?;
        let stop_ids = case.eos.clone().unwrap_or_default();
        let has_stopped = wanted.last().is_some_and(|last| stop_ids.contains(last));
        let penalty = case.repetition_penalty.or_else(|| penalty_in(name));
        let penalty_over = case.penalty_over.unwrap_or(match prompt.has_pictures() {
            true => PenaltyOver::NewTokens,
            false => PenaltyOver::PromptAndNewTokens,
        });
        let job = Job {
            params: greedy(penalty.unwrap_or(1.0)),
            seen: self.seen(&prompt, penalty_over),
            stop_ids,
            max_new_tokens: wanted.len() + if has_stopped { MORE_TOKENS } else { 0 },
            inputs: prompt.inputs(self.pictures)?,
        };
        let found = self.group.generate(&[job])?.remove(0);
        Ok((case, wanted, found))
    }

    fn check_logits(&self, stem: &str, found: &Generated) -> Result<()> {
        let name = format!("{stem}.logits");
        if !self.folder.has(&name) {
            return Ok(());
        }
        within(
            &self.folder.f32(&name)?,
            &found.logits,
            self.folder.atol(&name)?,
        )
    }

    /// Tells by how much the reference was decided where tokens differ.
    fn check_tokens(&self, stem: &str, wanted: &[u32], found: &[u32]) -> Result<()> {
        let margins = format!("{stem}.margins");
        let margins = match self.folder.has(&margins) {
            true => self.folder.f32(&margins)?.values,
            false => Vec::new(),
        };
        let length = wanted.len().max(found.len());
        let Some(step) = (0..length).find(|step| wanted.get(*step) != found.get(*step)) else {
            return Ok(());
        };
        bail!(
            "{stem}.tokens: at step {step} wanted {:?}, found {:?}, the reference led by {:?}; {} tokens wanted, {} found",
            wanted.get(step),
            found.get(step),
            margins.get(step),
            wanted.len(),
            found.len()
        )
    }

    /// A case's prompt: the one it names, or the one its own name begins with.
    pub(super) fn prompt_of(&self, name: &str, named: Option<&str>) -> Result<Prompt> {
        let own = || {
            let ends = name.match_indices('.').map(|(at, _)| at).rev();
            let prefixes = [name.len()].into_iter().chain(ends);
            let mut prefixes = prefixes.map(|end| &name[..end]);
            prefixes.find(|prefix| self.folder.has(&format!("{prefix}.ids")))
        };
        let prompt = named.or_else(own);
        let prompt = prompt.with_context(|| format!("which prompt does {name} go on from?"))?;
        Prompt::of_case(self.folder, prompt, self.pictures)
    }

    /// Ids that a penalty counts from the start. Prompts with pictures reach the reference as embeddings, for which it counts
    /// one `<s>`.
    fn seen(&self, prompt: &Prompt, penalty_over: PenaltyOver) -> Vec<u32> {
        match penalty_over {
            PenaltyOver::Nothing => Vec::new(),
            PenaltyOver::NewTokens => vec![self.description.config.bos_token_id],
            PenaltyOver::PromptAndNewTokens => prompt.text_ids(),
        }
    }
}

/// A case `chat.*`.
#[derive(Debug, Deserialize)]
struct ChatCase {
    query: String,
    history: Vec<(String, String)>,
    meta_instruction: String,
    bos: Option<String>,
    max_new_tokens: usize,
    #[serde(default)]
    do_sample: bool,
    repetition_penalty: f32,
    penalty_over: PenaltyOver,
    eos: Vec<String>,
    response: String,
    hd_num: Option<u32>,
}

impl Ready<'_> {
    pub(super) fn run_chats(&self, report: &mut Report) {
        let names = self.folder.case_names().into_iter();
        let start = format!("{}chat.", self.prefix);
        for name in names.filter(|name| name.starts_with(&start)) {
            let case = self.folder.case(name);
            let is_given_pictures = case.is_some_and(|case| case["images"].is_array());
            let folder = &self.folder.name;
            match self.tokenizer {
                None => report.skip(folder, name, "no tokenizer.model"),
                // Its reference then writes `<s>` into a text that gets one anyway.
                Some(_) if self.variant() == Variant::Xc2d5 && !is_given_pictures => {
                    report.skip(
                        folder,
                        name,
                        "2.5 with no list of pictures begins with <s> twice",
                    );
                }
                Some(tokenizer) => report.case(folder, name, || self.check_chat(name, tokenizer)),
            }
        }
    }

    fn variant(&self) -> Variant {
        self.description.variant
    }

    fn check_chat(&self, name: &str, tokenizer: &Tokenizer) -> Result<()> {
        let case: ChatCase = self.folder.case_as(name)?;
        ensure!(!case.do_sample, "{name} draws at random");
        let value = self.folder.case(name).context("the case is there")?;
        let pictures = requests(value, self.pictures);
        self.check_hd_num(&case, &pictures)?;
        let prompt = self.render(&case, &pictures, tokenizer)?;
        let eos: Option<Vec<_>> = case
            .eos
            .iter()
            .map(|piece| tokenizer.piece_id(piece))
            .collect();
        let stop_ids = eos.with_context(|| format!("not all of {:?} are pieces", case.eos))?;
        same("stop tokens", &stop_ids, &tokenizer.stop_token_ids())?;
        let job = Job {
            inputs: prompt.inputs(self.pictures)?,
            params: greedy(case.repetition_penalty),
            seen: self.seen(&prompt, case.penalty_over),
            max_new_tokens: case.max_new_tokens,
            stop_ids,
        };
        let found = self.group.generate(&[job])?.remove(0);
        let has_stopped = found
            .tokens
            .last()
            .is_some_and(|last| tokenizer.stop_token_ids().contains(last));
        let answer = &found.tokens[..found.tokens.len() - usize::from(has_stopped)];
        check_text(&case.response, &tokenizer.decode(answer))
    }

    /// The reference's own choice of tiles for several pictures is ours too.
    fn check_hd_num(&self, case: &ChatCase, pictures: &[PictureRequest]) -> Result<()> {
        let (Some(wanted), false) = (case.hd_num, pictures.is_empty()) else {
            return Ok(());
        };
        let geometry = self.pictures.geometry();
        same(
            "hd_num",
            wanted,
            geometry.hd_num(Some(wanted), pictures.len()),
        )
    }

    fn render(
        &self,
        case: &ChatCase,
        pictures: &[PictureRequest],
        tokenizer: &Tokenizer,
    ) -> Result<Prompt> {
        let turns = case
            .history
            .iter()
            .flat_map(|(query, answer)| [ChatMessage::user(query), ChatMessage::assistant(answer)]);
        let messages: Vec<_> = turns.chain([ChatMessage::user(&case.query)]).collect();
        let options = RenderOptions {
            bos: self.bos_rule(case)?,
            system: match case.meta_instruction.as_str() {
                "" => SystemPrompt::None,
                text => SystemPrompt::Text(text.to_owned()),
            },
            num_pictures: pictures.len(),
            answer_prefix: None,
        };
        let template = ChatTemplate::of(self.description);
        let rendered = template.render(tokenizer, &messages, &options)?;
        Prompt::of_rendered(rendered, pictures, self.pictures)
    }

    /// What the case says; otherwise the goldens' choice for each release.
    fn bos_rule(&self, case: &ChatCase) -> Result<BosRule> {
        Ok(match (case.bos.as_deref(), self.variant()) {
            (Some("once"), _) => BosRule::Once,
            (Some("before every text part"), _) => BosRule::Reference,
            (Some(other), _) => bail!("the rule for <s> is unknown here: {other:?}"),
            (None, Variant::Xc2) => BosRule::Reference,
            (None, Variant::Xc2FourKhd | Variant::Xc2d5) => BosRule::Once,
        })
    }
}

/// The case `ragged_batch`.
#[derive(Debug, Deserialize)]
struct RaggedCase {
    prompts: Vec<String>,
    #[serde(default)]
    lengths: Vec<usize>,
    #[serde(default)]
    same_as_alone: Vec<bool>,
}

impl Ready<'_> {
    pub(super) fn run_ragged_batches(&self, report: &mut Report) {
        let names = self.folder.case_names().into_iter();
        let start = format!("{}ragged_batch", self.prefix);
        for name in names.filter(|name| name.starts_with(&start)) {
            report.case(&self.folder.name, name, || self.check_ragged(name));
        }
    }

    fn check_ragged(&self, name: &str) -> Result<()> {
        let case: RaggedCase = self.folder.case_as(name)?;
        let golden = |prompt: &String| {
            let stem = format!("{}gen.{prompt}", self.prefix);
            let tokens = self.folder.ids(&format!("{stem}.tokens"))?;
            Ok((stem, tokens))
        };
        let wanted: Vec<(String, Vec<u32>)> =
            case.prompts.iter().map(golden).collect::<Result<_>>()?;
        let mut jobs = Vec::new();
        for (index, (name, (_, tokens))) in case.prompts.iter().zip(&wanted).enumerate() {
            let prompt = Prompt::of_case(self.folder, name, self.pictures)?;
            if let Some(length) = case.lengths.get(index) {
                same("length", *length, prompt.num_tokens())?;
            }
            jobs.push(Job {
                inputs: prompt.inputs(self.pictures)?,
                params: greedy(1.0),
                seen: Vec::new(),
                stop_ids: Vec::new(),
                max_new_tokens: tokens.len(),
            });
        }
        let found = self.group.generate(&jobs)?;
        for (index, ((stem, wanted), found)) in wanted.iter().zip(&found).enumerate() {
            if case.same_as_alone.get(index).is_none_or(|same| *same) {
                self.check_tokens(stem, wanted, &found.tokens)?;
            }
        }
        Ok(())
    }
}

/// The penalty in a name such as `CASE.rp1.2`.
fn penalty_in(name: &str) -> Option<f32> {
    let (_, penalty) = name.rsplit_once(".rp")?;
    penalty.parse().ok()
}

fn greedy(repetition_penalty: f32) -> SamplingParams {
    SamplingParams {
        repetition_penalty,
        ..SamplingParams::default()
    }
}
