//! Checks of the repository that the compiler can't make.
//!
//! Each rule is a pure function over a small model of the repository; this module reads the
//! repository and runs them.
//!
//! | module | what it checks |
//! |---|---|
//! | [`walls`] | which crate may reach which; who may name a guarded dependency |
//! | [`manifests`] | pinned versions, a reason for every dependency, inherited lints |
//! | [`purity`] | pure crates; clock reads |
//! | [`hygiene`] | sizes of files, unfinished code, unsafe code |
//! | [`wire`] | a comment on everything in `proto/` |
//! | [`job_file_doc`] | `docs/job-file.md` names what the job-file reader reads |

mod hygiene;
mod job_file_doc;
mod manifests;
mod purity;
mod source;
mod walls;
mod wire;
mod workspace;

use std::fmt;
use std::path::{Path, PathBuf};

use source::Source;
use workspace::Workspace;

const TABLES: [&str; 3] = [
    "common/src/job_file/tables.rs",
    "common/src/job_file/tables/model.rs",
    "common/src/job_file/tables/train.rs",
];
const JOB_FILE_DOC: &str = "docs/job-file.md";

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Breach {
    /// A file with or without a line, or a manifest.
    pub place: String,
    /// The name of the rule.
    pub rule: &'static str,
    /// What is there.
    pub what: String,
    /// What to do about it.
    pub fix: String,
}

impl fmt::Display for Breach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}: {} [{}]\n  {}",
            self.place, self.what, self.rule, self.fix
        )
    }
}

/// What all rules together found.
#[derive(Debug, Default)]
pub struct Report {
    /// Things that must change.
    pub breaches: Vec<Breach>,
    /// Things that may stay.
    pub warnings: Vec<Breach>,
    crates: usize,
    files: usize,
}

impl Report {
    /// One line for the end of the output.
    pub fn summary(&self) -> String {
        let warnings = match self.warnings.len() {
            0 => String::new(),
            1 => ", 1 warning".to_owned(),
            n => format!(", {n} warnings"),
        };
        let (crates, files) = (self.crates, self.files);
        match self.breaches.len() {
            0 => format!("tidy: {crates} crates and {files} files are in order{warnings}"),
            1 => format!("tidy: 1 breach in {crates} crates and {files} files{warnings}"),
            n => format!("tidy: {n} breaches in {crates} crates and {files} files{warnings}"),
        }
    }
}

/// Why the repository could not be checked.
#[derive(Debug)]
pub enum TidyError {
    /// `cargo metadata` failed.
    Metadata(cargo_metadata::Error),
    /// A file or directory can't be read.
    Read(PathBuf, std::io::Error),
}

impl fmt::Display for TidyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Metadata(_) => write!(f, "cargo metadata failed"),
            Self::Read(path, _) => write!(f, "can't read {}", path.display()),
        }?;
        std::error::Error::source(self).map_or(Ok(()), |source| write!(f, ": {source}"))
    }
}

impl std::error::Error for TidyError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Metadata(error) => Some(error),
            Self::Read(_, error) => Some(error),
        }
    }
}

/// Checks the repository at `root`.
///
/// # Errors
/// If it can't be read.
pub fn run(root: &Path) -> Result<Report, TidyError> {
    let workspace = Workspace::read(root).map_err(TidyError::Metadata)?;
    let files = files_under(root)?;
    let sources = Source::parse_all(texts(root, &files, ".rs")?);
    let protos = texts(root, &files, ".proto")?;
    let root_manifest = text(root, "Cargo.toml")?;

    let mut report = Report {
        crates: workspace.members().count(),
        files: sources.len() + protos.len(),
        ..Report::default()
    };
    let breaches = &mut report.breaches;
    breaches.extend(walls::check(&workspace));
    breaches.extend(manifests::check_root("Cargo.toml", &root_manifest));
    for member in workspace.members() {
        let path = member.manifest();
        let manifest = text(root, &path)?;
        breaches.extend(manifests::check_member(member, &manifest));
    }
    for source in &sources {
        breaches.extend(purity::check(source));
        breaches.extend(hygiene::check(source));
    }
    for (path, proto) in &protos {
        breaches.extend(wire::check(path, proto));
    }
    let doc = text(root, JOB_FILE_DOC)?;
    for tables in TABLES {
        let source = text(root, tables)?;
        breaches.extend(job_file_doc::check(tables, &source, JOB_FILE_DOC, &doc));
    }
    let sized = sources.iter().map(|source| (&source.path, &source.text));
    for (path, text) in sized.chain(protos.iter().map(|(path, text)| (path, text))) {
        breaches.extend(hygiene::too_long(path, text));
        report.warnings.extend(hygiene::long(path, text));
    }
    Ok(report)
}

fn text(root: &Path, path: &str) -> Result<String, TidyError> {
    let path = root.join(path);
    std::fs::read_to_string(&path).map_err(|error| TidyError::Read(path, error))
}

fn texts(root: &Path, files: &[String], end: &str) -> Result<Vec<(String, String)>, TidyError> {
    let chosen = files.iter().filter(|path| path.ends_with(end));
    chosen
        .map(|path| Ok((path.clone(), text(root, path)?)))
        .collect()
}

/// Every file of the repository, sorted, relative to `root`; not what builds or runs leave behind.
fn files_under(root: &Path) -> Result<Vec<String>, TidyError> {
    const SKIPPED: [&str; 3] = ["target", "out", "__pycache__"];
    let mut files = Vec::new();
    let mut open = vec![root.to_path_buf()];
    while let Some(directory) = open.pop() {
        let failed = |error| TidyError::Read(directory.clone(), error);
        for entry in std::fs::read_dir(&directory).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let kind = entry.file_type().map_err(failed)?;
            if kind.is_dir() && !name.starts_with('.') && !SKIPPED.contains(&name.as_str()) {
                open.push(entry.path());
            } else if kind.is_file()
                && let Ok(relative) = entry.path().strip_prefix(root)
            {
                files.push(relative.to_string_lossy().into_owned());
            }
        }
    }
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn breach() -> Breach {
        Breach {
            place: "a.rs:3".into(),
            rule: "clock",
            what: "reads a clock".into(),
            fix: "take a `Clock`".into(),
        }
    }

    #[test]
    fn a_breach_says_where_what_and_what_to_do() {
        assert_eq!(
            breach().to_string(),
            "a.rs:3: reads a clock [clock]\n  take a `Clock`"
        );
    }

    #[test]
    fn the_summary_counts() {
        let mut report = Report::default();
        assert!(report.summary().contains("are in order"));
        report.breaches.push(breach());
        report.warnings.push(breach());
        assert!(report.summary().starts_with("tidy: 1 breach in"));
        assert!(report.summary().ends_with(", 1 warning"));
    }

    #[test]
    fn walking_finds_sources_and_skips_builds() {
        let root = crate::repository();
        let files = files_under(&root).unwrap();
        assert!(files.contains(&"xtask/src/tidy/mod.rs".to_owned()));
        assert!(!files.iter().any(|path| path.starts_with("target/")));
    }
}
