//! A profiled executor computes what any other computes, and what it does is timed.

use folio_model::profile::{Operation, Profile, Profiled};
use folio_model::{Cpu, Isa, Runner};

use crate::driver::{Driver, Job, Setup, cpu_runner, open};
use crate::golden::zoo;

#[test]
fn a_profiled_executor_gives_the_same_and_times_every_operation() {
    let setup = Setup::default();
    let checkpoint = open(&zoo("gemma2"));
    let (mut plain, plan) = cpu_runner(&checkpoint, &setup);
    let profile = Profile::default();
    let cpu = Cpu::new(setup.threads, Isa::detect()).unwrap();
    let timed = Profiled::new(cpu, profile.clone());
    let mut timed = Runner::load(timed, &checkpoint, &plan, &mut |_| {}).unwrap();
    assert!(profile.take().iter().all(std::time::Duration::is_zero), "loading is no step");

    let jobs = [Job::greedy(&[1, 2, 3, 4, 5], 4)];
    let outcomes = Driver::new(&mut timed, &plan, 1).run(&jobs, &setup);
    assert_eq!(outcomes, Driver::new(&mut plain, &plan, 1).run(&jobs, &setup));
    let times = profile.take();
    for operation in Operation::ALL {
        // No block was copied or swapped.
        let used = operation != Operation::Blocks;
        assert_eq!(!times[operation as usize].is_zero(), used, "{operation:?}");
    }
    assert!(profile.take().iter().all(std::time::Duration::is_zero), "taken is taken");
}
