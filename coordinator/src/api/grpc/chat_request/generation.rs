//! How tokens and answers are chosen: the fields of a request that say so, checked.

use inkstone_proto::v1 as wire;

use super::Faults;
use crate::{
    request::AnswerPlan,
    worker_client::{Beam, Constraint, Priority, Sampling},
};

const DEFAULT_TEMPERATURE: f32 = 1.0;
const DEFAULT_TOP_K: u32 = 50;
const DEFAULT_TOP_P: f32 = 0.8;
const DEFAULT_REPETITION_PENALTY: f32 = 1.005;
const DEFAULT_LENGTH_PENALTY: f32 = 1.0;

/// Answers, drawn or returned, and beams of one request. 16: each takes its own place in the group's steps.
const NUM_ANSWERS: std::ops::RangeInclusive<u32> = 1..=16;
/// Tokens with a bias at most: each is looked up for every token of the answer.
const MAX_LOGIT_BIAS: usize = 1024;
/// Most likely tokens told at each place at most.
const MAX_TOP_LOGPROBS: u32 = 20;
/// Strings to choose from at most.
const MAX_CHOICES: usize = 1024;
/// Bytes of all strings to choose from, and of a JSON schema, at most: what a group compiles in a moment.
const MAX_FORM_BYTES: usize = 64 * 1024;
/// Bytes of a regular expression at most.
const MAX_REGEX_BYTES: usize = 8 * 1024;

impl Faults {
    /// Checks the numbers that steer the draw. A constraint and min_tokens are filled in later.
    pub(super) fn sampling(
        &mut self,
        sampling: wire::SamplingParams,
        answers: &AnswerPlan,
    ) -> Sampling {
        let temperature = sampling.temperature.unwrap_or(DEFAULT_TEMPERATURE);
        self.between("sampling.temperature", temperature, 0.0, 10.0);
        let top_p = sampling.top_p.unwrap_or(DEFAULT_TOP_P);
        self.above_zero("sampling.top_p", top_p, 1.0);
        let repetition_penalty = sampling.repetition_penalty;
        let repetition_penalty = repetition_penalty.unwrap_or(DEFAULT_REPETITION_PENALTY);
        self.above_zero("sampling.repetition_penalty", repetition_penalty, 10.0);
        let min_p = sampling.min_p.unwrap_or_default();
        self.between("sampling.min_p", min_p, 0.0, 1.0);
        let presence_penalty = sampling.presence_penalty.unwrap_or_default();
        self.between("sampling.presence_penalty", presence_penalty, -2.0, 2.0);
        let frequency_penalty = sampling.frequency_penalty.unwrap_or_default();
        self.between("sampling.frequency_penalty", frequency_penalty, -2.0, 2.0);
        let num_logprobs = self.num_logprobs(&sampling, answers);
        Sampling {
            temperature: match answers {
                // Beams are not drawn.
                AnswerPlan::Beam(_) => 0.0,
                AnswerPlan::All { .. } | AnswerPlan::Best { .. } => temperature,
            },
            top_k: sampling.top_k.unwrap_or(DEFAULT_TOP_K),
            top_p,
            min_p,
            repetition_penalty,
            presence_penalty,
            frequency_penalty,
            seed: sampling.seed.unwrap_or_else(rand::random),
            logit_bias: self.logit_bias(sampling.logit_bias.into_iter().collect()),
            min_new_tokens: 0,
            num_logprobs,
            constraint: None,
        }
    }

    fn logit_bias(&mut self, mut biases: Vec<(u32, f32)>) -> Vec<(u32, f32)> {
        let path = "sampling.logit_bias";
        self.at_most(path, biases.len(), MAX_LOGIT_BIAS, "entries");
        biases.sort_unstable_by_key(|(id, _)| *id);
        for (id, bias) in &biases {
            self.between(&format!("{path}[{id}]"), *bias, -100.0, 100.0);
        }
        biases
    }

    /// What the group must report: for the client, or to choose the best answers by.
    fn num_logprobs(
        &mut self,
        sampling: &wire::SamplingParams,
        answers: &AnswerPlan,
    ) -> Option<u32> {
        let top = sampling.top_logprobs;
        let is_told = sampling.logprobs || sampling.prompt_logprobs;
        if top > MAX_TOP_LOGPROBS {
            let description = format!("must be at most {MAX_TOP_LOGPROBS}, found {top}");
            self.add("sampling.top_logprobs", description);
        } else if top > 0 && !is_told {
            let description =
                format!("needs logprobs or prompt_logprobs, found {top} with neither");
            self.add("sampling.top_logprobs", description);
        }
        let is_choice = matches!(answers, AnswerPlan::Best { .. });
        (is_told || is_choice).then_some(top)
    }

    /// Checks which answers are wanted.
    pub(super) fn answers(
        &mut self,
        sampling: &wire::SamplingParams,
        beam: Option<wire::BeamParams>,
    ) -> AnswerPlan {
        let num_answers = sampling.n.unwrap_or(1);
        self.within("sampling.n", num_answers);
        let num_drawn = sampling.best_of.unwrap_or(num_answers);
        if num_drawn < num_answers {
            let description = format!("must be at least n ({num_answers}), found {num_drawn}");
            self.add("sampling.best_of", description);
        } else if sampling.best_of.is_some() {
            self.within("sampling.best_of", num_drawn);
        }
        if let Some(beam) = beam {
            self.not_with_beams(sampling);
            return AnswerPlan::Beam(self.beam(beam));
        }
        // What is out of range is refused; until then the plan must not be taken at its word.
        let num_drawn = num_drawn.clamp(*NUM_ANSWERS.start(), *NUM_ANSWERS.end());
        match num_answers {
            _ if num_drawn > num_answers => AnswerPlan::Best {
                num_answers,
                num_drawn,
            },
            _ => AnswerPlan::All {
                num_answers: num_drawn,
            },
        }
    }

    fn beam(&mut self, beam: wire::BeamParams) -> Beam {
        self.within("beam.width", beam.width);
        let num_answers = beam.num_answers.unwrap_or(1);
        if !(1..=beam.width.max(1)).contains(&num_answers) {
            let width = beam.width;
            let description = format!("must be from 1 to width ({width}), found {num_answers}");
            self.add("beam.num_answers", description);
        }
        let length_penalty = beam.length_penalty.unwrap_or(DEFAULT_LENGTH_PENALTY);
        self.between("beam.length_penalty", length_penalty, -10.0, 10.0);
        Beam {
            width: beam.width,
            num_answers,
            length_penalty,
            early_stopping: beam.early_stopping,
        }
    }

    /// Beams are searched, not drawn, and their tokens are known only at the end.
    fn not_with_beams(&mut self, sampling: &wire::SamplingParams) {
        let others = [
            ("sampling.n", sampling.n.is_some_and(|n| n > 1)),
            ("sampling.best_of", sampling.best_of.is_some_and(|n| n > 1)),
            ("sampling.logprobs", sampling.logprobs),
            (
                "sampling.temperature",
                sampling
                    .temperature
                    .is_some_and(|temperature| temperature > 0.0),
            ),
        ];
        for (path, is_set) in others {
            if is_set {
                self.add(path, "cannot be together with beam");
            }
        }
    }

    /// Checks the form that answers must have, as far as it can be seen without the tokenizer.
    pub(super) fn constraint(
        &mut self,
        constraint: Option<wire::Constraint>,
    ) -> Option<Constraint> {
        use wire::constraint::Form;
        match constraint?.form {
            Some(Form::Choices(list)) => {
                self.choices(&list.choices);
                Some(Constraint::Choices(list.choices))
            }
            Some(Form::JsonSchema(schema)) => {
                self.form("constraint.json_schema", &schema, MAX_FORM_BYTES);
                Some(Constraint::JsonSchema(schema))
            }
            Some(Form::Regex(regex)) => {
                self.form("constraint.regex", &regex, MAX_REGEX_BYTES);
                Some(Constraint::Regex(regex))
            }
            None => {
                let description = "must be choices, json_schema or regex, found neither";
                self.add("constraint", description);
                None
            }
        }
    }

    fn choices(&mut self, choices: &[String]) {
        let path = "constraint.choices";
        if choices.is_empty() {
            self.add(path, "must have at least one string, found none");
        }
        self.at_most(path, choices.len(), MAX_CHOICES, "strings");
        let num_bytes = choices.iter().map(String::len).sum();
        self.at_most(path, num_bytes, MAX_FORM_BYTES, "bytes");
        if let Some(index) = choices.iter().position(String::is_empty) {
            self.add(format!("{path}[{index}]"), "must not be empty");
        }
    }

    fn form(&mut self, path: &str, form: &str, limit: usize) {
        if form.is_empty() {
            self.add(path, "must not be empty");
        }
        self.at_most(path, form.len(), limit, "bytes");
    }

    pub(super) fn priority(&mut self, priority: i32) -> Priority {
        match wire::Priority::try_from(priority) {
            Ok(wire::Priority::Unspecified | wire::Priority::Interactive) => Priority::Interactive,
            Ok(wire::Priority::Batch) => Priority::Batch,
            Err(_) => {
                self.add("priority", format!("unknown value {priority}"));
                Priority::Interactive
            }
        }
    }

    /// A number of answers or beams.
    fn within(&mut self, path: &str, found: u32) {
        let (least, most) = (NUM_ANSWERS.start(), NUM_ANSWERS.end());
        if !NUM_ANSWERS.contains(&found) {
            self.add(
                path,
                format!("must be from {least} to {most}, found {found}"),
            );
        }
    }

    fn between(&mut self, path: &str, found: f32, least: f32, most: f32) {
        if !(least..=most).contains(&found) {
            self.add(
                path,
                format!("must be from {least} to {most}, found {found}"),
            );
        }
    }

    fn above_zero(&mut self, path: &str, found: f32, most: f32) {
        if !(found > 0.0 && found <= most) {
            let description = format!("must be above 0 and at most {most}, found {found}");
            self.add(path, description);
        }
    }
}
