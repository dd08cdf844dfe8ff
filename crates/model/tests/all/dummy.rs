//! Models of which only the configuration is there, with weights that are made up.

use folio_model::{Checkpoint, MemoryPlan, ModelSource, Outline};
use serde_json::json;

use crate::driver::{Driver, Job, Setup, cpu_runner, request};
use crate::folder::{TempFolder, Tiny};

fn dummy(config: &[u8], others: &TempFolder) -> Checkpoint {
    let source = ModelSource::Dummy {
        name: "shape".to_owned(),
        config: config.to_vec(),
        others: Box::new(others.source()),
    };
    Checkpoint::open(&source).unwrap()
}

#[test]
fn a_shape_runs_as_what_it_is_the_shape_of() {
    for dtype in ["float32", "float16", "bfloat16"] {
        let others = TempFolder::new();
        others.write("tokenizer.json", "{}");
        let mut tiny = Tiny::new();
        tiny.config["torch_dtype"] = json!(dtype);
        let config = tiny.config.to_string().into_bytes();
        let checkpoint = dummy(&config, &others);
        assert_eq!(
            (checkpoint.name().as_str(), checkpoint.stored_dtype().name()),
            ("shape", dtype)
        );
        assert_eq!(checkpoint.read_file("tokenizer.json").unwrap().unwrap(), b"{}");
        let setup = Setup::default();
        let (mut runner, plan) = cpu_runner(&checkpoint, &setup);
        let outline = Outline::of_config(&config).unwrap();
        let expected = MemoryPlan::for_outline(&outline, &request(&setup)).unwrap();
        assert_eq!(plan.total_bytes(), expected.total_bytes());
        let jobs = [Job::greedy(&[1, 2, 3], 4)];
        let outcomes = Driver::new(&mut runner, &plan, 1).run(&jobs, &setup);
        let scores = &outcomes[0].prompt_scores;
        assert_eq!(outcomes[0].drawn.len(), 4);
        assert!(scores.iter().all(|score| score.logprob.is_finite() && score.logprob < 0.0));
        // The same tomorrow, and each token has its own embedding.
        let (mut again, plan) = cpu_runner(&dummy(&config, &others), &setup);
        assert_eq!(Driver::new(&mut again, &plan, 1).run(&jobs, &setup), outcomes);
        assert!(scores[0].logprob != scores[1].logprob);
    }
}
