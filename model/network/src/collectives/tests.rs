//! The promises of [`Collective`], held against every form of it.

use std::{
    io::Write,
    net::{TcpListener, TcpStream},
    thread,
    time::{Duration, Instant},
};

use super::*;
use crate::{device::Device, tensor::Tensor};

const DEADLINE: Duration = Duration::from_secs(20);

type Ends = Vec<Box<dyn Collective>>;

fn local(world_size: usize, deadline: Duration) -> Ends {
    let ends = LocalCollective::group(world_size, deadline);
    ends.into_iter().map(|end| Box::new(end) as _).collect()
}

fn member(rank: usize, world_size: usize, deadline: Duration) -> TcpMember {
    TcpMember {
        group: "language-0".into(),
        epoch: 3,
        rank,
        world_size,
        join_deadline: deadline,
        deadline,
    }
}

fn tcp(world_size: usize, deadline: Duration) -> Ends {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let leader = listener.local_addr().unwrap();
    let end = |rank| {
        let member = TcpMember {
            join_deadline: DEADLINE,
            ..member(rank, world_size, deadline)
        };
        match rank {
            0 => TcpCollective::lead(&listener, &member),
            _ => TcpCollective::join(leader, &member),
        }
    };
    thread::scope(|scope| {
        let joining: Vec<_> = (0..world_size)
            .map(|rank| scope.spawn(move || Box::new(end(rank).unwrap()) as Box<dyn Collective>))
            .collect();
        joining.into_iter().map(|end| end.join().unwrap()).collect()
    })
}

/// Both forms, for the world sizes that matter.
fn groups(deadline: Duration) -> impl Iterator<Item = Ends> {
    let local = [1, 2, 4].map(|world_size| local(world_size, deadline));
    local
        .into_iter()
        .chain([2, 3, 4].map(|world_size| tcp(world_size, deadline)))
}

/// Runs `task` as every rank at once and returns the results in rank order.
fn on_ranks<T: Send>(ends: &Ends, task: impl Fn(&dyn Collective) -> T + Sync) -> Vec<T> {
    thread::scope(|scope| {
        let task = &task;
        let ranks: Vec<_> = ends
            .iter()
            .map(|end| scope.spawn(move || task(&**end)))
            .collect();
        ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
    })
}

/// Values whose sum depends on the order in which they are added.
fn part(rank: usize, len: usize) -> Vec<f32> {
    let value =
        |i: usize| ((i * 7919 + rank * 104_729) % 1000) as f32 * 10f32.powi(rank as i32 - 3);
    (0..len).map(value).collect()
}

fn tensor(values: &[f32]) -> Tensor {
    Tensor::from_f32(&Device::cpu(1), &[values.len()], values).unwrap()
}

#[test]
fn sums_are_taken_in_rank_order_on_every_rank() {
    for ends in groups(DEADLINE) {
        // Of the longest, a group of more than two makes pieces, of unequal length.
        for len in [0, 1, 257, 4096, 100_003] {
            let mut wanted = part(0, len);
            for rank in 1..ends.len() {
                add_assign(&mut wanted, &part(rank, len));
            }
            let sums = on_ranks(&ends, |end| {
                let mut sum = tensor(&part(end.rank(), len));
                end.all_reduce_sum(&mut sum).unwrap();
                sum.to_f32_vec().unwrap()
            });
            for sum in sums {
                assert!(sum == wanted, "{} ranks, {len} elements", ends.len());
            }
        }
    }
}

#[test]
fn gathered_parts_may_differ_in_length() {
    for ends in groups(DEADLINE) {
        let wanted: Vec<_> = (0..ends.len())
            .map(|rank| part(rank, rank * 1000))
            .collect();
        let gathered = on_ranks(&ends, |end| {
            end.all_gather(&part(end.rank(), end.rank() * 1000))
                .unwrap()
        });
        assert!(gathered.iter().all(|parts| *parts == wanted));
    }
}

#[test]
fn many_calls_in_a_row_do_not_mix() {
    for ends in groups(DEADLINE) {
        let world_size = ends.len() as f32;
        on_ranks(&ends, |end| {
            for step in 0..300 {
                let mut sum = tensor(&[step as f32; 64]);
                end.all_reduce_sum(&mut sum).unwrap();
                assert_eq!(sum.as_f32().unwrap(), [step as f32 * world_size; 64]);
                if step % 7 == 0 {
                    end.barrier().unwrap();
                }
            }
        });
    }
}

#[test]
fn a_missing_rank_is_named_at_the_deadline() {
    for ends in [
        local(3, Duration::from_millis(80)),
        tcp(3, Duration::from_millis(80)),
    ] {
        let outcomes = on_ranks(&ends, |end| match end.rank() {
            1 => Ok(()),
            _ => end.barrier(),
        });
        let named = outcomes.iter().any(|outcome| {
            matches!(outcome, Err(CollectiveError::DeadlineExceeded { missing, .. }) if *missing == [1])
        });
        assert!(
            named && outcomes[0].is_err() && outcomes[2].is_err(),
            "{outcomes:?}"
        );
        assert_eq!(ends[0].awaited(), [1]);
        // The late rank finds the group failed without waiting: at once, or, where it had the others' parts of this call
        // already, with the next.
        let started = Instant::now();
        assert!(ends[1].barrier().and_then(|()| ends[1].barrier()).is_err());
        assert!(started.elapsed() < DEADLINE / 4);
    }
}

#[test]
fn abort_wakes_those_who_wait() {
    for ends in [local(2, DEADLINE), tcp(2, DEADLINE)] {
        let started = Instant::now();
        let outcomes = on_ranks(&ends, |end| {
            if end.rank() == 1 {
                thread::sleep(Duration::from_millis(30));
                end.abort();
            }
            end.barrier()
        });
        assert!(outcomes.iter().all(Result::is_err), "{outcomes:?}");
        assert!(started.elapsed() < DEADLINE / 4);
    }
}

#[test]
fn a_watcher_sees_whom_a_call_waits_for() {
    for ends in [local(3, DEADLINE), tcp(3, DEADLINE)] {
        assert!(ends[0].awaited().is_empty(), "no call");
        on_ranks(&ends, |end| end.barrier())
            .into_iter()
            .for_each(Result::unwrap);
        assert!(ends[0].awaited().is_empty(), "the call is over");
        thread::scope(|scope| {
            for end in [&ends[0], &ends[1]] {
                scope.spawn(|| end.barrier());
            }
            let started = Instant::now();
            while ends[0].awaited() != [2] {
                assert!(started.elapsed() < DEADLINE / 4, "{:?}", ends[0].awaited());
                thread::sleep(Duration::from_millis(1));
            }
            ends[0].abort();
        });
    }
}

#[test]
fn a_waiting_rank_can_be_aborted_from_its_own_side() {
    for ends in [local(2, DEADLINE), tcp(2, DEADLINE)] {
        thread::scope(|scope| {
            let waiting = scope.spawn(|| ends[0].barrier());
            thread::sleep(Duration::from_millis(20));
            ends[0].abort();
            assert!(matches!(
                waiting.join().unwrap(),
                Err(CollectiveError::Aborted { .. })
            ));
        });
    }
}

#[test]
fn a_rank_that_dies_fails_the_others_before_the_deadline() {
    for mut ends in [local(3, DEADLINE), tcp(3, DEADLINE)] {
        drop(ends.remove(1));
        let started = Instant::now();
        let outcomes = on_ranks(&ends, |end| end.all_gather(&[1.0]));
        assert!(outcomes.iter().all(Result::is_err), "{outcomes:?}");
        assert!(started.elapsed() < DEADLINE / 4);
        // Threads learn it from the group, which says who left.
        let error = outcomes[0].as_ref().unwrap_err().to_string();
        assert!(
            ends[0].awaited() == [1] || error.contains("rank 1 left"),
            "{error}"
        );
    }
}

#[test]
fn ranks_that_disagree_find_out() {
    for ends in [local(2, DEADLINE), tcp(2, DEADLINE)] {
        let outcomes = on_ranks(&ends, |end| {
            end.all_reduce_sum(&mut tensor(&vec![1.0; 10 + end.rank()]))
        });
        assert!(outcomes.iter().all(Result::is_err), "{outcomes:?}");
        let named =
            |outcome: &Result<()>| matches!(outcome, Err(CollectiveError::LengthMismatch { .. }));
        assert!(outcomes.iter().any(named), "{outcomes:?}");
    }
    for ends in [local(2, DEADLINE), tcp(2, DEADLINE)] {
        let outcomes = on_ranks(&ends, |end| match end.rank() {
            0 => end.barrier(),
            _ => end.all_gather(&[]).map(drop),
        });
        assert!(outcomes.iter().all(Result::is_err), "{outcomes:?}");
        let named =
            |outcome: &Result<()>| matches!(outcome, Err(CollectiveError::OutOfStep { .. }));
        assert!(outcomes.iter().any(named), "{outcomes:?}");
    }
}

/// What a member that is wrong in one way is told, while the right member still gets in.
fn refusal(wrong: TcpMember) -> HandshakeError {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let leader = listener.local_addr().unwrap();
    thread::scope(|scope| {
        let lead = scope.spawn(|| TcpCollective::lead(&listener, &member(0, 2, DEADLINE)));
        let refused = TcpCollective::join(leader, &wrong);
        TcpCollective::join(leader, &member(1, 2, DEADLINE)).unwrap();
        lead.join().unwrap().unwrap();
        match refused.err() {
            Some(CollectiveError::Handshake { source, .. }) => source,
            other => panic!("wanted a refusal, found {other:?}"),
        }
    })
}

#[test]
fn members_of_another_group_are_refused_with_the_reason() {
    let right = member(1, 2, DEADLINE);
    let group = TcpMember {
        group: "language-1".into(),
        ..right.clone()
    };
    assert_eq!(refusal(group), HandshakeError::Group);
    let epoch = TcpMember {
        epoch: 2,
        ..right.clone()
    };
    assert_eq!(
        refusal(epoch),
        HandshakeError::Epoch {
            wanted: 3,
            found: 2
        }
    );
    let world = TcpMember {
        world_size: 4,
        ..right.clone()
    };
    assert_eq!(
        refusal(world),
        HandshakeError::WorldSize {
            wanted: 2,
            found: 4
        }
    );
    let rank = TcpMember { rank: 0, ..right };
    assert_eq!(
        refusal(rank),
        HandshakeError::Rank {
            found: 0,
            world_size: 2
        }
    );
}

#[test]
fn strangers_do_not_keep_a_group_from_forming() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let leader = listener.local_addr().unwrap();
    thread::scope(|scope| {
        let lead = scope.spawn(|| TcpCollective::lead(&listener, &member(0, 2, DEADLINE)));
        let mut stranger = TcpStream::connect(leader).unwrap();
        stranger.write_all(&[b'x'; 64]).unwrap();
        let _silent = TcpStream::connect(leader).unwrap();
        TcpCollective::join(leader, &member(1, 2, DEADLINE)).unwrap();
        lead.join().unwrap().unwrap();
    });
}

#[test]
fn a_group_that_stays_incomplete_says_who_is_missing() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let outcome = TcpCollective::lead(&listener, &member(0, 3, Duration::from_millis(50)));
    let Some(CollectiveError::Handshake { source, .. }) = outcome.err() else {
        panic!("wanted a handshake error");
    };
    assert!(matches!(source, HandshakeError::Deadline { missing, .. } if missing == [1, 2]));
}
