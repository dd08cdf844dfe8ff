//! How each engine is measured, and where its figures stand in what it prints.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::setup::Places;
use super::{Engine, Options};
use crate::run;

const INPUT: u32 = 128;
const OUTPUT: u32 = 128;
const PREFILL: u32 = 512;
const PORT: u16 = 18461;
/// How long a server may take to load its model.
const MOST_LOADING: Duration = Duration::from_secs(600);
const SLOTS: u32 = 32;

/// Names and values, in the order in which they are printed. Names end with their unit.
pub(crate) type Figures = Vec<(String, f64)>;

/// One width of weights, to be measured with every engine.
pub(crate) struct Task<'a> {
    pub(crate) options: &'a Options,
    pub(crate) places: &'a Places,
    pub(crate) folio: &'a Path,
    pub(crate) bits: u32,
}

impl Task<'_> {
    pub(crate) fn measure(&self, engine: Engine) -> Result<Figures> {
        ensure!(
            engine != Engine::Transformers || self.bits == 16,
            "it is measured with 16-bit weights only"
        );
        match (&self.options.workload, engine) {
            (None, Engine::Folio) => self.folio_batches(),
            (None, Engine::Llama) => self.llama_batches(),
            (None, Engine::OpenVino | Engine::Transformers) => {
                rates(&self.peer_script(engine, &[])?)
            }
            (Some(workload), Engine::Folio) => {
                let mut server = self.folio_command("serve")?;
                server.args(["--port", &PORT.to_string()]);
                self.serve(server, workload)
            }
            (Some(workload), Engine::Llama) => self.serve(self.llama_server()?, workload),
            (Some(workload), Engine::OpenVino | Engine::Transformers) => {
                let workload = workload.to_str().context("the workload's path is not UTF-8")?;
                let mut flags = vec!["--workload", workload];
                if self.options.burst {
                    flags.push("--burst");
                }
                serving(&self.peer_script(engine, &flags)?)
            }
        }
    }

    fn batches(&self) -> String {
        let sizes: Vec<String> = self.options.batches.iter().map(u32::to_string).collect();
        sizes.join(",")
    }

    /// folio with a command and a model.
    fn folio_command(&self, words: &str) -> Result<Command> {
        let mut folio = Command::new(self.folio);
        folio.args(words.split(' '));
        if self.options.gguf {
            let file = self.places.gguf(self.bits);
            ensure!(file.exists(), "{} is absent; add --setup", file.display());
            folio.arg(file);
        } else {
            folio.arg(&self.places.model);
            match self.bits {
                8 => folio.args(["--quantization", "int8"]),
                4 => folio.args(["--quantization", "int4"]),
                _ => &mut folio,
            };
        }
        folio.args(["--threads", &self.options.threads.to_string()]);
        Ok(folio)
    }

    fn folio_batches(&self) -> Result<Figures> {
        let results = self.places.results();
        run(self
            .folio_command("bench latency")?
            .args(["--batch-size", &self.batches()])
            .args(["--input-len", &INPUT.to_string(), "--output-len", &OUTPUT.to_string()])
            .args(["--prefill-len", &PREFILL.to_string()])
            .args(["--num-iters", &self.options.iterations.to_string()])
            .arg("--output-json")
            .arg(&results))?;
        rates(&read_json(&results)?)
    }

    fn llama_batches(&self) -> Result<Figures> {
        let prefill = self.llama_rows(PREFILL, 1, "1")?;
        let mut figures = vec![(name_prefill(), median(&prefill, "speed_pp", None)?)];
        let batches = self.batches();
        let rows = self.llama_rows(INPUT, OUTPUT, &batches)?;
        for &batch in &self.options.batches {
            figures.push((name_decode(batch.into()), median(&rows, "speed_tg", Some(batch))?));
        }
        Ok(figures)
    }

    /// What `llama-batched-bench` prints, of all iterations.
    fn llama_rows(&self, input: u32, output: u32, batches: &str) -> Result<Vec<Value>> {
        let most = self.options.batches.iter().max().copied().unwrap_or(1);
        let context = (most * (input + output)).max(2048);
        let threads = self.options.threads.to_string();
        let mut rows = Vec::new();
        for _ in 0..self.options.iterations {
            let mut bench = self.places.llama("llama-batched-bench")?;
            bench.arg("-m").arg(self.places.gguf(self.bits));
            bench.args(["-t", &threads, "-tb", &threads, "-c", &context.to_string()]);
            bench.args(["-npp", &input.to_string(), "-ntg", &output.to_string(), "-npl", batches]);
            bench.args(["--output-format", "jsonl"]);
            let text = output_of(&mut bench)?;
            let before = rows.len();
            rows.extend(text.lines().filter_map(|line| serde_json::from_str(line).ok()));
            ensure!(rows.len() > before, "llama-batched-bench printed no results");
        }
        Ok(rows)
    }

    fn llama_server(&self) -> Result<Command> {
        let mut server = self.places.llama("llama-server")?;
        let threads = self.options.threads.to_string();
        server.arg("-m").arg(self.places.gguf(self.bits));
        server.args(["-t", &threads, "-tb", &threads, "-np", &SLOTS.to_string()]);
        server.args(["-c", &(SLOTS * 1024).to_string(), "--port", &PORT.to_string()]);
        Ok(server)
    }

    fn peer_script(&self, engine: Engine, flags: &[&str]) -> Result<Value> {
        let model = match engine {
            Engine::OpenVino => self.places.openvino(self.bits),
            _ => self.places.model.clone(),
        };
        ensure!(model.exists(), "{} is absent; add --setup", model.display());
        let mut script = self.places.script("measure.py")?;
        script.arg(engine.name()).arg(model);
        script.args(["--batch-size", &self.batches()]);
        script.args(["--input-len", &INPUT.to_string(), "--output-len", &OUTPUT.to_string()]);
        script.args(["--prefill-len", &PREFILL.to_string()]);
        script.args(["--num-iters", &self.options.iterations.to_string()]);
        script.args(["--threads", &self.options.threads.to_string()]).args(flags);
        let text = output_of(&mut script)?;
        let last = text.lines().last().unwrap_or_default();
        serde_json::from_str(last).context("measure.py printed no results")
    }

    /// Starts a server, sends it the workload, and ends it.
    fn serve(&self, mut server: Command, workload: &Path) -> Result<Figures> {
        server.stdout(Stdio::null()).stderr(Stdio::null());
        let server =
            server.spawn().with_context(|| format!("cannot start {:?}", server.get_program()))?;
        let mut server = Server(server);
        server.wait()?;
        let results = self.places.results();
        run(Command::new(self.folio)
            .args(["bench", "serve", "--base-url", &format!("http://127.0.0.1:{PORT}")])
            .args(["--dataset-name", if self.options.burst { "custom" } else { "timed_trace" }])
            .args(["--ignore-eos", "--dataset-path"])
            .arg(workload)
            .arg("--output-json")
            .arg(&results))?;
        serving(&read_json(&results)?)
    }
}

/// A server that ends with this.
struct Server(Child);

impl Server {
    /// Until it says that it is healthy.
    fn wait(&mut self) -> Result<()> {
        let began = Instant::now();
        while began.elapsed() < MOST_LOADING {
            if let Some(status) = self.0.try_wait()? {
                bail!("the server ended with {status} before it was ready");
            }
            if is_healthy() {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        bail!("the server was not ready after {} s", MOST_LOADING.as_secs())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn is_healthy() -> bool {
    use std::io::{Read, Write};
    let Ok(mut stream) = std::net::TcpStream::connect(("127.0.0.1", PORT)) else { return false };
    let _ = stream.set_read_timeout(Some(Duration::from_secs(5)));
    let request = "GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n";
    let mut start = [0; 12];
    stream.write_all(request.as_bytes()).is_ok()
        && stream.read_exact(&mut start).is_ok()
        && start.ends_with(b" 200")
}

/// What a command prints; the rest goes to the terminal.
fn output_of(command: &mut Command) -> Result<String> {
    let output = command
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("cannot start {:?}", command.get_program()))?;
    ensure!(output.status.success(), "{:?} ended with {}", command.get_program(), output.status);
    String::from_utf8(output.stdout).context("it printed something that is not UTF-8")
}

fn read_json(file: &Path) -> Result<Value> {
    let text = std::fs::read_to_string(file).with_context(|| file.display().to_string())?;
    serde_json::from_str(&text).with_context(|| file.display().to_string())
}

fn name_prefill() -> String {
    format!("prefill {PREFILL}, tok/s")
}

fn name_decode(batch: u64) -> String {
    format!("decode of {batch}, tok/s")
}

/// The figures of `folio bench latency` and of `measure.py`.
fn rates(results: &Value) -> Result<Figures> {
    let number = |value: &Value, key: &str| {
        value[key].as_f64().with_context(|| format!("the results have no {key}"))
    };
    let mut figures = vec![(name_prefill(), number(&results["prefill"], "tokens_per_second")?)];
    for batch in results["batches"].as_array().context("the results have no batches")? {
        let size = batch["batch_size"].as_u64().context("a batch has no size")?;
        figures.push((name_decode(size), number(batch, "decode_tokens_per_second")?));
    }
    Ok(figures)
}

/// The figures of `folio bench serve`.
fn serving(results: &Value) -> Result<Figures> {
    let keys = [
        ("output, tok/s", "output_throughput"),
        ("TTFT median, ms", "median_ttft_ms"),
        ("TTFT p99, ms", "p99_ttft_ms"),
        ("TPOT median, ms", "median_tpot_ms"),
        ("TPOT p99, ms", "p99_tpot_ms"),
        ("completed", "completed"),
    ];
    let figure = |(name, key): (&str, &str)| {
        let value = results[key].as_f64().with_context(|| format!("the results have no {key}"))?;
        Ok((name.to_owned(), value))
    };
    keys.into_iter().map(figure).collect()
}

/// The median of `key` over the rows of `batch` parallel sequences, or over all.
fn median(rows: &[Value], key: &str, batch: Option<u32>) -> Result<f64> {
    let wanted = rows.iter().filter(|row| batch.is_none_or(|batch| row["pl"] == batch));
    let mut values: Vec<f64> = wanted.filter_map(|row| row[key].as_f64()).collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().with_context(|| format!("no row has {key}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn figures_are_found_where_engines_print_them() {
        let rows = [
            json!({"pl": 1, "speed_tg": 5.0}),
            json!({"pl": 8, "speed_tg": 30.0}),
            json!({"pl": 1, "speed_tg": 7.0}),
            json!({"pl": 1, "speed_tg": 6.0}),
        ];
        assert!((median(&rows, "speed_tg", Some(1)).unwrap_or(0.0) - 6.0).abs() < 1e-9);
        assert!(median(&rows, "speed_pp", None).is_err());
        let results = json!({
            "prefill": {"tokens_per_second": 100.0},
            "batches": [{"batch_size": 8, "decode_tokens_per_second": 50.0}],
        });
        let expected =
            vec![("prefill 512, tok/s".to_owned(), 100.0), ("decode of 8, tok/s".to_owned(), 50.0)];
        assert_eq!(rates(&results).unwrap_or_default(), expected);
        assert!(rates(&json!({})).is_err());
        assert!(serving(&json!({})).is_err());
    }
}
