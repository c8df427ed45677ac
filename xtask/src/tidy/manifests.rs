//! Pinned versions, a reason for every dependency, inherited lints.

use super::Breach;
use super::workspace::Package;

/// Checks the root manifest: each line of `[workspace.dependencies]` stands under a comment that
/// says why, alone or in a group without blank lines, and pins its version.
pub fn check_root(path: &str, manifest: &str) -> Vec<Breach> {
    let mut breaches = Vec::new();
    let (mut inside, mut explained, mut depth) = (false, false, 0usize);
    for (index, line) in manifest.lines().enumerate() {
        let line = line.trim();
        if line.starts_with('[') && depth == 0 {
            inside = line == "[workspace.dependencies]";
            explained = false;
            continue;
        }
        if !inside {
            continue;
        }
        if line.starts_with('#') {
            explained = true;
            continue;
        }
        if line.is_empty() {
            explained = false;
            continue;
        }
        if depth == 0 {
            let (name, value) = line.split_once('=').unwrap_or((line, ""));
            let place = format!("{path}:{}", index + 1);
            if !explained {
                breaches.push(Breach {
                    place: place.clone(),
                    rule: "dependency",
                    what: format!("`{}` has no reason", name.trim()),
                    fix: "put a comment above it, or above its group, that says why".to_owned(),
                });
            }
            if version(value).is_some_and(|version| !version.starts_with('=')) {
                breaches.push(unpinned(
                    place,
                    name.trim(),
                    version(value).unwrap_or_default(),
                ));
            }
        }
        depth += line.matches(['[', '{']).count();
        depth = depth.saturating_sub(line.matches([']', '}']).count());
    }
    breaches
}

/// Checks a member: it inherits the workspace's lints, and every foreign version is pinned.
pub fn check_member(member: &Package, manifest: &str) -> Vec<Breach> {
    let mut breaches = Vec::new();
    if !inherits_lints(manifest) {
        breaches.push(Breach {
            place: member.manifest(),
            rule: "lints",
            what: "the workspace's lints are not inherited".to_owned(),
            fix: "add `[lints]` with `workspace = true`".to_owned(),
        });
    }
    for named in &member.named {
        if let Some(version) = named.version.as_deref().filter(|v| !v.starts_with('=')) {
            breaches.push(unpinned(member.manifest(), &named.name, version));
        }
    }
    breaches
}

fn unpinned(place: String, name: &str, version: &str) -> Breach {
    Breach {
        place,
        rule: "pin",
        what: format!("`{name}` is \"{version}\""),
        fix: "pin the exact version: `name = \"=1.2.3\"`".to_owned(),
    }
}

fn inherits_lints(manifest: &str) -> bool {
    let mut inside = false;
    for line in manifest.lines().map(str::trim) {
        if line.starts_with('[') {
            inside = line == "[lints]";
        } else if inside && line.replace(' ', "") == "workspace=true" {
            return true;
        }
    }
    false
}

/// The version in the value of a dependency: `"1"`, or `{ version = "1", … }`.
fn version(value: &str) -> Option<&str> {
    let value = value.trim();
    let text = if value.starts_with('"') {
        value
    } else {
        let (_, after) = value.split_once("version")?;
        after.trim_start().strip_prefix('=')?
    };
    text.split('"').nth(1)
}

#[cfg(test)]
mod tests {
    use super::super::workspace::sketch::workspace;
    use super::*;

    fn wrong(dependencies: &str) -> Vec<String> {
        let manifest =
            format!("[workspace]\nmembers = []\n[workspace.dependencies]\n{dependencies}");
        let breaches = check_root("Cargo.toml", &manifest);
        breaches
            .iter()
            .map(|breach| format!("{} {}", breach.place, breach.rule))
            .collect()
    }

    #[test]
    fn a_dependency_has_a_reason() {
        assert!(wrong("# Ours.\na = { path = \"a\" }\nb = { path = \"b\" }\n").is_empty());
        assert_eq!(wrong("a = \"=1.0.0\"\n"), ["Cargo.toml:4 dependency"]);
        let split = "# Ours.\na = { path = \"a\" }\n\nb = { path = \"b\" }\n";
        assert_eq!(wrong(split), ["Cargo.toml:7 dependency"]);
        let lines =
            "# Why.\na = { version = \"=1.0.0\", features = [\n  \"x\",\n] }\nb = \"=1.0.0\"\n";
        assert!(wrong(lines).is_empty());
        assert!(wrong("# Why.\na = \"=1.0.0\"\n[profile.dev]\nopt-level = 1\n").is_empty());
    }

    #[test]
    fn a_version_is_pinned() {
        assert_eq!(wrong("# Why.\na = \"1.0.0\"\n"), ["Cargo.toml:5 pin"]);
        let table = "# Why.\na = { features = [\"x\"], version = \"^1\" }\n";
        assert_eq!(wrong(table), ["Cargo.toml:5 pin"]);
        assert!(wrong("# Why.\na = { version = \"=1.0.0\" }\n").is_empty());
    }

    fn wrong_member(dependency: &str, manifest: &str) -> Vec<&'static str> {
        let workspace = workspace(&[("a", "a", &[dependency])]);
        let member = workspace.members().next().unwrap();
        check_member(member, manifest)
            .iter()
            .map(|breach| breach.rule)
            .collect()
    }

    #[test]
    fn a_member_inherits_lints() {
        assert!(wrong_member("x", "[package]\n[lints]\nworkspace = true\n").is_empty());
        assert_eq!(wrong_member("x", "[package]\nname = \"a\"\n"), ["lints"]);
        assert_eq!(
            wrong_member("x", "[lints]\n[package]\nworkspace = true\n"),
            ["lints"]
        );
    }

    #[test]
    fn a_member_pins_versions() {
        let lints = "[lints]\nworkspace = true\n";
        assert_eq!(wrong_member("x@^1.0", lints), ["pin"]);
        assert_eq!(wrong_member("dev:x@1", lints), ["pin"]);
        assert!(wrong_member("x@=1.0.0", lints).is_empty());
        assert!(wrong_member("ringfold-common", lints).is_empty());
    }
}
