//! What a request's answers consist of so far, so that another group can go on with them. It takes the tokens of the current attempt
//! only, each once and in order; whatever an earlier attempt still has to say is nobody's any more.

use crate::worker_client::{Resumed, TokenBatch};

/// The tokens of a request by answer.
#[derive(Debug)]
pub(crate) struct Journal {
    /// Counts the groups that ran the request; what another one says is not taken.
    attempt: u32,
    branches: Vec<Branch>,
}

#[derive(Debug, Default)]
struct Branch {
    ids: Vec<u32>,
    /// Nothing more is wanted of it; its tokens are not kept then.
    ended: bool,
}

impl Journal {
    /// Of a request that has so many answers side by side.
    pub(crate) fn new(num_branches: u32) -> Self {
        Self {
            attempt: 0,
            branches: (0..num_branches).map(|_| Branch::default()).collect(),
        }
    }

    /// The attempt whose words are taken.
    pub(crate) fn attempt(&self) -> u32 {
        self.attempt
    }

    /// From now on only what the next group says is taken.
    pub(crate) fn give_up(&mut self) {
        self.attempt += 1;
    }

    /// Takes the next tokens of an answer. What is not next is a fault of whoever lets it through: nothing of it is taken.
    pub(crate) fn take(&mut self, attempt: u32, batch: &TokenBatch) -> Result<(), String> {
        let current = self.attempt;
        if attempt != current {
            return Err(format!(
                "tokens of attempt {attempt} came, the request is in attempt {current}"
            ));
        }
        let Some(branch) = self.branches.get_mut(batch.branch as usize) else {
            return Err(format!(
                "tokens came of answer {}, which is not",
                batch.branch
            ));
        };
        if branch.ended {
            return Ok(());
        }
        let wanted = branch.ids.len();
        if batch.first_index as usize != wanted {
            return Err(format!(
                "token {} of answer {} came, token {wanted} is next",
                batch.first_index, batch.branch
            ));
        }
        branch.ids.extend_from_slice(&batch.ids);
        Ok(())
    }

    /// Nothing more is wanted of an answer.
    pub(crate) fn end(&mut self, branch: u32) {
        if let Some(branch) = self.branches.get_mut(branch as usize) {
            *branch = Branch {
                ids: vec![],
                ended: true,
            };
        }
    }

    /// The answers that go on, with their last token and how many there are.
    pub(crate) fn open(&self) -> impl Iterator<Item = (u32, Option<u32>, usize)> {
        let branches = (0..).zip(&self.branches);
        let open = branches.filter(|(_, branch)| !branch.ended);
        open.map(|(index, branch)| (index, branch.ids.last().copied(), branch.ids.len()))
    }

    /// What another group has to know to go on; nothing where nothing was drawn.
    pub(crate) fn resumed(&self) -> Vec<Resumed> {
        let branches = (0..).zip(&self.branches);
        let begun = branches.filter(|(_, branch)| branch.ended || !branch.ids.is_empty());
        let resumed = begun.map(|(index, branch)| Resumed {
            branch: index,
            ids: branch.ids.clone(),
            ended: branch.ended,
        });
        resumed.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(branch: u32, first_index: u32, ids: &[u32]) -> TokenBatch {
        TokenBatch {
            branch,
            first_index,
            ids: ids.to_vec(),
            infos: vec![],
        }
    }

    #[test]
    fn a_token_comes_once_and_in_order_from_the_current_attempt_only() {
        let mut journal = Journal::new(2);
        journal.take(0, &batch(1, 0, &[5, 6])).unwrap();
        for (attempt, batch, wanted) in [
            (0, batch(1, 1, &[6]), "token 2 is next"),
            (0, batch(1, 3, &[8]), "token 2 is next"),
            (1, batch(1, 2, &[7]), "in attempt 0"),
            (0, batch(2, 0, &[7]), "answer 2"),
        ] {
            let fault = journal.take(attempt, &batch).unwrap_err();
            assert!(fault.contains(wanted), "{fault}");
        }
        journal.give_up();
        let fault = journal.take(0, &batch(1, 2, &[7])).unwrap_err();
        assert!(fault.contains("in attempt 1"), "{fault}");
        journal.take(1, &batch(1, 2, &[7])).unwrap();
        let resumed = Resumed {
            branch: 1,
            ids: vec![5, 6, 7],
            ended: false,
        };
        assert_eq!(journal.resumed(), [resumed]);
    }

    #[test]
    fn of_an_answer_that_ended_nothing_is_kept_but_that_it_did() {
        let mut journal = Journal::new(2);
        journal.take(0, &batch(0, 0, &[5])).unwrap();
        journal.end(0);
        // The group cannot end one answer alone and goes on with it.
        journal.take(0, &batch(0, 1, &[6])).unwrap();
        let resumed = Resumed {
            branch: 0,
            ids: vec![],
            ended: true,
        };
        assert_eq!(journal.resumed(), [resumed]);
        assert_eq!(journal.open().collect::<Vec<_>>(), [(1, None, 0)]);
    }
}
