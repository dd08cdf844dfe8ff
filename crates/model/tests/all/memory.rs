//! The memory plan: its numbers add up, and every remedy it offers works.

use folio_model::{
    Checkpoint, Dtype, KvDtype, MemoryPlan, MemoryRequest, Progress, Quantization, SwapRequest,
};

use crate::driver::{Driver, Job, Setup, cpu_runner, open, request};
use crate::golden::{ZOO, zoo};

fn roomy() -> MemoryRequest<'static> {
    MemoryRequest {
        block_size: Some(16),
        max_num_seqs: 8,
        max_num_batched_tokens: 256,
        ..request(&Setup::default())
    }
}

fn llama() -> Checkpoint {
    open(&zoo("llama3-ropescaled"))
}

#[test]
fn the_default_holds_every_sequence_at_full_context() {
    let plan = MemoryPlan::compute(&llama(), &roomy()).unwrap();
    // 3 layers, keys and values, 2 heads of 16 channels, 4 bytes.
    assert_eq!(plan.kv_bytes_per_token, 3 * 2 * 2 * 16 * 4);
    assert!(plan.kv_bytes_per_block >= 16 * plan.kv_bytes_per_token);
    assert_eq!((plan.block_size, plan.max_model_len), (16, 512));
    assert_eq!(plan.blocks, 8 * 512 / 16);
    assert_eq!(plan.tokens(), 8 * 512);
    assert_eq!(plan.full_context_sequences(), 8);
    assert_eq!(plan.kv_bytes(), 256 * plan.kv_bytes_per_block);
    assert_eq!(plan.total_bytes(), plan.fixed_bytes() + plan.kv_bytes());
}

#[test]
fn keys_and_values_follow_the_weights_unless_told() {
    let checkpoint = llama();
    let roomy = || MemoryRequest { block_size: None, ..roomy() };
    let plan = MemoryPlan::compute(&checkpoint, &roomy()).unwrap();
    assert_eq!((plan.kv_dtype, plan.block_size), (KvDtype::F32, 32));
    let half = MemoryRequest { dtype: Some(Dtype::Bf16), ..roomy() };
    let plan = MemoryPlan::compute(&checkpoint, &half).unwrap();
    assert_eq!((plan.kv_dtype, plan.block_size), (KvDtype::Bf16, 32));
    let mixed = MemoryRequest { kv_dtype: Some(KvDtype::F16), block_size: Some(7), ..roomy() };
    let plan = MemoryPlan::compute(&checkpoint, &mixed).unwrap();
    assert_eq!((plan.dtype, plan.kv_dtype, plan.block_size), (Dtype::F32, KvDtype::F16, 7));
    assert_eq!(plan.blocks_of_full_context(), 512_usize.div_ceil(7));
    let small = MemoryRequest { kv_dtype: Some(KvDtype::Int8), ..roomy() };
    let plan = MemoryPlan::compute(&checkpoint, &small).unwrap();
    assert_eq!((plan.dtype, plan.kv_dtype, plan.block_size), (Dtype::F32, KvDtype::Int8, 128));
    // 3 layers, keys and values, 2 heads of 16 channels and a scale.
    assert_eq!(plan.kv_bytes_per_token, 3 * 2 * 2 * (16 + 4));
    assert_eq!(plan.kv_bytes_per_block, 128 * plan.kv_bytes_per_token);
    assert_eq!((plan.blocks, plan.tokens()), (8 * 512 / 128, 8 * 512));
}

#[test]
fn a_given_size_is_taken_and_a_small_machine_gets_less() {
    let checkpoint = llama();
    let block = MemoryPlan::compute(&checkpoint, &roomy()).unwrap().kv_bytes_per_block;
    let given = MemoryRequest { kv_cache_memory_bytes: Some(40 * block + block - 1), ..roomy() };
    assert_eq!(MemoryPlan::compute(&checkpoint, &given).unwrap().blocks, 40);
    let fixed = MemoryPlan::compute(&checkpoint, &roomy()).unwrap().fixed_bytes();
    let tight = MemoryRequest { available_bytes: fixed + 100 * block, ..roomy() };
    let plan = MemoryPlan::compute(&checkpoint, &tight).unwrap();
    assert!((75..=80).contains(&plan.blocks), "{}", plan.blocks);
    // One full context gets more than the usual share when it must.
    let tighter = MemoryRequest { available_bytes: fixed + 33 * block, ..roomy() };
    assert_eq!(MemoryPlan::compute(&checkpoint, &tighter).unwrap().blocks, 32);
}

/// The request with one remedy applied.
fn apply<'a>(remedy: &str, request: &MemoryRequest<'a>) -> MemoryRequest<'a> {
    let (flag, value) = remedy.split_once(' ').unwrap();
    let number = || value.parse::<usize>().unwrap();
    let mut changed = *request;
    match flag {
        "--max-model-len" => changed.max_model_len = Some(number()),
        "--max-num-batched-tokens" => changed.max_num_batched_tokens = number(),
        "--max-num-seqs" => changed.max_num_seqs = number(),
        "--block-size" => changed.block_size = Some(number()),
        "--threads" => changed.threads = number(),
        "--kv-cache-memory-bytes" => changed.kv_cache_memory_bytes = value.parse().ok(),
        "--dtype" => changed.dtype = Some(Dtype::Bf16),
        "--quantization" => changed.quantization = Some(Quantization::Int8),
        "--swap-space" => {
            let mib: u64 = value.strip_suffix("MiB").unwrap().parse().unwrap();
            changed.swap = changed.swap.map(|swap| SwapRequest { bytes: Some(mib << 20), ..swap });
        }
        "no" => changed.swap = None,
        _ => panic!("{remedy}"),
    }
    changed
}

/// What the refusal offers; each remedy is tried.
fn remedies(checkpoint: &Checkpoint, request: &MemoryRequest<'_>) -> Vec<String> {
    let refusal = MemoryPlan::compute(checkpoint, request).unwrap_err();
    println!("{refusal}");
    for remedy in &refusal.remedies {
        let plan = MemoryPlan::compute(checkpoint, &apply(remedy, request));
        let plan = plan.unwrap_or_else(|e| panic!("{remedy} does not help: {e}"));
        assert!(plan.total_bytes() <= request.available_bytes);
        assert!(plan.full_context_sequences() >= 1);
    }
    refusal.remedies
}

fn flags(remedies: &[String]) -> Vec<&str> {
    remedies.iter().map(|r| r.split(' ').next().unwrap()).collect()
}

#[test]
fn a_cache_too_small_for_one_sequence_is_refused_with_what_would_do() {
    let checkpoint = llama();
    let block = MemoryPlan::compute(&checkpoint, &roomy()).unwrap().kv_bytes_per_block;
    let small = MemoryRequest { kv_cache_memory_bytes: Some(5 * block), ..roomy() };
    let offered = remedies(&checkpoint, &small);
    let enough = format!("--kv-cache-memory-bytes {}", 32 * block);
    assert!(
        offered.contains(&enough) && offered.contains(&"--max-model-len 80".to_owned()),
        "{offered:?}"
    );
    let none = MemoryRequest { kv_cache_memory_bytes: Some(1), ..roomy() };
    let offered = remedies(&checkpoint, &none);
    assert_eq!(flags(&offered), ["--kv-cache-memory-bytes"]);
}

#[test]
fn a_cache_too_large_for_the_machine_is_refused_with_what_would_do() {
    let large = MemoryRequest { kv_cache_memory_bytes: Some(1 << 40), ..roomy() };
    let offered = remedies(&llama(), &large);
    assert_eq!(flags(&offered), ["--kv-cache-memory-bytes"]);
}

#[test]
fn a_machine_too_small_is_told_every_flag_that_helps() {
    let checkpoint = llama();
    let plan = MemoryPlan::compute(&checkpoint, &roomy()).unwrap();
    let context = 32 * plan.kv_bytes_per_block;
    let short = MemoryRequest { available_bytes: plan.fixed_bytes() + context - 1, ..roomy() };
    let offered = remedies(&checkpoint, &short);
    assert_eq!(
        flags(&offered),
        ["--max-model-len", "--max-num-batched-tokens", "--dtype", "--quantization"]
    );
    // Nothing helps where not even the weights fit.
    let hopeless = MemoryRequest { available_bytes: plan.weight_bytes / 3, ..roomy() };
    let refusal = MemoryPlan::compute(&checkpoint, &hopeless).unwrap_err();
    assert!(refusal.remedies.is_empty());
    assert!(refusal.to_string().contains("no single flag helps"), "{refusal}");
}

#[test]
fn values_out_of_range_are_refused_by_flag() {
    let checkpoint = llama();
    let requests = [
        MemoryRequest { block_size: Some(0), ..roomy() },
        MemoryRequest { block_size: Some(257), ..roomy() },
        MemoryRequest { max_num_seqs: 0, ..roomy() },
        MemoryRequest { max_num_batched_tokens: usize::MAX, ..roomy() },
        MemoryRequest { threads: 0, ..roomy() },
        MemoryRequest { max_model_len: Some(0), ..roomy() },
    ];
    let flags = [
        "--block-size",
        "--block-size",
        "--max-num-seqs",
        "--max-num-batched-tokens",
        "--threads",
        "--max-model-len",
    ];
    for (request, flag) in requests.iter().zip(flags) {
        let refusal = MemoryPlan::compute(&checkpoint, request).unwrap_err();
        assert!(refusal.problem.starts_with(flag), "{refusal}");
    }
    let long = MemoryRequest { max_model_len: Some(513), ..roomy() };
    assert_eq!(remedies(&checkpoint, &long), ["--max-model-len 512"]);
}

#[test]
fn a_swap_space_in_memory_is_planned_and_one_on_disk_takes_its_staging() {
    let checkpoint = llama();
    let without = MemoryPlan::compute(&checkpoint, &roomy()).unwrap();
    let block = without.kv_bytes_per_block;
    let with = |bytes, on_disk| {
        let swap = Some(SwapRequest { bytes, on_disk });
        MemoryPlan::compute(&checkpoint, &MemoryRequest { swap, ..roomy() })
    };
    let host = with(Some(10 * block + block - 1), false).unwrap();
    assert_eq!((host.swap_slots, host.swap_bytes), (10, 10 * block));
    assert_eq!(host.total_bytes(), without.total_bytes() + 10 * block);
    // Slots of a file are whole pages.
    let page = block.next_multiple_of(4096);
    let disk = with(Some(7 * page), true).unwrap();
    assert_eq!((disk.swap_slots, disk.swap_bytes), (7, 7 * page));
    assert_eq!(disk.total_bytes(), without.total_bytes() + 36 * page);
    let default = with(None, true).unwrap();
    assert_eq!((default.swap_slots, default.blocks), (without.blocks, without.blocks));
    let refusal = with(Some(block - 1), false).unwrap_err();
    assert_eq!(refusal.remedies, ["--swap-space 1MiB"]);
}

#[test]
fn a_swap_space_too_large_for_the_machine_is_told_what_would_do() {
    let checkpoint = llama();
    let fixed = MemoryPlan::compute(&checkpoint, &roomy()).unwrap().total_bytes();
    let swap = Some(SwapRequest { bytes: Some(1 << 30), on_disk: false });
    let large = MemoryRequest { swap, available_bytes: fixed + (10 << 20), ..roomy() };
    let offered = remedies(&checkpoint, &large);
    assert_eq!(flags(&offered), ["--swap-space"]);
    let short = MemoryRequest { swap, available_bytes: fixed, ..roomy() };
    assert!(flags(&remedies(&checkpoint, &short)).iter().any(|flag| flag.ends_with("swap-space")));
}

#[test]
fn pinned_prefixes_leave_room_for_one_full_context() {
    let checkpoint = llama();
    let without = MemoryPlan::compute(&checkpoint, &roomy()).unwrap();
    // 6 full blocks of 16, and 2.
    let pinned = MemoryRequest { pinned_prefixes: &[100, 47], ..roomy() };
    let plan = MemoryPlan::compute(&checkpoint, &pinned).unwrap();
    assert_eq!((plan.pinned_blocks, plan.blocks), (8, without.blocks + 8));
    assert_eq!(plan.full_context_sequences(), without.full_context_sequences());
    let block = plan.kv_bytes_per_block;
    let tight = MemoryRequest { kv_cache_memory_bytes: Some(39 * block), ..pinned };
    let offered = remedies(&checkpoint, &tight);
    assert!(offered.contains(&format!("--kv-cache-memory-bytes {}", 40 * block)), "{offered:?}");
    let refusal = MemoryPlan::compute(&checkpoint, &tight).unwrap_err();
    assert!(refusal.problem.contains("beside 8 blocks of pinned prefixes"), "{refusal}");
    let enough = MemoryRequest { kv_cache_memory_bytes: Some(40 * block), ..pinned };
    assert_eq!(MemoryPlan::compute(&checkpoint, &enough).unwrap().full_context_sequences(), 1);
    let long = MemoryRequest { pinned_prefixes: &[100, 512], ..roomy() };
    let refusal = MemoryPlan::compute(&checkpoint, &long).unwrap_err();
    assert!(refusal.problem.starts_with("a --pin-prefix of 512 tokens"), "{refusal}");
}

#[test]
fn loading_reports_the_bytes_that_were_planned() {
    for family in ZOO {
        let checkpoint = open(&zoo(family));
        for dtype in [Dtype::F32, Dtype::Bf16] {
            let asked = MemoryRequest { dtype: Some(dtype), ..roomy() };
            let plan = MemoryPlan::compute(&checkpoint, &asked).unwrap();
            let mut seen: Vec<Progress> = Vec::new();
            let options = folio_model::LoadOptions {
                isa: folio_model::Isa::detect(),
                swap: None,
                profile: None,
            };
            folio_model::load(&checkpoint, &plan, options, &mut |p| seen.push(p)).unwrap();
            assert!(seen.is_sorted_by_key(|p| p.done));
            let last = seen.last().unwrap();
            assert_eq!((last.done, last.total), (plan.weight_bytes, plan.weight_bytes));
        }
    }
}

#[test]
fn the_work_space_stays_inside_its_bound() {
    for family in ["llama3-ropescaled", "gemma2", "gpt2"] {
        for (threads, chunk, together) in [(1, usize::MAX, 1), (2, usize::MAX, 1), (2, 30, 8)] {
            let setup = Setup { threads, chunk, together, ..Setup::default() };
            let (mut runner, plan) = cpu_runner(&open(&zoo(family)), &setup);
            let prompt: Vec<u32> = (0..450).map(|i| (i * 13 + 1) % 512).collect();
            let jobs = vec![Job::greedy(&prompt, 20); 2];
            Driver::new(&mut runner, &plan, 5).run(&jobs, &setup);
            let used = u64::try_from(runner.backend().workspace_bytes()).unwrap();
            assert!(used > 0 && used <= plan.workspace_bytes, "{used} of {}", plan.workspace_bytes);
        }
    }
}

#[test]
fn embedded_files_serve_like_a_folder() {
    let leak = |name: &str| -> &'static [u8] {
        Box::leak(std::fs::read(zoo("qwen2").join(name)).unwrap().into_boxed_slice())
    };
    let files: Vec<(&'static str, &'static [u8])> =
        ["config.json", "generation_config.json", "model.safetensors", "tokenizer.json"]
            .map(|name| (name, leak(name)))
            .to_vec();
    let source = folio_model::ModelSource::Embedded { name: "demo", files: files.leak() };
    let embedded = Checkpoint::open(&source).unwrap();
    let folder = open(&zoo("qwen2"));
    assert_eq!(embedded.name(), "demo");
    assert_eq!((embedded.spec(), embedded.eos()), (folder.spec(), folder.eos()));
    assert_eq!(
        embedded.read_file("tokenizer.json").unwrap(),
        folder.read_file("tokenizer.json").unwrap()
    );
    assert_eq!(embedded.read_file("absent.json").unwrap(), None);
    let (mut a, plan) = cpu_runner(&embedded, &Setup::default());
    let (mut b, _) = cpu_runner(&folder, &Setup::default());
    let jobs = [Job::greedy(&[4, 8, 15, 16], 5)];
    let run = |runner: &mut dyn folio_core::exec::Executor| {
        Driver::new(runner, &plan, 5).run(&jobs, &Setup::default())
    };
    assert_eq!(run(&mut a), run(&mut b));
}
