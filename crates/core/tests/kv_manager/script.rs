//! Random scripts of what a scheduler may do with the memory.

use proptest::prelude::*;
use proptest::sample::Index;

/// Lengths are in 64ths of a block, so that one script suits every block size.
#[derive(Clone, Debug)]
pub(crate) enum Action {
    /// One after the other, in the same step.
    Admit {
        stream: u32,
        lengths: Vec<usize>,
        last: u32,
        salt: u64,
        use_prefix_cache: bool,
        beside: u32,
    },
    Append {
        which: Index,
        length: usize,
        token: u32,
    },
    Fork {
        which: Index,
    },
    Free {
        which: Index,
    },
    Await {
        which: Index,
    },
    /// A sequence and all its forks.
    SwapOut {
        which: Index,
    },
    SwapIn {
        which: Index,
    },
    Forget {
        which: Index,
    },
    /// Not more than twice, and only under the default salt.
    Pin {
        which: Index,
    },
    /// Executes what was planned; a sequence computes `pace` quarters of what it has left to do.
    Step {
        pace: Vec<usize>,
    },
}

#[derive(Clone, Debug)]
pub(crate) struct Script {
    pub(crate) block_size: u32,
    pub(crate) capacity: u32,
    pub(crate) swap_slots: u32,
    pub(crate) prefix_caching: bool,
    pub(crate) secret: u64,
    pub(crate) actions: Vec<Action>,
}

fn action() -> impl Strategy<Value = Action> {
    let which = any::<Index>;
    let lengths = prop_oneof![
        2 => prop::collection::vec(0..=256usize, 1),
        1 => prop::collection::vec(0..=256usize, 2..5),
    ];
    let salt = prop_oneof![5 => Just(0), 1 => Just(1u64)];
    let beside = prop_oneof![5 => Just(0), 1 => 0..8u32];
    let admit = (0..2u32, lengths, 0..2u32, salt, prop::bool::weighted(0.85), beside).prop_map(
        |(stream, lengths, last, salt, use_prefix_cache, beside)| Action::Admit {
            stream,
            lengths,
            last,
            salt,
            use_prefix_cache,
            beside,
        },
    );
    let append = (which(), prop_oneof![3 => Just(0), 1 => 0..=128usize], 0..2u32)
        .prop_map(|(which, length, token)| Action::Append { which, length, token });
    let pace = prop_oneof![Just(vec![4]), prop::collection::vec(0..=4usize, 1..4)];
    prop_oneof![
        4 => admit,
        6 => append,
        2 => which().prop_map(|which| Action::Fork { which }),
        2 => which().prop_map(|which| Action::Free { which }),
        2 => which().prop_map(|which| Action::Await { which }),
        1 => which().prop_map(|which| Action::SwapOut { which }),
        2 => which().prop_map(|which| Action::SwapIn { which }),
        1 => which().prop_map(|which| Action::Forget { which }),
        1 => which().prop_map(|which| Action::Pin { which }),
        5 => pace.prop_map(|pace| Action::Step { pace }),
    ]
}

pub(crate) fn script(block_size: impl Strategy<Value = u32>) -> impl Strategy<Value = Script> {
    (
        block_size,
        1..=24u32,
        0..=12u32,
        prop::bool::weighted(0.8),
        any::<u64>(),
        prop::collection::vec(action(), 1..80),
    )
        .prop_map(|(block_size, capacity, swap_slots, prefix_caching, secret, actions)| {
            Script { block_size, capacity, swap_slots, prefix_caching, secret, actions }
        })
}
