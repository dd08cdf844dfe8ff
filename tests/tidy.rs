//! The house rules that a machine can check: floors, sizes, no stubs, reasons beside `unsafe`.
//!
//! Rules are checked on the syntax tree, not on text, so that formatting cannot hide a long function.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use syn::spanned::Spanned;
use syn::visit::{self, Visit};

const FILE_LINES: usize = 500;
const FUNCTION_LINES: usize = 70;

/// Each crate and the crates of ours it may import: only lower floors, never its own.
const FLOORS: [(&str, &[&str]); 8] = [
    ("core", &[]),
    ("kernels", &[]),
    ("cuda", &[]),
    ("model", &["core", "kernels", "cuda"]),
    ("engine", &["core"]),
    ("sim", &["core"]),
    ("text", &[]),
    ("server", &["core", "engine", "text"]),
];

/// Crates that may hold `unsafe`.
const UNSAFE: [&str; 2] = ["kernels", "cuda"];

struct Source {
    /// Path from the root, with `/`.
    path: String,
    text: String,
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn sources() -> Vec<Source> {
    let mut found = Vec::new();
    for folder in ["src", "crates", "tests", "xtask", "benches", "fuzz"] {
        for entry in walkdir::WalkDir::new(root().join(folder)).into_iter().filter_map(Result::ok) {
            let is_rust = entry.path().extension().is_some_and(|e| e == "rs");
            if is_rust && !entry.path().components().any(|c| c.as_os_str() == "target") {
                found.push(Source { path: relative(entry.path()), text: read(entry.path()) });
            }
        }
    }
    assert!(found.len() > 50, "only {} sources found: tidy looks in the wrong place", found.len());
    found
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn relative(path: &Path) -> String {
    let parts: PathBuf = path.strip_prefix(root()).unwrap().into();
    parts.to_string_lossy().replace('\\', "/")
}

fn report(rule: &str, broken: &[String]) {
    assert!(broken.is_empty(), "{rule}:\n  {}", broken.join("\n  "));
}

#[test]
fn files_are_short() {
    let long = |s: &Source| s.text.lines().count() > FILE_LINES;
    let broken: Vec<String> = sources()
        .iter()
        .filter(|s| long(s))
        .map(|s| format!("{}: {} lines", s.path, s.text.lines().count()))
        .collect();
    report("a file has at most 500 lines; split it by idea", &broken);
}

#[derive(Default)]
struct Functions {
    long: Vec<String>,
}

impl Functions {
    fn look(&mut self, name: &syn::Ident, whole: proc_macro2::Span) {
        let lines = whole.end().line - whole.start().line + 1;
        if lines > FUNCTION_LINES {
            self.long.push(format!("line {}: fn {name} has {lines} lines", whole.start().line));
        }
    }
}

impl<'ast> Visit<'ast> for Functions {
    fn visit_item_fn(&mut self, f: &'ast syn::ItemFn) {
        self.look(
            &f.sig.ident,
            f.sig.span().join(f.block.span()).unwrap_or_else(|| f.block.span()),
        );
        visit::visit_item_fn(self, f);
    }

    fn visit_impl_item_fn(&mut self, f: &'ast syn::ImplItemFn) {
        self.look(
            &f.sig.ident,
            f.sig.span().join(f.block.span()).unwrap_or_else(|| f.block.span()),
        );
        visit::visit_impl_item_fn(self, f);
    }

    fn visit_trait_item_fn(&mut self, f: &'ast syn::TraitItemFn) {
        self.look(&f.sig.ident, f.span());
        visit::visit_trait_item_fn(self, f);
    }
}

#[test]
fn functions_are_short() {
    let mut broken = Vec::new();
    for source in sources() {
        let file = syn::parse_file(&source.text).unwrap_or_else(|e| panic!("{}: {e}", source.path));
        let mut functions = Functions::default();
        functions.visit_file(&file);
        broken.extend(functions.long.iter().map(|l| format!("{}: {l}", source.path)));
    }
    report("a function has at most 70 lines", &broken);
}

#[test]
fn crates_import_only_from_lower_floors() {
    let mut broken = Vec::new();
    for (name, allowed) in FLOORS {
        let manifest = read(&root().join(format!("crates/{name}/Cargo.toml")));
        let manifest: toml::Table = manifest.parse().expect("a manifest is TOML");
        let ours = manifest.get("dependencies").and_then(|d| d.as_table()).into_iter().flatten();
        for dependency in ours.filter_map(|(key, _)| key.strip_prefix("folio-")) {
            if !allowed.contains(&dependency) {
                broken.push(format!("folio-{name} may not depend on folio-{dependency}"));
            }
        }
    }
    report("floors", &broken);
}

#[test]
fn every_crate_has_its_floor() {
    let mut found: Vec<String> = std::fs::read_dir(root().join("crates"))
        .expect("crates/")
        .map(|e| e.expect("an entry").file_name().to_string_lossy().into_owned())
        .collect();
    let mut known: Vec<String> = FLOORS.iter().map(|(name, _)| (*name).to_owned()).collect();
    found.sort();
    known.sort();
    assert_eq!(found, known, "a new crate needs a decision record and a line in FLOORS");
}

#[test]
fn core_knows_no_clock_environment_or_async() {
    let absent = [
        "std::time",
        "Instant",
        "SystemTime",
        "std::env",
        "std::fs",
        "std::net",
        "std::io",
        "async fn",
        ".await;",
        ".await?",
        "tokio",
        "tracing",
        "println!",
        "eprintln!",
        "thread::spawn",
        "Mutex",
        "RwLock",
    ];
    let mut broken = Vec::new();
    for source in sources().iter().filter(|s| s.path.starts_with("crates/core/src/")) {
        for (number, line) in code_lines(&source.text) {
            for word in absent.iter().filter(|w| line.contains(**w)) {
                broken.push(format!("{}:{number}: {word}", source.path));
            }
        }
    }
    report("core has no I/O, clock, environment, async or locks", &broken);
}

/// Lines with their numbers, without comments.
fn code_lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines()
        .enumerate()
        .map(|(i, line)| (i + 1, line))
        .filter(|(_, line)| !line.trim_start().starts_with("//"))
}

#[test]
fn nothing_is_left_for_later() {
    // Spelled in halves so that this file does not report itself.
    let words: Vec<String> =
        [("TO", "DO"), ("FIX", "ME"), ("XX", "X"), ("for ", "now"), ("place", "holder")]
            .iter()
            .map(|(a, b)| format!("{a}{b}"))
            .chain([("to", "do!("), ("unimple", "mented!(")].iter().map(|(a, b)| format!("{a}{b}")))
            .collect();
    let mut broken = Vec::new();
    for source in sources() {
        for (i, line) in source.text.lines().enumerate() {
            for word in words.iter().filter(|w| line.contains(w.as_str())) {
                broken.push(format!("{}:{}: {word:?}", source.path, i + 1));
            }
        }
    }
    report(
        "no stubs and no postponements: finish it, or leave it out and say so in the docs",
        &broken,
    );
}

#[test]
fn unsafe_stays_in_its_rooms_and_says_why() {
    let mut broken = Vec::new();
    for source in sources() {
        let krate = source.path.strip_prefix("crates/").and_then(|p| p.split('/').next());
        let may = krate.is_some_and(|k| UNSAFE.contains(&k));
        if !may && code_lines(&source.text).any(|(_, l)| is_unsafe_code(l)) {
            broken.push(format!("{}: unsafe outside kernels and cuda", source.path));
        }
        if may {
            broken.extend(unexplained(&source));
        }
    }
    for (name, _) in FLOORS.iter().filter(|(name, _)| !UNSAFE.contains(name)) {
        let lib = read(&root().join(format!("crates/{name}/src/lib.rs")));
        if !lib.contains("#![forbid(unsafe_code)]") {
            broken.push(format!("crates/{name}/src/lib.rs does not forbid unsafe code"));
        }
    }
    report("unsafe", &broken);
}

fn is_unsafe_code(line: &str) -> bool {
    let code = line.split("//").next().unwrap_or_default();
    ["unsafe {", "unsafe fn", "unsafe impl", "unsafe trait"].iter().any(|u| code.contains(u))
        && !code.contains('"')
}

/// `unsafe {` and `unsafe impl` without a `SAFETY:` line in the comment just above (or beside) them.
fn unexplained(source: &Source) -> Vec<String> {
    let lines: Vec<&str> = source.text.lines().collect();
    let mut found = Vec::new();
    for (i, line) in lines.iter().enumerate() {
        let code = line.split("//").next().unwrap_or_default();
        if !(code.contains("unsafe {") || code.contains("unsafe impl")) || code.contains('"') {
            continue;
        }
        let explained = line.contains("SAFETY:")
            || lines[..i]
                .iter()
                .rev()
                .take(12)
                .take_while(|l| !l.trim().is_empty())
                .any(|l| l.contains("SAFETY:") || l.contains("# Safety"));
        if !explained {
            found.push(format!("{}:{}: unsafe without a SAFETY: line", source.path, i + 1));
        }
    }
    found
}

#[test]
fn every_file_says_why_it_exists() {
    let broken: Vec<String> = sources()
        .iter()
        .filter(|s| s.path.contains("src/"))
        .filter(|s| !s.text.trim_start().starts_with("//!"))
        .map(|s| s.path.clone())
        .collect();
    report("every source file starts with a //! doc", &broken);
}

#[test]
fn the_project_speaks_of_itself_alone() {
    let words = [["/wo", "rk/"].concat(), ["/tm", "p/folio"].concat(), [".lib", "rary/"].concat()];
    let mut broken = String::new();
    for source in sources() {
        for word in words.iter().filter(|w| source.text.contains(w.as_str())) {
            let _ = writeln!(broken, "  {}: {word}", source.path);
        }
    }
    assert!(broken.is_empty(), "paths of one machine:\n{broken}");
}

/// The wall clock may be set back. It may say what day it is, and nothing else: durations are measured with `Instant`.
#[test]
fn the_wall_clock_only_tells_dates() {
    /// Files that write a date into an answer, a report or a prompt, or make a seed.
    const DATES: [&str; 10] = [
        "crates/server/src/conversation/mod.rs",
        "crates/server/src/generate/answer.rs",
        "crates/server/src/generate/report.rs",
        "crates/server/src/kv_events/mod.rs",
        "crates/server/src/span.rs",
        "src/spans.rs",
        "src/bench/serve/mod.rs",
        "src/serve.rs",
        "src/terminal.rs",
        "xtask/src/fuzz.rs",
    ];
    let told = |s: &&Source| s.text.contains("SystemTime") && s.path != "tests/tidy.rs";
    let broken: Vec<String> = sources()
        .iter()
        .filter(told)
        .filter(|s| !DATES.contains(&s.path.as_str()))
        .map(|s| s.path.clone())
        .collect();
    report("`SystemTime` is for dates; add the file to the list if it writes one", &broken);
}
