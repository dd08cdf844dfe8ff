//! The thread team: everybody runs, nobody is lost, panics arrive.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};

use folio_kernels::Team;

#[test]
fn every_thread_runs_every_job_once() {
    for threads in [1, 2, 3, 5] {
        let team = Team::new(threads).unwrap();
        assert_eq!(team.threads(), threads);
        let counts: Vec<AtomicUsize> = (0..threads).map(|_| AtomicUsize::new(0)).collect();
        for round in 1..=500 {
            team.run(|thread| {
                counts[thread].fetch_add(1, Ordering::Relaxed);
            });
            assert!(counts.iter().all(|c| c.load(Ordering::Relaxed) == round));
        }
    }
}

#[test]
fn every_task_is_done_once_by_some_thread() {
    let team = Team::new(3).unwrap();
    for tasks in [0, 1, 2, 3, 100] {
        let counts: Vec<AtomicUsize> = (0..tasks).map(|_| AtomicUsize::new(0)).collect();
        team.for_each(tasks, |thread, task| {
            assert!(thread < 3);
            counts[task].fetch_add(1, Ordering::Relaxed);
        });
        assert!(counts.iter().all(|c| c.load(Ordering::Relaxed) == 1));
        team.for_each_in_runs(tasks, |thread, task| {
            assert!(thread < 3);
            counts[task].fetch_add(1, Ordering::Relaxed);
        });
        assert!(counts.iter().all(|c| c.load(Ordering::Relaxed) == 2));
    }
}

#[test]
fn workers_that_sleep_are_woken() {
    // Spinning ends after some ten microseconds; waiting for the workers to use no time at all makes sure that it has.
    let team = Team::new(3).unwrap();
    let ran = AtomicUsize::new(0);
    for _ in 0..20 {
        let begun = std::time::Instant::now();
        while begun.elapsed().as_micros() < 500 {
            std::thread::yield_now();
        }
        team.run(|_| {
            ran.fetch_add(1, Ordering::Relaxed);
        });
    }
    assert_eq!(ran.into_inner(), 60);
}

#[test]
fn a_panic_arrives_and_the_team_goes_on() {
    let team = Team::new(3).unwrap();
    for round in 0..50 {
        let who = round % 4;
        let finished = AtomicUsize::new(0);
        let result = catch_unwind(AssertUnwindSafe(|| {
            team.run(|thread| {
                assert!(thread != who, "thread {thread} gives up");
                finished.fetch_add(1, Ordering::Relaxed);
            });
        }));
        if who < 3 {
            let payload = result.expect_err("the panic arrives");
            assert_eq!(payload.downcast_ref::<String>(), Some(&format!("thread {who} gives up")));
            assert_eq!(finished.into_inner(), 2, "the others finish");
        } else {
            assert!(result.is_ok(), "no old panic is left behind");
        }
    }
}

#[test]
fn a_job_that_runs_its_own_team_is_refused() {
    thread_local! {
        static TEAM: Team = Team::new(1).unwrap();
    }
    let nested =
        catch_unwind(|| TEAM.with(|team| team.run(|_| TEAM.with(|team| team.run(|_| ())))));
    assert!(nested.is_err());
    TEAM.with(|team| team.run(|_| ()));
}

#[test]
fn results_of_a_region_are_seen_after_it() {
    let team = Team::new(3).unwrap();
    let mut sums = vec![0usize; 3];
    for round in 0..2000 {
        let parts: Vec<std::sync::Mutex<&mut usize>> =
            sums.iter_mut().map(std::sync::Mutex::new).collect();
        team.run(|thread| **parts[thread].lock().unwrap() += round);
    }
    assert_eq!(sums, [1999 * 1000; 3]);
}

#[test]
fn an_engine_may_be_built_on_one_thread_and_run_on_another() {
    fn send<T: Send>() {}
    fn shared<T: Send + Sync>() {}
    send::<folio_kernels::Context>();
    shared::<folio_kernels::PackedMatrix>();
    shared::<folio_kernels::KvCache>();
    shared::<folio_kernels::MappedFile>();
}
