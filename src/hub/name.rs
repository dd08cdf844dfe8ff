//! Names that go into URLs and paths: what a user typed and what a server sent, parsed once, harmless afterwards.

use std::fmt;

use anyhow::{Context, Result, bail};

/// A model as a user names it: `ORG/NAME`, or `ORG/NAME:PICK` for one GGUF among several.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reference {
    pub(crate) repo: Repo,
    /// The name of a `.gguf` file, or the end of one such as `Q4_K_M`.
    pub(crate) pick: Option<FilePath>,
}

/// `ORG/NAME`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Repo {
    organisation: String,
    name: String,
}

impl Reference {
    /// `None` when the text does not look like a model of the hub.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (repo, pick) = match text.split_once(':') {
            Some((repo, pick)) => (repo, Some(FilePath::parse(pick).ok()?)),
            None => (text, None),
        };
        let (organisation, name) = repo.split_once('/')?;
        let good = |part: &str| {
            // The cache writes "/" as "--", so neither that nor "..", which leads out of it, may be in a name.
            (1..=96).contains(&part.len())
                && !part.starts_with(['-', '.'])
                && !part.contains("--")
                && !part.contains("..")
                && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
        };
        // Who names a file that is not there does not mean a model of the hub.
        let is_file = name.ends_with(".gguf") || name.ends_with(".safetensors");
        let repo = Repo { organisation: organisation.to_owned(), name: name.to_owned() };
        (good(organisation) && good(name) && !is_file).then_some(Self { repo, pick })
    }
}

impl Repo {
    /// Its folder in the cache.
    pub(crate) fn folder(&self) -> String {
        format!("models--{}--{}", self.organisation, self.name)
    }
}

impl fmt::Display for Repo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.organisation, self.name)
    }
}

/// The path of a file inside a repository, with `/`: relative, and never out of it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct FilePath(String);

impl FilePath {
    const MOST_PARTS: usize = 8;

    pub(crate) fn parse(text: &str) -> Result<Self> {
        let good = |part: &str| {
            (1..=240).contains(&part.len())
                && part != "."
                && part != ".."
                && !part.contains(['\\', ':'])
                && !part.chars().any(char::is_control)
        };
        let parts = text.split('/').take(Self::MOST_PARTS + 1);
        if parts.clone().count() > Self::MOST_PARTS || !parts.clone().all(good) {
            bail!("{text:?} is not the plain relative path of a file");
        }
        Ok(Self(text.to_owned()))
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    /// How many folders it lies in.
    pub(crate) fn depth(&self) -> usize {
        self.0.matches('/').count()
    }

    /// The last part of the path.
    pub(crate) fn file_name(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or(&self.0)
    }
}

impl fmt::Display for FilePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A branch, a tag, a pull request (`refs/pr/1`) or a commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Revision(FilePath);

impl Revision {
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let path = FilePath::parse(text).ok().filter(|_| !text.starts_with('-'));
        path.map(Self).with_context(|| {
            format!("--revision {text:?} is not the name of a branch or tag, nor a commit")
        })
    }

    pub(crate) fn as_str(&self) -> &str {
        self.0.as_str()
    }

    /// The commit, when it is one in full; then it can never mean another.
    pub(crate) fn commit(&self) -> Option<Commit> {
        Commit::parse(self.as_str()).ok()
    }
}

/// Forty hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Commit(String);

impl Commit {
    pub(crate) fn parse(text: &str) -> Result<Self> {
        if !is_hex(text, 40) {
            bail!("{text:?} is not a commit");
        }
        Ok(Self(text.to_owned()))
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

/// What names the contents of a file, and its blob in the cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Etag(String);

impl Etag {
    /// Reads the value of an `ETag` header: quoted, perhaps marked as weak.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let plain = text.strip_prefix("W/").unwrap_or(text).trim_matches('"');
        let good = (1..=128).contains(&plain.len())
            && !plain.starts_with('.')
            && plain.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
        if !good {
            bail!("the hub names the contents {text:?}, which cannot be the name of a file");
        }
        Ok(Self(plain.to_owned()))
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    /// Large files are named by the SHA-256 of their contents.
    pub(crate) fn is_sha256(&self) -> bool {
        is_hex(&self.0, 64)
    }

    /// Small files are named as git names them, by the SHA-1 of their length and contents.
    pub(crate) fn is_git_sha1(&self) -> bool {
        is_hex(&self.0, 40)
    }
}

fn is_hex(text: &str, length: usize) -> bool {
    text.len() == length && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

/// `text` as part of a URL; slashes stay.
pub(crate) fn url_encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~/".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn models_of_the_hub_are_told_from_paths() {
        for good in ["org/name", "meta-llama/Llama-3.2-1B", "a/b:Q4_K_M", "a/b:sub/x-Q8_0.gguf"] {
            let parsed = Reference::parse(good).expect(good);
            let pick = parsed.pick.map(|pick| format!(":{pick}")).unwrap_or_default();
            assert_eq!(format!("{}{pick}", parsed.repo), good);
        }
        let bad = [
            "",
            "name",
            "/a/b",
            "./a",
            "../b",
            "a/b/c",
            "a/..",
            "a/b:",
            "a/b:../c",
            "a//b",
            "a/",
            "/b",
            "~/b",
            "a b/c",
            "a--b/c",
            "a/b:/etc/passwd",
            "C:/b",
            "a/b\\c",
            "-a/b",
            "models/x.gguf",
        ];
        for bad in bad {
            assert_eq!(Reference::parse(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn paths_from_a_server_stay_inside() {
        for good in ["config.json", "a/b/c.gguf", "with space.json", "..x", "ünï.txt"] {
            assert!(FilePath::parse(good).is_ok(), "{good:?}");
        }
        let long = "x".repeat(300);
        let deep = "a/".repeat(20) + "b";
        for bad in ["", "/a", "a/", "..", "a/../b", ".", "a\\b", "C:x", "a\nb", "a\0", &long, &deep]
        {
            assert!(FilePath::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn etags_are_unwrapped_and_plain() {
        let sha = "a".repeat(64);
        assert!(Etag::parse(&format!("\"{sha}\"")).unwrap().is_sha256());
        assert!(Etag::parse(&format!("W/\"{}\"", &sha[..40])).unwrap().is_git_sha1());
        for bad in ["", "\"\"", "../x", "a/b", ".", "x y", &"a".repeat(200)] {
            assert!(Etag::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn names_are_encoded_for_urls() {
        assert_eq!(url_encoded("a/b c?#%ü.json"), "a/b%20c%3F%23%25%C3%BC.json");
    }
}
