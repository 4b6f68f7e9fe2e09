//! `beam.CASE`: the three best continuations that the reference's beam search finds, with their sums of log-probabilities. The
//! engine chooses among what the sampling code offers it; every beam is read anew at every step, so that nothing depends on a
//! cache.

use anyhow::{Context, Result, ensure};
use inkstone_engine::{BeamParams, BeamSearch, SearchStep, TokenLogprob};
use inkstone_model::{
    collectives::SingleCollective,
    device::Device,
    sampling::{RowDraw, RowResult, RowSampling, sample},
    tensor::Tensor,
};

use super::{
    compare::{same, within},
    generation::Ready,
    group::PromptInput,
    report::Report,
};

impl Ready<'_> {
    pub(super) fn run_beams(&self, report: &mut Report) {
        let start = format!("{}beam.", self.prefix);
        for stem in self.folder.stems(".tokens") {
            if let Some(name) = stem.strip_prefix(&start) {
                report.case(&self.folder.name, &stem, || self.check_beams(name, &stem));
            }
        }
    }

    fn check_beams(&self, name: &str, stem: &str) -> Result<()> {
        let wanted = self.folder.i32(&format!("{stem}.tokens"))?;
        let sums = self.folder.f32(&format!("{stem}.sum_logprobs"))?;
        let (width, length) = (sums.values.len(), wanted.cols());
        self.folder.note(&format!("case {stem}"));
        let prompt = self.prompt_of(name, None)?;
        let prompt_length = if prompt.has_pictures() {
            1
        } else {
            prompt.num_tokens()
        };
        let params = BeamParams {
            width,
            num_answers: width,
            length_penalty: 1.0,
            early_stopping: false,
        };
        let mut search = BeamSearch::new(params, Vec::new(), length, prompt_length);
        let inputs = prompt.inputs(self.pictures)?;
        let mut beams: Vec<Vec<u32>> = vec![Vec::new()];
        let answers = loop {
            let count = search.num_candidates();
            let candidates = beams
                .iter()
                .map(|beam| self.candidates(&inputs, prompt.num_tokens(), beam, count))
                .collect::<Result<Vec<_>>>()?;
            match search.advance(&candidates) {
                SearchStep::Done(answers) => break answers,
                SearchStep::Live(extensions) => {
                    let extended = extensions
                        .iter()
                        .map(|extension| {
                            [&beams[extension.parent][..], &[extension.token_id]].concat()
                        })
                        .collect();
                    beams = extended;
                }
            }
        };
        ensure!(answers.len() == width, "{} answers", answers.len());
        for (rank, (answer, wanted)) in answers.iter().zip(wanted.rows()).enumerate() {
            let wanted: Vec<u32> = wanted.iter().map(|id| *id as u32).collect();
            same(&format!("beam {rank}"), wanted, answer.token_ids.clone())?;
        }
        // The score of an answer is its sum over the length that the reference counts.
        let length = (prompt_length + length) as f32;
        let found: Vec<f32> = answers.iter().map(|answer| answer.score * length).collect();
        within(&sums, &found, self.folder.atol(&sums.name)?)
    }

    /// The best tokens after a prompt and what a beam has drawn.
    fn candidates(
        &self,
        inputs: &[PromptInput],
        prompt_tokens: usize,
        beam: &[u32],
        count: usize,
    ) -> Result<Vec<TokenLogprob>> {
        let mut inputs = inputs.to_vec();
        if !beam.is_empty() {
            inputs.push(PromptInput::Tokens(beam.to_vec()));
        }
        let last = prompt_tokens + beam.len() - 1;
        let prefilled = self.group.prefill(&inputs, &[last], false)?;
        let row = RowSampling {
            draw: RowDraw::Candidates {
                count: u32::try_from(count)?,
            },
            ..RowSampling::default()
        };
        let logits = &prefilled.logits;
        let logits = Tensor::from_f32(&Device::cpu(1), &[1, logits.len()], logits)?;
        let drawn = sample(&logits, 0, &[row], &SingleCollective)?;
        let drawn = drawn.context("rank 0 gets what was drawn")?.remove(0)?;
        let RowResult::Candidates(candidates) = drawn else {
            anyhow::bail!("candidates were asked for");
        };
        let candidate = |candidate: &inkstone_model::sampling::TokenLogprob| TokenLogprob {
            token_id: candidate.id,
            logprob: candidate.logprob,
        };
        Ok(candidates.iter().map(candidate).collect())
    }
}
