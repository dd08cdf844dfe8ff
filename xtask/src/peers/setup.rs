//! Where the peers and their models are, and how they get there: from the public registries, into a folder of their own.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::{Engine, Options};
use crate::{release_binary, run};

/// What the peers' environment needs.
const PACKAGES: [&str; 10] = [
    "openvino-genai",
    "optimum-intel",
    "openvino-tokenizers",
    "nncf",
    "torch",
    "transformers",
    "gguf",
    "sentencepiece",
    "cmake",
    "ninja",
];
/// It carries the source of llama.cpp.
const LLAMA_PACKAGE: &str = "llama-cpp-python";
const LLAMA_TOOLS: [&str; 3] = ["llama-batched-bench", "llama-server", "llama-quantize"];

/// Paths of everything.
pub(crate) struct Places {
    root: PathBuf,
    /// The peers' folder.
    folder: PathBuf,
    /// The model as Hugging Face has it.
    pub(crate) model: PathBuf,
    name: String,
}

impl Places {
    pub(crate) fn new(root: &Path, options: &Options) -> Self {
        Self {
            root: root.to_owned(),
            folder: options.folder.clone(),
            model: options.models.join(&options.model),
            name: options.model.clone(),
        }
    }

    fn python(&self) -> PathBuf {
        self.folder.join("venv/bin/python")
    }

    /// A script of ours, in the peers' environment.
    pub(crate) fn script(&self, name: &str) -> Result<Command> {
        let python = self.python();
        ensure!(python.exists(), "{} is absent; add --setup", python.display());
        let mut command = Command::new(python);
        command.arg(self.root.join("tools/peers").join(name));
        Ok(command)
    }

    /// A tool of llama.cpp.
    pub(crate) fn llama(&self, tool: &str) -> Result<Command> {
        let path = self.folder.join("llama/bin").join(tool);
        ensure!(path.exists(), "{} is absent; add --setup", path.display());
        Ok(Command::new(path))
    }

    /// The model for llama.cpp.
    pub(crate) fn gguf(&self, bits: u32) -> PathBuf {
        let kind = match bits {
            8 => "Q8_0",
            4 => "Q4_0",
            _ => "bf16",
        };
        self.folder.join("models").join(format!("{}-{kind}.gguf", self.name))
    }

    /// The model for OpenVINO.
    pub(crate) fn openvino(&self, bits: u32) -> PathBuf {
        self.folder.join("models").join(format!("{}-ov-{}", self.name, openvino_kind(bits)))
    }

    /// A file for results.
    pub(crate) fn results(&self) -> PathBuf {
        self.folder.join("results.json")
    }

    /// folio's binary, built unless it was given.
    pub(crate) fn folio(&self, options: &Options) -> Result<PathBuf> {
        if let Some(folio) = &options.folio {
            return Ok(folio.clone());
        }
        release_binary(&self.root)
    }

    /// Installs, builds and converts what is wanted and not there.
    pub(crate) fn set_up(&self, options: &Options) -> Result<()> {
        std::fs::create_dir_all(self.folder.join("models")).context("making the peers' folder")?;
        if !self.python().exists() {
            let venv = self.folder.join("venv");
            run(Command::new("python3").args(["-m", "venv"]).arg(&venv))?;
            run(self.pip().args(["install", "--quiet"]).args(PACKAGES))?;
        }
        if options.engines.contains(&Engine::Llama) || options.gguf {
            self.build_llama()?;
            for &bits in &options.bits {
                self.make_gguf(bits)?;
            }
        }
        if options.engines.contains(&Engine::OpenVino) {
            for &bits in &options.bits {
                let out = self.openvino(bits);
                if !out.join("openvino_detokenizer.xml").exists() {
                    let kind = openvino_kind(bits);
                    let mut convert = self.script("convert.py")?;
                    run(convert.arg("openvino").arg(&self.model).arg(out).arg(kind))?;
                }
            }
        }
        Ok(())
    }

    fn pip(&self) -> Command {
        let mut pip = Command::new(self.python());
        pip.args(["-m", "pip", "--disable-pip-version-check"]);
        pip
    }

    fn llama_source(&self) -> PathBuf {
        self.folder.join("src/vendor/llama.cpp")
    }

    fn build_llama(&self) -> Result<()> {
        let build = self.folder.join("llama");
        if LLAMA_TOOLS.iter().all(|tool| build.join("bin").join(tool).exists()) {
            return Ok(());
        }
        if !self.llama_source().exists() {
            let sdist = self.folder.join("sdist");
            let download = ["download", "--no-deps", "--no-binary", LLAMA_PACKAGE, LLAMA_PACKAGE];
            run(self.pip().args(download).arg("--dest").arg(&sdist))?;
            let source = self.folder.join("src");
            std::fs::create_dir_all(&source)?;
            let archive = std::fs::read_dir(&sdist)?
                .filter_map(|entry| Some(entry.ok()?.path()))
                .find(|path| path.extension().is_some_and(|extension| extension == "gz"))
                .with_context(|| format!("pip left no archive in {}", sdist.display()))?;
            let unpack = ["--extract", "--strip-components=1", "--file"];
            run(Command::new("tar").args(unpack).arg(archive).arg("--directory").arg(source))?;
        }
        let bin = self.folder.join("venv/bin");
        let (cmake, ninja) = (bin.join("cmake"), bin.join("ninja"));
        run(Command::new(&cmake)
            .args(["-G", "Ninja", "-DCMAKE_BUILD_TYPE=Release", "-DGGML_NATIVE=ON"])
            .args(["-DBUILD_SHARED_LIBS=OFF", "-DLLAMA_CURL=OFF", "-DLLAMA_OPENSSL=OFF"])
            .args(["-DLLAMA_BUILD_TESTS=OFF", "-DLLAMA_BUILD_EXAMPLES=OFF"])
            .arg(format!("-DCMAKE_MAKE_PROGRAM={}", ninja.display()))
            .arg("-S")
            .arg(self.llama_source())
            .arg("-B")
            .arg(&build))?;
        run(Command::new(cmake).arg("--build").arg(&build).arg("--target").args(LLAMA_TOOLS))
    }

    fn make_gguf(&self, bits: u32) -> Result<()> {
        let (full, wanted) = (self.gguf(16), self.gguf(bits));
        if !full.exists() {
            let mut convert = self.script("convert.py")?;
            let source = self.llama_source();
            run(convert.arg("gguf").arg(&self.model).arg(&full).arg("--llama").arg(source))?;
        }
        if wanted.exists() {
            return Ok(());
        }
        let kind = if bits == 8 { "Q8_0" } else { "Q4_0" };
        // The vocabulary head, too: every engine's is as narrow as the rest.
        run(self.llama("llama-quantize")?.args(["--pure"]).arg(full).arg(wanted).arg(kind))
    }
}

fn openvino_kind(bits: u32) -> &'static str {
    match bits {
        8 => "int8",
        4 => "int4",
        _ => "fp16",
    }
}
