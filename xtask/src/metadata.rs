//! What `cargo metadata` says about the dependency graph, for this machine's platform.

use std::collections::HashMap;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde::Deserialize;

#[derive(Deserialize)]
pub(crate) struct Metadata {
    pub(crate) packages: Vec<Package>,
    resolve: Resolve,
    workspace_members: Vec<String>,
}

#[derive(Deserialize)]
pub(crate) struct Package {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) license: Option<String>,
    pub(crate) source: Option<String>,
}

#[derive(Deserialize)]
struct Resolve {
    nodes: Vec<Node>,
}

#[derive(Deserialize)]
struct Node {
    id: String,
    deps: Vec<Edge>,
}

#[derive(Deserialize)]
struct Edge {
    pkg: String,
    dep_kinds: Vec<Kind>,
}

#[derive(Deserialize)]
struct Kind {
    kind: Option<String>,
}

impl Metadata {
    pub(crate) fn read(root: &Path) -> Result<Self> {
        let host = host_triple()?;
        let output = Command::new(env!("CARGO"))
            .args(["metadata", "--format-version", "1", "--locked", "--filter-platform", &host])
            .current_dir(root)
            .output()
            .context("cannot start cargo metadata")?;
        if !output.status.success() {
            bail!("cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
        }
        serde_json::from_slice(&output.stdout)
            .context("cargo metadata printed something unexpected")
    }

    /// The packages that end up in what users build: everything the workspace needs without its tests and benches.
    pub(crate) fn shipped(&self) -> Vec<&Package> {
        let nodes: HashMap<&str, &Node> =
            self.resolve.nodes.iter().map(|n| (n.id.as_str(), n)).collect();
        let mut found: Vec<&str> = self.workspace_members.iter().map(String::as_str).collect();
        let mut next = 0;
        while let Some(&id) = found.get(next) {
            next += 1;
            let Some(node) = nodes.get(id) else { continue };
            for edge in &node.deps {
                let shipped = edge.dep_kinds.iter().any(|k| k.kind.as_deref() != Some("dev"));
                if shipped && !found.contains(&edge.pkg.as_str()) {
                    found.push(&edge.pkg);
                }
            }
        }
        self.packages.iter().filter(|p| found.contains(&p.id.as_str())).collect()
    }
}

fn host_triple() -> Result<String> {
    let output = Command::new("rustc").arg("-vV").output().context("cannot start rustc")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let host = text
        .lines()
        .find_map(|line| line.strip_prefix("host: "))
        .context("rustc -vV names no host")?;
    Ok(host.to_owned())
}
