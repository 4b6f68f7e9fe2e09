//! What a pool promises to those who call it.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use super::ThreadPool;

fn counters(count: usize) -> Vec<AtomicUsize> {
    (0..count).map(|_| AtomicUsize::new(0)).collect()
}

#[test]
fn every_task_runs_once() {
    for num_threads in [1, 2, 5] {
        let pool = ThreadPool::new(num_threads);
        for num_tasks in [0, 1, 2, 3, 100] {
            let runs = counters(num_tasks);
            pool.parallel_for(num_tasks, &|task| {
                runs[task].fetch_add(1, Ordering::Relaxed);
            });
            assert!(runs.iter().all(|count| count.load(Ordering::Relaxed) == 1));
        }
    }
}

#[test]
fn many_short_calls_lose_no_task() {
    let pool = ThreadPool::new(3);
    let sum = AtomicUsize::new(0);
    for call in 0..20_000 {
        pool.parallel_for(1 + call % 5, &|task| {
            sum.fetch_add(task + 1, Ordering::Relaxed);
        });
    }
    // 1, 1+2, ..., 1+2+3+4+5 add up to 35.
    assert_eq!(sum.into_inner(), 20_000 / 5 * 35);
}

#[test]
fn sleeping_threads_do_not_hold_up_a_call() {
    let pool = ThreadPool::new(4);
    for _ in 0..10 {
        std::thread::sleep(Duration::from_millis(3));
        let runs = AtomicUsize::new(0);
        pool.parallel_for(8, &|_| {
            runs.fetch_add(1, Ordering::Relaxed);
        });
        assert_eq!(runs.into_inner(), 8);
    }
}

#[test]
fn slow_tasks_are_waited_for() {
    let pool = ThreadPool::new(2);
    let runs = AtomicUsize::new(0);
    pool.parallel_for(4, &|task| {
        std::thread::sleep(Duration::from_millis(5 * task as u64));
        runs.fetch_add(1, Ordering::Relaxed);
    });
    assert_eq!(runs.into_inner(), 4);
}

#[test]
fn calls_from_within_tasks_run_in_place() {
    let pool = ThreadPool::new(2);
    let runs = counters(6);
    pool.parallel_for(2, &|outer| {
        pool.parallel_for(3, &|inner| {
            runs[outer * 3 + inner].fetch_add(1, Ordering::Relaxed);
        });
    });
    assert!(runs.iter().all(|count| count.load(Ordering::Relaxed) == 1));
}

#[test]
fn calls_from_several_threads_take_turns() {
    let pool = ThreadPool::new(2);
    let runs = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                for _ in 0..500 {
                    pool.parallel_for(4, &|_| {
                        runs.fetch_add(1, Ordering::Relaxed);
                    });
                }
            });
        }
    });
    assert_eq!(runs.into_inner(), 3 * 500 * 4);
}

#[test]
fn panic_in_a_task_reaches_the_caller_and_the_pool_lives_on() {
    let pool = ThreadPool::new(2);
    for bad_task in 0..4 {
        let call = || pool.parallel_for(4, &|task| assert_ne!(task, bad_task, "bad task"));
        assert!(catch_unwind(AssertUnwindSafe(call)).is_err());
    }
    let runs = AtomicUsize::new(0);
    pool.parallel_for(4, &|_| {
        runs.fetch_add(1, Ordering::Relaxed);
    });
    assert_eq!(runs.into_inner(), 4);
}

#[test]
fn pieces_cover_the_slice_in_order() {
    let pool = ThreadPool::new(2);
    let mut data = vec![0; 103];
    pool.parallel_chunks_mut(&mut data, 10, &|index, piece| piece.fill(index));
    assert!(
        data.iter()
            .enumerate()
            .all(|(position, &index)| index == position / 10)
    );
}
