//! What people and machines send by mistake or on purpose: each gets an answer that names the field, and a stream that
//! runs at the same time does not notice.

mod common;

use common::http::{Answer, Listening, post, post_text};
use common::{MAX_MODEL_LEN, MOST_BYTES, Server, Setup, VOCAB};
use serde_json::{Value, json};

const CHAT: &str = "/v1/chat/completions";
const COMPLETE: &str = "/v1/completions";

/// The path of a field in dots and indices, as in a pointer to what is wrong: `param` must be this.
type Case = (Value, &'static str, &'static str);

/// (fields that are added to a good request, `param` of the refusal, words of its message); for both endpoints.
fn sampling_cases() -> Vec<Case> {
    vec![
        (json!({"n": 0}), "n", "from 1 to"),
        (json!({"n": -1}), "n", "from 1 to"),
        (json!({"n": 1_000_000_000}), "n", "from 1 to"),
        (json!({"n": i64::MAX}), "n", "from 1 to"),
        (json!({"n": u64::MAX}), "n", "at most"),
        (json!({"n": 1.5}), "n", "an integer"),
        (json!({"n": "two"}), "n", "an integer"),
        (json!({"n": [1]}), "n", "an integer"),
        (json!({"n": 17}), "n", "max-num-seqs"),
        (json!({"temperature": -0.5}), "temperature", "from 0"),
        (json!({"temperature": 1e30}), "temperature", "from 0"),
        (json!({"temperature": "hot"}), "temperature", "a number"),
        (json!({"top_p": 0}), "top_p", "above 0"),
        (json!({"top_p": 1.01}), "top_p", "from 0 to 1"),
        (json!({"top_k": -2}), "top_k", "from 0"),
        (json!({"min_p": 2}), "min_p", "from 0 to 1"),
        (json!({"seed": 1e300}), "seed", "an integer"),
        (json!({"presence_penalty": 2.5}), "presence_penalty", "from -2 to 2"),
        (json!({"frequency_penalty": -3}), "frequency_penalty", "from -2 to 2"),
        (json!({"repetition_penalty": 0}), "repetition_penalty", "above 0"),
        (json!({"logit_bias": {"-1": 1}}), "logit_bias", "does not exist"),
        (json!({"logit_bias": {"261": 1}}), "logit_bias", "does not exist"),
        (json!({"logit_bias": {"x": 1}}), "logit_bias", "not a token id"),
        (json!({"logit_bias": {"1": 101}}), "logit_bias", "from -100 to 100"),
        (json!({"logit_bias": [1]}), "logit_bias", "an object"),
    ]
}

/// How choices come about.
fn decoding_cases() -> Vec<Case> {
    let beams = |more: Value| with(&json!({"use_beam_search": true}), &more);
    vec![
        (json!({"n": 2, "best_of": 1}), "best_of", "at least n"),
        (json!({"best_of": 0}), "best_of", "from 1 to 128"),
        (json!({"best_of": 129}), "best_of", "from 1 to 128"),
        (json!({"best_of": 17}), "best_of", "max-num-seqs"),
        (json!({"best_of": "all"}), "best_of", "an integer"),
        (json!({"use_beam_search": 1}), "use_beam_search", "a boolean"),
        (json!({"beam_width": 4}), "beam_width", "use_beam_search"),
        (json!({"length_penalty": 2}), "length_penalty", "use_beam_search"),
        (json!({"early_stopping": true}), "early_stopping", "use_beam_search"),
        (beams(json!({"beam_width": 0})), "beam_width", "from 1 to 128"),
        (beams(json!({"beam_width": 100_000})), "beam_width", "from 1 to 128"),
        (beams(json!({"beam_width": 17})), "beam_width", "max-num-seqs"),
        (beams(json!({"beam_width": 2.5})), "beam_width", "an integer"),
        (beams(json!({"beam_width": 2, "n": 3})), "beam_width", "at least n"),
        (beams(json!({"beam_width": 2, "best_of": 3})), "best_of", "another name"),
        (beams(json!({"length_penalty": "x"})), "length_penalty", "a number"),
        (beams(json!({"length_penalty": 1e300})), "length_penalty", "from -10 to 10"),
        (beams(json!({"early_stopping": "sometimes"})), "early_stopping", "\"never\""),
        (beams(json!({"early_stopping": "x".repeat(1 << 20)})), "early_stopping", "\"never\""),
        (beams(json!({"early_stopping": 1})), "early_stopping", "\"never\""),
        (beams(json!({"temperature": 0.5})), "temperature", "use_beam_search"),
        (beams(json!({"top_p": 0.9})), "top_p", "use_beam_search"),
        (beams(json!({"logit_bias": {"1": 1}})), "logit_bias", "use_beam_search"),
    ]
}

/// What may be drawn, and how it is told.
fn extra_cases() -> Vec<Case> {
    let beams = |more: Value| with(&json!({"use_beam_search": true}), &more);
    vec![
        (json!({"min_tokens": -1}), "min_tokens", "from 0"),
        (json!({"min_tokens": 9, "max_tokens": 8}), "min_tokens", "at most max_tokens"),
        (
            json!({"min_tokens": 1, "n": 1, "best_of": 2, "stop": "x"}),
            "min_tokens",
            "cannot be combined with `stop`",
        ),
        (json!({"allowed_token_ids": []}), "allowed_token_ids", "empty"),
        (json!({"allowed_token_ids": [VOCAB]}), "allowed_token_ids", "does not exist"),
        (json!({"allowed_token_ids": [-1]}), "allowed_token_ids[0]", "a token id"),
        (json!({"allowed_token_ids": [260], "min_tokens": 1}), "allowed_token_ids", "no token"),
        (json!({"bad_words": [""]}), "bad_words[0]", "from 1 to 256 bytes"),
        (json!({"bad_words": ["  "]}), "bad_words[0]", "not all spaces"),
        (json!({"bad_words": ["x".repeat(257)]}), "bad_words[0]", "from 1 to 256 bytes"),
        (json!({"bad_words": vec!["x"; 129]}), "bad_words", "at most 128"),
        (json!({"bad_words": vec!["x".repeat(200); 6]}), "bad_words", "1024 tokens"),
        (json!({"bad_words": "x"}), "bad_words", "a list"),
        (beams(json!({"bad_words": ["x"]})), "bad_words", "use_beam_search"),
        (beams(json!({"min_tokens": 2})), "min_tokens", "use_beam_search"),
        (beams(json!({"allowed_token_ids": [1]})), "allowed_token_ids", "use_beam_search"),
        (json!({"truncate_prompt_tokens": 0}), "truncate_prompt_tokens", "must be -1 or from 1"),
        (json!({"truncate_prompt_tokens": -2}), "truncate_prompt_tokens", "must be -1 or from 1"),
        (json!({"prompt_logprobs": 21}), "prompt_logprobs", "from 0 to 20"),
        (json!({"prompt_logprobs": -1}), "prompt_logprobs", "from 0 to 20"),
        (
            json!({"spaces_between_special_tokens": false, "skip_special_tokens": false}),
            "spaces_between_special_tokens",
            "as the tokenizer says",
        ),
        (json!({"return_token_ids": 1}), "return_token_ids", "a boolean"),
        (
            json!({"stream": true, "stream_options": {"continuous_usage_stats": 1}}),
            "stream_options.continuous_usage_stats",
            "a boolean",
        ),
    ]
}

/// Where texts end and how they travel; names that are no fields.
fn delivery_cases() -> Vec<Case> {
    vec![
        (json!({"stop": ""}), "stop", "empty string"),
        (json!({"stop": ["a", ""]}), "stop", "empty string"),
        (json!({"stop": vec!["x"; 17]}), "stop", "at most 16"),
        (json!({"stop": "x".repeat(1 << 20)}), "stop", "at most 1024"),
        (json!({"stop": ["a", 1]}), "stop[1]", "a string"),
        (json!({"stop_token_ids": [VOCAB]}), "stop_token_ids", "does not exist"),
        (json!({"stop_token_ids": [-1]}), "stop_token_ids", "does not exist"),
        (json!({"stop_token_ids": vec![1; 100_000]}), "stop_token_ids", "more than"),
        (json!({"ignore_eos": "no"}), "ignore_eos", "a boolean"),
        (json!({"max_tokens": 0}), "max_tokens", "from 1"),
        (json!({"max_tokens": -1}), "max_tokens", "from 1"),
        (json!({"max_tokens": i64::MAX}), "max_tokens", "from 1"),
        (json!({"max_tokens": MAX_MODEL_LEN}), "max_tokens", "the context is"),
        (json!({"stream": "yes"}), "stream", "a boolean"),
        (json!({"stream_options": {"include_usage": true}}), "stream_options", "`stream` is true"),
        (
            json!({"stream": true, "stream_options": {"usage": true}}),
            "stream_options.usage",
            "unknown",
        ),
        (json!({"cache_salt": ""}), "cache_salt", "from 1 to 1024"),
        (json!({"model": 1}), "model", "a string"),
        (json!({"temprature": 1}), "temprature", "did you mean `temperature`?"),
        (json!({"zebra": 1}), "zebra", "unknown field"),
        (json!({"x".repeat(100_000): 1}), "x", "unknown field"),
    ]
}

/// Known elsewhere, not served here.
fn unserved_cases() -> Vec<Case> {
    vec![
        (json!({"guided_regex": "(a+)+b"}), "guided_regex", "`structured_outputs.regex`"),
        (json!({"guided_json": {}}), "guided_json", "`structured_outputs.json`"),
        (json!({"priority": -1}), "priority", "order of arrival"),
        (json!({"logits_processors": ["os.system"]}), "logits_processors", "never run"),
        (json!({"store": true}), "store", "not stored"),
        (json!({"service_tier": "flex"}), "service_tier", "one tier"),
    ]
}

fn completion_cases() -> Vec<Case> {
    vec![
        (json!({"prompt": null}), "prompt", "missing"),
        (json!({"prompt": ""}), "prompt", "empty"),
        (json!({"prompt": []}), "prompt", "empty"),
        (json!({"prompt": [[]]}), "prompt", "empty"),
        (json!({"prompt": ["a", ""]}), "prompt[1]", "empty"),
        (json!({"prompt": [1, VOCAB]}), "prompt", "from 0 to 260"),
        (json!({"prompt": [[1], [1, 4_000_000_000_u64]]}), "prompt[1]", "4000000000"),
        (json!({"prompt": [1, 1_u64 << 32]}), "prompt[1]", "token id"),
        (json!({"prompt": [1, -5]}), "prompt[1]", "token id"),
        (json!({"prompt": [1, 2.5]}), "prompt[1]", "token id"),
        (json!({"prompt": [1, "a"]}), "prompt", "mixes"),
        (json!({"prompt": ["a", 1]}), "prompt", "mixes"),
        (json!({"prompt": {"text": "x"}}), "prompt", "a string"),
        (json!({"prompt": vec!["x"; 5_000]}), "prompt", "at most 1024"),
        (json!({"prompt": vec!["x"; 1_000], "n": 16}), "n", "at most 1024"),
        (json!({"prompt": vec!["x"; 100]}), "prompt", "at most 64 requests"),
        (json!({"prompt": vec![1; 256]}), "prompt", "the context is 256"),
        (json!({"prompt": "x".repeat(300)}), "prompt", "the context is 256"),
        (json!({"prompt": "x".repeat(MOST_BYTES + 1)}), "prompt", "the context is 256"),
        (json!({"prompt": vec![1; 250]}), "max_tokens", "lower max_tokens to 6"),
        (json!({"logprobs": -1}), "logprobs", "from 0 to 20"),
        (json!({"logprobs": 260}), "logprobs", "from 0 to 20"),
        (json!({"logprobs": true}), "logprobs", "an integer"),
        (json!({"echo": 1}), "echo", "a boolean"),
        (json!({"suffix": "x"}), "suffix", "appended"),
        (json!({"messages": []}), "messages", "unknown"),
        (json!({"prompt_embeds": "AAAA"}), "prompt_embeds", "token ids"),
    ]
}

fn message_cases() -> Vec<Case> {
    let say = |message: Value| json!({"messages": [message]});
    vec![
        (json!({"messages": null}), "messages", "at least one"),
        (json!({"messages": []}), "messages", "at least one"),
        (json!({"messages": "Hi"}), "messages", "a list"),
        (json!({"messages": ["Hi"]}), "messages[0]", "an object"),
        (
            json!({"messages": vec![json!({"role": "user", "content": ""}); 100_000]}),
            "messages",
            "more than",
        ),
        (say(json!({"content": "Hi"})), "messages[0].role", "missing"),
        (say(json!({"role": "wizard", "content": "Hi"})), "messages[0].role", "must be one of"),
        (say(json!({"role": "function", "content": "Hi"})), "messages[0].role", "must be one of"),
        (say(json!({"role": "user"})), "messages[0].content", "missing"),
        (say(json!({"role": "user", "content": null})), "messages[0].content", "missing"),
        (say(json!({"role": "user", "content": 5})), "messages[0].content", "a string or a list"),
        (say(json!({"role": "user", "content": ["Hi"]})), "messages[0].content[0]", "an object"),
        (
            say(json!({"role": "user", "content": [{"type": "text", "text": "a"},
                       {"type": "image_url", "image_url": {"url": "http://169.254.169.254/"}}]})),
            "messages[0].content[1].type",
            "only parts of type `text`",
        ),
        (
            say(json!({"role": "user", "content": [{"type": "text"}]})),
            "messages[0].content[0].text",
            "missing",
        ),
        (
            say(
                json!({"role": "user", "content": [{"type": "text", "text": "a", "cache_control": {}}]}),
            ),
            "messages[0].content[0].cache_control",
            "unknown",
        ),
        (say(json!({"role": "user", "content": "Hi", "mood": 1})), "messages[0].mood", "unknown"),
        (
            say(json!({"role": "assistant", "tool_calls": [{"type": "function"}]})),
            "messages[0].tool_calls[0].function",
            "missing",
        ),
    ]
}

fn chat_cases() -> Vec<Case> {
    let say = |message: Value| json!({"messages": [message]});
    vec![
        (
            json!({"max_tokens": 5, "max_completion_tokens": 6}),
            "max_completion_tokens",
            "send one of them",
        ),
        (json!({"max_completion_tokens": 0}), "max_completion_tokens", "from 1"),
        (json!({"max_completion_tokens": 255}), "max_completion_tokens", "the context is"),
        (
            say(json!({"role": "user", "content": "x".repeat(300)})),
            "messages",
            "the context is 256",
        ),
        (
            say(json!({"role": "user", "content": "x".repeat(MOST_BYTES)})),
            "messages",
            "shorten the conversation",
        ),
        (json!({"top_logprobs": 3}), "top_logprobs", "`logprobs` is true"),
        (json!({"logprobs": true, "top_logprobs": 21}), "top_logprobs", "from 0 to 20"),
        (json!({"logprobs": 1}), "logprobs", "a boolean"),
        (
            json!({"tools": [{"type": "function", "function": {"name": "f"}}]}),
            "tool_choice",
            "--tool-call-parser",
        ),
        (json!({"tool_choice": "required"}), "tool_choice", "needs `tools`"),
        (json!({"modalities": ["text", "audio"]}), "modalities", "only text"),
        (json!({"chat_template": "{{ 'a' * 10 ** 9 }}"}), "chat_template", "own chat template"),
        (
            json!({"chat_template_kwargs": {"messages": []}}),
            "chat_template_kwargs",
            "rest of the request",
        ),
        (json!({"chat_template_kwargs": {"a b": 1}}), "chat_template_kwargs", "letters, digits"),
        (json!({"chat_template_kwargs": [1]}), "chat_template_kwargs", "an object"),
        (json!({"prompt": "x"}), "prompt", "unknown"),
    ]
}

fn with(base: &Value, more: &Value) -> Value {
    let mut body = base.clone();
    let fields = more.as_object().expect("an object of fields").clone();
    body.as_object_mut().expect("an object").extend(fields);
    body
}

fn assert_refused(answer: &Answer, status: u16, param: &str, words: &str, what: &str) {
    assert_eq!(answer.status, status, "{what}: {}", answer.body);
    let answer = answer.json();
    let error = &answer["error"];
    let message = error["message"].as_str().expect("a message");
    assert!(message.contains(words), "{what}\n  says {message:?}\n  without {words:?}");
    assert!(message.len() < 1000, "{what}: {} bytes", message.len());
    let named = error["param"].as_str().unwrap_or_default();
    assert!(
        named.starts_with(param) && named.len() < 300,
        "{what}: names {named:?}, not {param:?}"
    );
    assert_eq!(error["code"], status, "{what}");
    assert!(error["type"].as_str().is_some_and(|kind| kind.ends_with("Error")), "{what}");
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_name_the_field_and_a_running_stream_does_not_notice() {
    let server = Server::start().await;
    let canary = json!({"prompt": "The canary sings", "max_tokens": 200, "seed": 3, "stream": true, "logprobs": 2});
    let strip = |answer: &Answer| -> Vec<Value> {
        let events = answer.events(true);
        events.iter().map(|event| event["choices"][0]["logprobs"].clone()).collect()
    };
    let song = |parts: Vec<Value>| -> Vec<Value> {
        parts.iter().flat_map(|part| part["token_logprobs"].as_array().unwrap().clone()).collect()
    };
    let undisturbed = song(strip(&post(server.address, COMPLETE, &canary).await));
    assert_eq!(undisturbed.len(), 200);

    let completion = json!({"model": "tiny", "prompt": "Once", "max_tokens": 8});
    let chat = json!({"model": "tiny", "messages": [{"role": "user", "content": "Hi"}]});
    let mut requests: Vec<(&str, Value, &str, &str)> = Vec::new();
    for (more, param, words) in
        [sampling_cases(), decoding_cases(), delivery_cases(), extra_cases(), unserved_cases()]
            .concat()
    {
        requests.push((COMPLETE, with(&completion, &more), param, words));
        requests.push((CHAT, with(&chat, &more), param, words));
    }
    for (more, param, words) in completion_cases() {
        requests.push((COMPLETE, with(&completion, &more), param, words));
    }
    for (more, param, words) in [message_cases(), chat_cases()].concat() {
        requests.push((CHAT, with(&chat, &more), param, words));
    }
    for chunk in requests.chunks(16) {
        let mut running = Listening::open(server.address, COMPLETE, &canary).await;
        running.events(1).await;
        for (path, body, param, words) in chunk {
            let answer = post(server.address, path, body).await;
            let mut what = body.to_string();
            what.truncate(200);
            assert_refused(&answer, 400, param, words, &what);
        }
        assert_eq!(song(strip(&running.finish().await)), undisturbed);
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_json_is_said_to_be_not_json() {
    let server = Server::start().await;
    let deep = format!("{{\"prompt\": {}1{}}}", "[".repeat(10_000), "]".repeat(10_000));
    let tools = format!("{{\"tools\": {}1{}}}", "[".repeat(10_000), "]".repeat(10_000));
    let cases = [
        (COMPLETE, "", "", "not valid JSON"),
        (COMPLETE, "{\"prompt\": ", "", "not valid JSON"),
        (COMPLETE, "\u{FEFF}{}", "", "not valid JSON"),
        (COMPLETE, "{} {}", "", "not valid JSON"),
        (COMPLETE, "{\"prompt\": \"\\ud800\"}", "", "not valid JSON"),
        (COMPLETE, "{\"prompt\": \"x\", \"temperature\": NaN}", "", "not valid JSON"),
        (COMPLETE, "{\"prompt\": \"x\", \"temperature\": -Infinity}", "", "not valid JSON"),
        (COMPLETE, "{\"prompt\": \"x\", \"temperature\": 1e400}", "", "out of range"),
        (COMPLETE, "{\"prompt\": \"x\", \"prompt\": \"y\"}", "prompt", "given twice"),
        (COMPLETE, "{\"user\": 1, \"user\": 2}", "user", "given twice"),
        (COMPLETE, "[]", "", "must be an object, not a list"),
        (COMPLETE, "null", "", "must be an object"),
        (COMPLETE, "\"prompt\"", "", "must be an object"),
        (COMPLETE, &deep, "prompt", ""),
        (CHAT, &tools, "", ""),
    ];
    for (path, body, param, words) in cases {
        let mut what = body.to_owned();
        what.truncate(100);
        assert_refused(&post_text(server.address, path, body).await, 400, param, words, &what);
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn neutral_values_of_fields_that_are_not_served_are_accepted() {
    let server = Server::start().await;
    let neutral = json!({
        "user": "me", "metadata": {"a": "b"}, "store": false, "service_tier": "auto", "request_id": "r",
        "best_of": 1, "use_beam_search": false, "length_penalty": 1.0, "early_stopping": false, "min_tokens": 0, "bad_words": [],
        "response_format": {"type": "text"}, "guided_json": null, "priority": 0, "logits_processors": null,
        "spaces_between_special_tokens": true, "n": 1.0, "temperature": -0.0, "top_k": -1, "stop": null,
        "logit_bias": {}, "stop_token_ids": [], "seed": i64::MIN, "stream_options": null, "stream": false,
    });
    let chat = json!({
        "messages": [{"role": "user", "content": "[ok]"}], "tools": [], "tool_choice": "none", "functions": null,
        "modalities": ["text"], "logprobs": false, "top_logprobs": 0, "max_tokens": 9, "max_completion_tokens": 9,
        "chat_template_kwargs": {}, "parallel_tool_calls": true,
    });
    let completion = json!({"prompt": "[ok]>", "suffix": "", "echo": false, "logprobs": null});
    for (path, body) in [(CHAT, chat), (COMPLETE, completion)] {
        let answer = post(server.address, path, &with(&body, &neutral)).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        assert!(answer.body.contains("\"ok\""), "{}", answer.body);
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_model_is_not_found() {
    let server = Server::start().await;
    let body = json!({"model": "no-such", "prompt": "x"});
    assert_refused(
        &post(server.address, COMPLETE, &body).await,
        404,
        "model",
        "`no-such` does not exist",
        "model",
    );
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_template_chat_says_where_to_go() {
    let server = Server::with(Setup { template: false, ..Setup::default() }).await;
    let body = json!({"messages": [{"role": "user", "content": "Hi"}]});
    assert_refused(
        &post(server.address, CHAT, &body).await,
        400,
        "",
        "/v1/completions",
        "no template",
    );
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn logits_that_are_not_finite_fail_one_request_and_say_so() {
    let server = Server::with(Setup { poison: Some(b'!'), ..Setup::default() }).await;
    let body = json!({"prompt": "[ab!]>", "max_tokens": 9});
    let answer = post(server.address, COMPLETE, &body).await;
    assert_refused(&answer, 500, "", "not finite", "poison");
    let streamed = with(&body, &json!({"stream": true}));
    let events = post(server.address, COMPLETE, &streamed).await.events(false);
    let last = events.last().expect("an error at least");
    assert!(last["error"]["message"].as_str().is_some_and(|m| m.contains("not finite")), "{last}");
    assert_eq!(post(server.address, COMPLETE, &json!({"prompt": "[ok]>"})).await.status, 200);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tokenize_refuses_what_it_cannot_read() {
    let server = Server::start().await;
    let cases = [
        ("/tokenize", json!({}), "", "either"),
        ("/tokenize", json!({"prompt": "x", "messages": []}), "", "either"),
        ("/tokenize", json!({"prompt": 5}), "prompt", "a string"),
        ("/tokenize", json!({"prompts": "x"}), "prompts", "did you mean `prompt`?"),
        ("/tokenize", json!({"messages": []}), "messages", "at least one"),
        ("/detokenize", json!({}), "tokens", "missing"),
        ("/detokenize", json!({"tokens": [VOCAB]}), "tokens", "from 0 to 260"),
        ("/detokenize", json!({"tokens": [-1]}), "tokens[0]", "a token id"),
    ];
    for (path, body, param, words) in cases {
        let answer = post(server.address, path, &body).await;
        assert_refused(&answer, 400, param, words, &body.to_string());
    }
    server.stop().await;
}
