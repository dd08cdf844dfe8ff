//! Models from the Hugging Face hub: found in the cache, or fetched into it.
//!
//! A model argument becomes a path here, and nothing behind this door knows of the hub.

mod cache;
mod client;
mod fetch;
mod name;
mod progress;
mod select;

use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use folio_model::MOST_CONFIG_BYTES;
use indicatif::HumanBytes;

use self::cache::Cache;
use self::client::{Failure, Hub, Info, Meta};
use self::name::{Commit, FilePath, Reference, Revision};
use self::progress::Progress;
use self::select::Choice;

use crate::log::say;
use crate::typed::variable;

const MAIN: &str = "main";

#[derive(Args, Clone, Debug)]
pub(crate) struct PullArgs {
    /// ORG/NAME; ORG/NAME:FILE.gguf or ORG/NAME:Q4_K_M for one GGUF among several
    pub(crate) model: String,

    /// Branch, tag or commit; default: main
    #[arg(long, value_name = "REVISION")]
    pub(crate) revision: Option<String>,
}

/// A model on this machine.
#[derive(Debug)]
pub(crate) struct Located {
    /// Its folder, or its GGUF file.
    pub(crate) path: PathBuf,
    /// What the hub calls it, if it comes from there.
    pub(crate) name: Option<String>,
}

/// The model that an argument names: a path when there is one, else one of the hub, which is fetched unless the cache has it.
///
/// # Errors
/// When it is neither, or cannot be had; the message says what to do.
pub(crate) fn locate(model: &Path, revision: Option<&str>) -> Result<Located> {
    if model.exists() {
        ensure!(
            revision.is_none(),
            "--revision is of a model from the hub, and {} is a path on this machine",
            model.display()
        );
        let parts = ["json", "safetensors", "bin", "pt", "pth", "model", "jinja"];
        let ending = model.extension().and_then(|ending| ending.to_str()).unwrap_or_default();
        ensure!(
            !model.is_file() || !parts.contains(&ending),
            "{} is a file of a model; give the folder it is in",
            model.display()
        );
        return Ok(Located { path: model.to_owned(), name: None });
    }
    let reference = model.to_str().and_then(Reference::parse).with_context(|| {
        let hint = match model.to_str().and_then(in_address) {
            Some(name) => format!("; try {name}"),
            None => String::new(),
        };
        format!(
            "{} is not there, and not the name of a model on the Hugging Face hub, which is ORG/NAME or ORG/NAME:FILE.gguf{hint}",
            model.display()
        )
    })?;
    let path = obtain(&reference, revision).with_context(|| {
        format!(
            "there is no file or folder {0} here, and {0} cannot be had from the hub",
            model.display()
        )
    })?;
    Ok(Located { path, name: Some(model.display().to_string()) })
}

/// The name of a model in its address on the hub.
fn in_address(text: &str) -> Option<String> {
    let text = text.split_once("://").map_or(text, |(_, rest)| rest);
    let mut sites = ["huggingface.co/", "www.huggingface.co/", "hf.co/"].into_iter();
    let name = sites.find_map(|site| text.strip_prefix(site)).unwrap_or(text);
    let mut parts = name.split(['/', '?', '#']);
    let name = format!("{}/{}", parts.next()?, parts.next()?);
    Reference::parse(&name).map(|_| name)
}

/// Where the cache has a model of the hub, if it does; nobody is asked.
pub(crate) fn cached(model: &Path, revision: Option<&str>) -> Option<PathBuf> {
    let reference = Reference::parse(model.to_str()?)?;
    let revision = Revision::parse(revision.unwrap_or(MAIN)).ok()?;
    let cache = Cache::from_env(&reference.repo).ok()?;
    in_cache(&cache, &reference, &revision).ok()
}

/// `folio pull`: fetches a model and prints where it is.
///
/// # Errors
/// When it cannot be had; the message says what to do.
pub(crate) fn pull(args: &PullArgs) -> Result<()> {
    let reference = Reference::parse(&args.model).with_context(|| {
        let here = Path::new(&args.model).exists();
        let hint = if here { "; it is here already, to be served from its path" } else { "" };
        format!(
            "{:?} is not a model of the hub, which is ORG/NAME or ORG/NAME:FILE.gguf{hint}",
            args.model
        )
    })?;
    let path = obtain(&reference, args.revision.as_deref())?;
    writeln!(std::io::stdout(), "{}", path.display()).context("standard output")
}

/// The path of the model, from the cache alone where that suffices.
fn obtain(reference: &Reference, revision: Option<&str>) -> Result<PathBuf> {
    let revision = Revision::parse(revision.unwrap_or(MAIN))?;
    let cache = Cache::from_env(&reference.repo)?;
    let cached = || in_cache(&cache, reference, &revision);
    if is_offline() {
        return cached().context("HF_HUB_OFFLINE is set, and the cache does not have it");
    }
    // A commit means the same for ever, so nobody needs to be asked.
    if revision.commit().is_some()
        && let Ok(path) = cached()
    {
        return Ok(path);
    }
    let hub = Hub::from_env(&reference.repo)?;
    let info = match hub.info(&revision) {
        Ok(info) => info,
        Err(Failure::Away(error) | Failure::Distrusted(error)) if cached().is_ok() => {
            say!("{error:#}; going on with what the cache has");
            return cached();
        }
        Err(Failure::Away(error)) => {
            let advice = "check the network and HTTPS_PROXY, or set HF_ENDPOINT to a mirror";
            return Err(error.context(advice));
        }
        Err(Failure::Refused(error) | Failure::Distrusted(error)) => return Err(error),
    };
    let path = download(&hub, &cache, reference, &info)?;
    cache.remember(&revision, &info.commit)?;
    Ok(path)
}

fn is_offline() -> bool {
    let value = variable("HF_HUB_OFFLINE").unwrap_or_default().to_ascii_uppercase();
    ["1", "ON", "YES", "TRUE"].contains(&value.as_str())
}

/// The path of the model if the cache has all of it.
fn in_cache(cache: &Cache, reference: &Reference, revision: &Revision) -> Result<PathBuf> {
    let Reference { repo, pick } = reference;
    let commit = cache.commit(revision).with_context(|| {
        format!("{} does not know {repo} at {}", cache.root().display(), revision.as_str())
    })?;
    let files = cache.files(&commit);
    let folder = cache.snapshot(&commit);
    let choice = select::choose(&files, pick.as_ref())
        .with_context(|| format!("{} is not complete", folder.display()))?;
    if let Choice::Sharded { index, .. } = &choice {
        select::shards(&read_index(cache, &commit, index)?, &files)?;
    }
    Ok(path_of(cache, &commit, &choice))
}

fn path_of(cache: &Cache, commit: &Commit, choice: &Choice) -> PathBuf {
    let folder = cache.snapshot(commit);
    match choice {
        Choice::Gguf(parts) => {
            parts.first().map_or(folder.clone(), |one| folder.join(one.as_str()))
        }
        Choice::Folder(_) | Choice::Sharded { .. } => folder,
    }
}

/// Fetches what the snapshot lacks.
fn download(hub: &Hub, cache: &Cache, reference: &Reference, info: &Info) -> Result<PathBuf> {
    let Reference { repo, pick } = reference;
    let choice = select::choose(&info.files, pick.as_ref())
        .with_context(|| format!("cannot serve {repo}"))?;
    let fetch = |files: &[FilePath]| fetch_all(hub, cache, &repo.to_string(), &info.commit, files);
    match &choice {
        Choice::Folder(files) | Choice::Gguf(files) => fetch(files)?,
        Choice::Sharded { small, index } => {
            // The weights come last: whoever finds them finds the rest.
            fetch(&[small.as_slice(), std::slice::from_ref(index)].concat())?;
            let index = read_index(cache, &info.commit, index)?;
            fetch(&select::shards(&index, &info.files)?)?;
        }
    }
    Ok(path_of(cache, &info.commit, &choice))
}

fn read_index(cache: &Cache, commit: &Commit, index: &FilePath) -> Result<Vec<u8>> {
    let path = cache.snapshot(commit).join(index.as_str());
    let length = fs::metadata(&path).with_context(|| path.display().to_string())?.len();
    ensure!(length <= MOST_CONFIG_BYTES, "{index} is larger than {MOST_CONFIG_BYTES} bytes");
    fs::read(&path).with_context(|| path.display().to_string())
}

fn fetch_all(
    hub: &Hub,
    cache: &Cache,
    title: &str,
    commit: &Commit,
    files: &[FilePath],
) -> Result<()> {
    let missing = files.iter().filter(|file| !cache.has(commit, file));
    let metas = missing
        .map(|file| fetch::retry(|_| hub.meta(commit, file), |text| say!("{text}")))
        .collect::<Result<Vec<Meta>>>()?;
    if metas.is_empty() {
        return Ok(());
    }
    // Files with the same contents are fetched once.
    let mut blobs = BTreeSet::new();
    let mut absent: Vec<&Meta> = metas.iter().collect();
    absent
        .retain(|meta| !cache.has_blob(&meta.etag, meta.size) && blobs.insert(meta.etag.as_str()));
    let total = absent.iter().fold(0_u64, |sum, meta| sum.saturating_add(meta.size));
    let partial =
        |meta: &Meta| fs::metadata(cache.incomplete(&meta.etag)).map_or(0, |data| data.len());
    let there = absent.iter().fold(0_u64, |sum, meta| sum.saturating_add(partial(meta)));
    check_room(cache, total.saturating_sub(there))?;
    let mut progress = Progress::new(title, absent.len(), total)?;
    for meta in &metas {
        fetch::fetch(hub, cache, commit, meta, &mut progress)?;
    }
    progress.finish();
    Ok(())
}

/// Refuses what cannot fit before any of it is fetched.
fn check_room(cache: &Cache, needed: u64) -> Result<()> {
    let root = cache.root().display();
    match cache.free_bytes() {
        Some(free) if free < needed => bail!(
            "{} are to come, and {root} has room for {}: {} are missing; make room, or set HF_HUB_CACHE to a folder on a larger disk",
            HumanBytes(needed),
            HumanBytes(free),
            HumanBytes(needed - free)
        ),
        _ => Ok(()),
    }
}
