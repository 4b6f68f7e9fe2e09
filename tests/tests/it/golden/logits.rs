//! Logits and hidden states of whole prompts: `CASE.logits` and `CASE.hidden` at the positions in `CASE.keep` (all where there
//! is none); for large vocabularies the largest logits, the log of the sum of exponentials, and one row of all logits.

use anyhow::{Context, Result, ensure};

use super::{
    compare::{close, difference},
    generation::Ready,
    group::Prefilled,
    prompt::Prompt,
    report::Report,
};

/// What a prompt may have numbers for.
const KINDS: [&str; 6] = [
    "logits",
    "hidden",
    "top.values",
    "top.indices",
    "logsumexp",
    "last_logits",
];

impl Ready<'_> {
    /// Every prompt that this checkpoint has numbers for, with those numbers' names.
    fn logits_cases(&self) -> Vec<(String, Vec<&'static str>)> {
        let numbers = |case: &String| {
            let has = |kind: &&str| self.folder.has(&format!("{}{case}.{kind}", self.prefix));
            KINDS.into_iter().filter(has).collect::<Vec<_>>()
        };
        let cases = self.folder.stems(".ids").into_iter();
        let with_numbers = cases.map(|case| (numbers(&case), case));
        with_numbers
            .filter(|(kinds, _)| !kinds.is_empty())
            .map(|(kinds, case)| (case, kinds))
            .collect()
    }

    /// Runs each prompt once and compares all there is of it. `note` is added to the cases' names.
    pub(super) fn run_logits(&self, report: &mut Report, note: &str) {
        for (case, kinds) in self.logits_cases() {
            let name = format!("{}{case}{note}", self.prefix);
            let run = report.prepare(&self.folder.name, &name, || {
                let wants_hidden = kinds.contains(&"hidden");
                Ok((self.positions(&case)?, self.prefill(&case, wants_hidden)?))
            });
            let Some((positions, found)) = run else {
                continue;
            };
            for kind in kinds {
                let tensor = format!("{}{case}.{kind}", self.prefix);
                report.case(&self.folder.name, &format!("{tensor}{note}"), || {
                    self.check(&tensor, kind, positions.len(), &found)
                });
            }
        }
    }

    /// Logits and hidden states of a prompt at its kept positions.
    pub(super) fn prefill(&self, case: &str, wants_hidden: bool) -> Result<Prefilled> {
        let prompt = Prompt::of_case(self.folder, case, self.pictures)?;
        let inputs = prompt.inputs(self.pictures)?;
        self.group
            .prefill(&inputs, &self.positions(case)?, wants_hidden)
    }

    /// The positions whose rows are stored.
    fn positions(&self, case: &str) -> Result<Vec<usize>> {
        let keep = format!("{case}.keep");
        if self.folder.has(&keep) {
            return self.folder.indices(&keep);
        }
        let num_tokens = self.folder.i32(&format!("{case}.ids"))?.values.len();
        Ok((0..num_tokens).collect())
    }

    fn check(&self, tensor: &str, kind: &str, num_rows: usize, found: &Prefilled) -> Result<()> {
        let folder = self.folder;
        let rows = || found.logits.chunks_exact(found.logits.len() / num_rows);
        match kind {
            "logits" => close(folder, tensor, &found.logits),
            "hidden" => close(folder, tensor, &found.hidden),
            "last_logits" => close(folder, tensor, rows().last().context("there is a row")?),
            "logsumexp" => close(folder, tensor, &rows().map(log_sum_exp).collect::<Vec<_>>()),
            "top.values" => {
                let count = folder.f32(tensor)?.cols();
                let largest = rows().flat_map(|row| largest(row, count));
                close(folder, tensor, &largest.collect::<Vec<_>>())
            }
            "top.indices" => self.check_top_indices(tensor, rows()),
            other => anyhow::bail!("{other} is not compared"),
        }
    }

    /// The tokens that the reference has at the top have those logits here too. Which of two equal ones comes first is left open.
    fn check_top_indices<'a>(
        &self,
        tensor: &str,
        rows: impl Iterator<Item = &'a [f32]>,
    ) -> Result<()> {
        let values = tensor.replace("indices", "values");
        let (indices, wanted) = (self.folder.i32(tensor)?, self.folder.f32(&values)?);
        let atol = self.folder.atol(&values)?;
        for (row, ((indices, wanted), found)) in
            indices.rows().zip(wanted.rows()).zip(rows).enumerate()
        {
            for (place, (index, wanted)) in indices.iter().zip(wanted).enumerate() {
                let found = found[*index as usize];
                ensure!(
                    difference(*wanted, found) <= atol,
                    "{tensor}: at [{row}, {place}] token {index} wanted {wanted}, found {found}, atol {atol:e}"
                );
            }
        }
        Ok(())
    }
}

fn log_sum_exp(row: &[f32]) -> f32 {
    let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = row.iter().map(|value| f64::from(value - max).exp()).sum();
    (f64::from(max) + sum.ln()) as f32
}

fn largest(row: &[f32], count: usize) -> Vec<f32> {
    let mut row = row.to_vec();
    row.sort_unstable_by(|a, b| b.total_cmp(a));
    row.truncate(count);
    row
}
