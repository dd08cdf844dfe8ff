//! The paper's verbs, one after the other, without a model: `cargo run -p folio-core --example paging`.
//!
//! A prompt and three samples that share it, a step of a beam search, a group that is swapped out and in, and the end. What
//! an executor would be told to move is printed with `→`.

#![allow(clippy::print_stdout, reason = "printing is what it is for")]

use std::error::Error;

use folio_core::ids::{Salt, Token};
use folio_core::kv::{BlockTable, Claim, Computed, Config, KvMemory, Manager};
use folio_core::plan::CacheOp;

/// Prints what is held and what was to be moved, and forgets the latter.
fn show(what: &str, memory: &Manager, tables: &[BlockTable], ops: &mut Vec<CacheOp>) {
    println!("\n{what}");
    for table in tables {
        let blocks: Vec<String> = table.blocks().iter().map(ToString::to_string).collect();
        println!("    {:2} positions in blocks {}", table.len(), blocks.join(" "));
    }
    for op in ops.drain(..) {
        match op {
            CacheOp::Copy { source, destination } => println!("  → copy {source} to {destination}"),
            CacheOp::SwapOut { source, slot } => println!("  → swap {source} out to slot {slot}"),
            CacheOp::SwapIn { slot, destination } => {
                println!("  → swap slot {slot} in to {destination}");
            }
        }
    }
    let stats = memory.stats();
    let saved = stats.held - u64::from(stats.used);
    println!("    {} of {} blocks used, {saved} saved by sharing", stats.used, stats.total);
}

fn main() -> Result<(), Box<dyn Error>> {
    let config = Config { block_size: 4, capacity: 12, prefix_caching: true, secret: 1 };
    let mut memory = Manager::new(config)?.with_swap_space(12);
    let mut ops = Vec::new();
    let tokens: Vec<Token> = (0..20).map(Token).collect();
    let claim = |prompt| Claim {
        tokens: prompt,
        salt: Salt::default(),
        use_prefix_cache: true,
        beside: 0,
        sequences: 3,
        longest: 20,
    };

    let mut first = memory.admit(&claim(&tokens[..10]), &mut ops)?;
    memory.publish(&mut first, &tokens[..10]);
    let (second, third) = (memory.fork(&first), memory.fork(&first));
    let mut samples = vec![first, second, third];
    show("A prompt of 10 tokens, and three samples of it:", &memory, &samples, &mut ops);

    for sample in &mut samples {
        memory.append(sample, 11, &mut ops)?;
    }
    show("Each writes a token; all but the last writer copy:", &memory, &samples, &mut ops);

    // The likeliest next tokens all continue the first beam: it is forked, the others are dropped.
    let forks = [memory.fork(&samples[0]), memory.fork(&samples[0])];
    for dropped in samples.splice(1.., forks) {
        memory.free(dropped);
    }
    for beam in &mut samples {
        memory.append(beam, 12, &mut ops)?;
    }
    show("A beam step in which the first beam is kept three times:", &memory, &samples, &mut ops);

    let group = samples.into_iter().map(|table| Computed { table, computed: 12 }).collect();
    let swapped = memory.swap_out(group, &mut ops).map_err(|(short, _)| short)?;
    show("The group leaves, each shared block once:", &memory, &[], &mut ops);
    let other: Vec<Token> = (100..142).map(Token).collect();
    let other = memory.admit(&claim(&other), &mut ops)?;
    memory.free(other);
    let mut beams = memory.swap_in(swapped, &mut ops).map_err(|(short, _)| short)?;
    memory.publish(&mut beams[0], &tokens[..10]);
    show("Others have come and gone; what they left is not moved back:", &memory, &beams, &mut ops);

    for beam in beams {
        memory.free(beam);
    }
    let cached = memory.match_prefix(&tokens[..10], Salt::default());
    show("The end:", &memory, &[], &mut ops);
    println!("    {cached} tokens of the prompt can still be found");
    memory.check(&mut std::iter::empty())?;
    assert_eq!(memory.stats().used, 0);
    Ok(())
}
