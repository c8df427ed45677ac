//! The crates of the workspace and what they depend on.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::Path;

use cargo_metadata::{DependencyKind, MetadataCommand};

/// Every package that a build of the workspace may use, by name. Versions of one package are one.
#[derive(Debug, Default)]
pub struct Workspace {
    packages: BTreeMap<String, Package>,
}

/// A package.
#[derive(Debug, Default)]
pub struct Package {
    /// Its name.
    pub name: String,
    /// A member's directory from the root; `None` for everything else.
    pub directory: Option<String>,
    /// What a member's manifest names.
    pub named: Vec<Named>,
    /// Packages that it links or builds with.
    shipped: BTreeSet<String>,
}

/// A dependency as a manifest names it.
#[derive(Debug)]
pub struct Named {
    /// The package.
    pub name: String,
    /// The version requirement; `None` for a path.
    pub version: Option<String>,
    /// True for a dev-dependency.
    pub dev: bool,
}

impl Package {
    /// The path of its manifest.
    pub fn manifest(&self) -> String {
        match self.directory.as_deref() {
            Some("") | None => "Cargo.toml".to_owned(),
            Some(directory) => format!("{directory}/Cargo.toml"),
        }
    }

    /// True if it lies in `directory`, or is the package of that directory.
    pub fn is_under(&self, directory: &str) -> bool {
        self.directory.as_deref().is_some_and(|own| {
            own.strip_prefix(directory)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        })
    }
}

impl Workspace {
    /// Asks cargo.
    pub fn read(root: &Path) -> Result<Self, cargo_metadata::Error> {
        let metadata = MetadataCommand::new()
            .manifest_path(root.join("Cargo.toml"))
            .exec()?;
        let members: BTreeSet<_> = metadata.workspace_members.iter().collect();
        let mut packages: BTreeMap<String, Package> = BTreeMap::new();
        let mut names = BTreeMap::new();
        for package in &metadata.packages {
            names.insert(&package.id, package.name.to_string());
            let known = packages.entry(package.name.to_string()).or_default();
            known.name = package.name.to_string();
            if !members.contains(&package.id) {
                continue;
            }
            let manifest = package.manifest_path.as_std_path();
            let directory = manifest.parent().and_then(|d| {
                let own = d.strip_prefix(metadata.workspace_root.as_std_path()).ok()?;
                Some(own.to_string_lossy().into_owned())
            });
            known.directory = Some(directory.unwrap_or_default());
            known.named = package.dependencies.iter().map(named).collect();
        }
        for node in metadata.resolve.iter().flat_map(|resolve| &resolve.nodes) {
            let shipped = node.deps.iter().filter(|dependency| {
                let kinds = &dependency.dep_kinds;
                kinds.iter().any(|k| k.kind != DependencyKind::Development)
            });
            let shipped: Vec<String> = shipped
                .filter_map(|dependency| names.get(&dependency.pkg).cloned())
                .collect();
            if let Some(package) = names.get(&node.id).and_then(|name| packages.get_mut(name)) {
                package.shipped.extend(shipped);
            }
        }
        Ok(Self { packages })
    }

    /// The members of the workspace.
    pub fn members(&self) -> impl Iterator<Item = &Package> {
        self.packages.values().filter(|p| p.directory.is_some())
    }

    /// The shortest ways from `from` to every package that matches: through everything that it
    /// links or builds with, and one step to what only its tests name. A way starts with `from`.
    pub fn ways(&self, from: &Package, matches: impl Fn(&str) -> bool) -> Vec<Vec<String>> {
        let mut before: BTreeMap<&str, &str> = BTreeMap::new();
        let mut open = VecDeque::from([from.name.as_str()]);
        let mut found = Vec::new();
        while let Some(name) = open.pop_front() {
            let next = self.packages.get(name).map(|package| &package.shipped);
            for next in next.into_iter().flatten().map(String::as_str) {
                if next == from.name || before.contains_key(next) {
                    continue;
                }
                before.insert(next, name);
                if matches(next) {
                    found.push(next);
                } else {
                    // Nothing is reported behind what is forbidden already.
                    open.push_back(next);
                }
            }
        }
        let mut ways: Vec<Vec<String>> = found
            .into_iter()
            .map(|end| {
                let mut way = vec![end.to_owned()];
                let mut name = end;
                while let Some(previous) = before.get(name) {
                    way.push((*previous).to_owned());
                    name = previous;
                }
                way.reverse();
                way
            })
            .collect();
        let dev = from.named.iter().filter(|n| n.dev && matches(&n.name));
        ways.extend(
            dev.filter(|named| !before.contains_key(named.name.as_str()))
                .map(|named| vec![from.name.clone(), named.name.clone()]),
        );
        ways
    }
}

fn named(dependency: &cargo_metadata::Dependency) -> Named {
    Named {
        name: dependency.name.clone(),
        version: dependency
            .source
            .as_ref()
            .map(|_| dependency.req.to_string()),
        dev: dependency.kind == DependencyKind::Development,
    }
}

#[cfg(test)]
pub mod sketch {
    //! Workspaces for tests, from a few words.

    use super::*;

    /// Each package is (name, directory, dependencies); an empty directory makes it a foreign
    /// package; a dependency is `name`, `dev:name`, or either with `@version` (`@=1.0.0` if none).
    pub fn workspace(packages: &[(&str, &str, &[&str])]) -> Workspace {
        let packages = packages.iter().map(|(name, directory, dependencies)| {
            let named: Vec<Named> = dependencies.iter().map(|text| named(text)).collect();
            let shipped = named.iter().filter(|n| !n.dev).map(|n| n.name.clone());
            let package = Package {
                name: (*name).to_owned(),
                directory: (!directory.is_empty()).then(|| (*directory).to_owned()),
                shipped: shipped.collect(),
                named,
            };
            ((*name).to_owned(), package)
        });
        Workspace {
            packages: packages.collect(),
        }
    }

    fn named(text: &str) -> Named {
        let (dev, text) = match text.strip_prefix("dev:") {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let (name, version) = text.split_once('@').unwrap_or((text, "=1.0.0"));
        Named {
            name: name.to_owned(),
            version: (!name.starts_with("ringfold-")).then(|| version.to_owned()),
            dev,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ways_are_shortest_and_name_every_step() {
        let workspace = sketch::workspace(&[
            ("a", "a", &["b", "c"]),
            ("b", "b", &["d"]),
            ("c", "c", &["b", "dev:x"]),
            ("d", "", &["x"]),
            ("x", "", &[]),
        ]);
        let a = &workspace.packages["a"];
        let ways = workspace.ways(a, |name| name == "x");
        assert_eq!(ways, [["a", "b", "d", "x"]]);
        let c = &workspace.packages["c"];
        assert_eq!(workspace.ways(c, |name| name == "x").len(), 1);
        let d = &workspace.packages["d"];
        assert!(workspace.ways(d, |name| name == "b").is_empty());
    }

    #[test]
    fn a_directory_is_no_prefix_of_another_word() {
        let workspace = sketch::workspace(&[("a", "worker/train", &[]), ("b", "workers", &[])]);
        assert!(workspace.packages["a"].is_under("worker"));
        assert!(!workspace.packages["b"].is_under("worker"));
    }

    #[test]
    fn this_repository_is_read() {
        let workspace = Workspace::read(&crate::repository()).unwrap();
        let own = workspace.members().find(|p| p.name == "xtask").unwrap();
        assert_eq!(own.manifest(), "xtask/Cargo.toml");
        assert!(own.named.iter().any(|n| n.name == "cargo_metadata"));
        assert!(!workspace.ways(own, |name| name == "serde_json").is_empty());
    }
}
