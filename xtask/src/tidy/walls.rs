//! Which crate may reach which, and who may name a guarded dependency.

use super::Breach;
use super::workspace::{Package, Workspace};

/// A set of crates and what it must not reach.
struct Wall {
    who: &'static str,
    applies: fn(&Package) -> bool,
    /// Package names; a final `*` stands for any rest.
    forbidden: &'static [&'static str],
    fix: &'static str,
}

const ASYNC_AND_IO: &[&str] = &[
    "tokio*",
    "tonic*",
    "prost*",
    "hyper*",
    "h2",
    "tower*",
    "axum*",
    "mio",
    "socket2",
    "futures*",
    "async-*",
    "smol",
    "redb",
    "etcd-client",
    "reqwest",
];

const WALLS: [Wall; 6] = [
    Wall {
        who: "the coordinator computes nothing",
        applies: |package| package.is_under("coordinator"),
        forbidden: &[
            "ringfold-compute",
            "ringfold-cuda",
            "ringfold-collective",
            "ringfold-train",
            "gemm*",
            "cudarc",
            "*blas*",
        ],
        fix: "move what both sides need to `common`, or ask a worker for it",
    },
    Wall {
        who: "workers and clients meet the coordinator in `proto` only",
        // The command links both shells, for the local mode.
        applies: |package| {
            (package.is_under("worker") || package.is_under("client")) && package.name != "ringfold"
        },
        forbidden: &["ringfold-coordinator*"],
        fix: "put the shared type in `common`, or a message in `proto`",
    },
    Wall {
        who: "estimators stand beside train, not on it",
        applies: |package| package.name == "ringfold-estimators",
        forbidden: &["ringfold-train"],
        fix: "both stand on `collective` and `storage`: move what they share there",
    },
    Wall {
        who: "pure crates know no async runtime and do no IO",
        applies: |package| {
            matches!(
                package.name.as_str(),
                "ringfold-common"
                    | "ringfold-graph"
                    | "ringfold-compute"
                    | "ringfold-coordinator-core"
            )
        },
        forbidden: ASYNC_AND_IO,
        fix: "return an effect or a value, and let the shell do the IO",
    },
    Wall {
        who: "wire types stay in the shells",
        applies: |package| {
            matches!(
                package.name.as_str(),
                "ringfold-coordinator-core"
                    | "ringfold-collective"
                    | "ringfold-storage"
                    | "ringfold-train"
                    | "ringfold-estimators"
                    | "ringfold-graph"
                    | "ringfold-compute"
            )
        },
        forbidden: &["ringfold-proto"],
        fix: "take a type of `common`; the shell converts with `TryFrom`",
    },
    Wall {
        who: "`common` is at the bottom",
        applies: |package| package.name == "ringfold-common",
        forbidden: &["ringfold-*"],
        fix: "move the code to the crate that it needs",
    },
];

/// Dependencies that one manifest at most may name: what they are, and the packages.
const GUARDED: [(&str, &[&str]); 5] = [
    ("CUDA", &["cudarc"]),
    ("etcd", &["etcd-client"]),
    (
        "the proto compiler",
        &["protox", "tonic-prost-build", "tonic-build", "prost-build"],
    ),
    ("the web framework", &["axum"]),
    ("the embedded database", &["redb"]),
];

/// Checks every wall.
pub fn check(workspace: &Workspace) -> Vec<Breach> {
    let mut breaches = Vec::new();
    for wall in &WALLS {
        let matches = |name: &str| wall.forbidden.iter().any(|p| fits(p, name));
        for package in workspace
            .members()
            .filter(|package| (wall.applies)(package))
        {
            for way in workspace.ways(package, matches) {
                breaches.push(Breach {
                    place: package.manifest(),
                    rule: "wall",
                    what: format!("{}, but {}", wall.who, way.join(" -> ")),
                    fix: wall.fix.to_owned(),
                });
            }
        }
    }
    for (what, names) in GUARDED {
        breaches.extend(guard(workspace, what, names));
    }
    breaches
}

fn guard(workspace: &Workspace, what: &str, names: &[&str]) -> Option<Breach> {
    let manifests: Vec<String> = workspace
        .members()
        .filter(|package| {
            let mut named = package.named.iter();
            named.any(|dependency| names.contains(&dependency.name.as_str()))
        })
        .map(Package::manifest)
        .collect();
    let (first, others) = manifests.split_first()?;
    (!others.is_empty()).then(|| Breach {
        place: others.join(", "),
        rule: "guarded dependency",
        what: format!("{what} ({}) is named by {first} already", names.join(", ")),
        fix: "let one crate name it, and depend on that crate".to_owned(),
    })
}

/// True if `name` is `pattern`, whose `*` at either end stands for anything.
fn fits(pattern: &str, name: &str) -> bool {
    match (pattern.strip_prefix('*'), pattern.strip_suffix('*')) {
        (Some(rest), Some(_)) => name.contains(rest.trim_end_matches('*')),
        (Some(end), None) => name.ends_with(end),
        (None, Some(start)) => name.starts_with(start),
        (None, None) => name == pattern,
    }
}

#[cfg(test)]
mod tests {
    use super::super::workspace::sketch::workspace;
    use super::*;

    /// What is wrong with a workspace, as `place: what`.
    fn wrong(packages: &[(&str, &str, &[&str])]) -> Vec<String> {
        let breaches = check(&workspace(packages));
        breaches
            .iter()
            .map(|breach| format!("{}: {}", breach.place, breach.what))
            .collect()
    }

    #[test]
    fn the_house_as_designed_passes() {
        let got = wrong(&[
            ("ringfold-common", "common", &["serde"]),
            ("ringfold-graph", "common/graph", &["ringfold-common"]),
            (
                "ringfold-compute",
                "common/compute",
                &["ringfold-graph", "gemm"],
            ),
            (
                "ringfold-proto",
                "proto",
                &["ringfold-common", "prost", "protox", "tonic-prost-build"],
            ),
            (
                "ringfold-storage",
                "worker/storage",
                &["ringfold-common", "dev:proptest"],
            ),
            (
                "ringfold-train",
                "worker/train",
                &["ringfold-compute", "ringfold-storage"],
            ),
            (
                "ringfold-worker",
                "worker",
                &["ringfold-train", "ringfold-proto", "tokio"],
            ),
            (
                "ringfold-coordinator-core",
                "coordinator/core",
                &["ringfold-common"],
            ),
            (
                "ringfold-coordinator",
                "coordinator",
                &["ringfold-coordinator-core", "ringfold-storage", "tokio"],
            ),
            (
                "ringfold",
                "client/cli",
                &["ringfold-coordinator", "ringfold-worker"],
            ),
            ("prost", "", &["tokio"]),
        ]);
        assert_eq!(got, Vec::<String>::new());
    }

    #[test]
    fn the_coordinator_must_not_reach_compute_even_through_others() {
        let got = wrong(&[
            ("ringfold-coordinator", "coordinator", &["ringfold-storage"]),
            ("ringfold-storage", "worker/storage", &["ringfold-train"]),
            ("ringfold-train", "worker/train", &[]),
        ]);
        assert_eq!(
            got,
            [
                "coordinator/Cargo.toml: the coordinator computes nothing, but \
              ringfold-coordinator -> ringfold-storage -> ringfold-train"
            ]
        );
    }

    #[test]
    fn the_coordinator_must_not_reach_a_blas_or_cuda() {
        for foreign in ["gemm", "gemm-f32", "cudarc", "openblas-src"] {
            let got = wrong(&[
                (
                    "ringfold-coordinator-store",
                    "coordinator/store",
                    &["middle"],
                ),
                ("middle", "", &[foreign]),
            ]);
            assert_eq!(got.len(), 1, "{foreign}");
        }
    }

    #[test]
    fn workers_and_clients_must_not_reach_the_coordinator() {
        for (name, directory) in [
            ("ringfold-worker", "worker"),
            ("ringfold-collective", "worker/collective"),
            ("ringfold-client", "client"),
        ] {
            let got = wrong(&[(name, directory, &["ringfold-coordinator-core"])]);
            assert_eq!(got.len(), 1, "{name}");
            assert!(got[0].contains("`proto` only"));
        }
        let tests_only = [(
            "ringfold-worker",
            "worker",
            &["dev:ringfold-coordinator"][..],
        )];
        assert_eq!(wrong(&tests_only).len(), 1);
        let command = [("ringfold", "client/cli", &["ringfold-coordinator"][..])];
        assert!(wrong(&command).is_empty());
    }

    #[test]
    fn estimators_must_not_stand_on_train() {
        let got = wrong(&[(
            "ringfold-estimators",
            "worker/estimators",
            &["ringfold-train"],
        )]);
        assert!(got[0].contains("estimators stand beside train"));
    }

    #[test]
    fn pure_crates_must_not_reach_a_runtime() {
        for (name, directory) in [
            ("ringfold-common", "common"),
            ("ringfold-graph", "common/graph"),
            ("ringfold-compute", "common/compute"),
            ("ringfold-coordinator-core", "coordinator/core"),
        ] {
            let direct = wrong(&[(name, directory, &["tokio-util"])]);
            assert_eq!(direct.len(), 1, "{name}");
            let behind = wrong(&[(name, directory, &["x"]), ("x", "", &["mio"])]);
            assert!(behind[0].contains("-> x -> mio"), "{name}");
            let in_tests = wrong(&[(name, directory, &["dev:tokio"])]);
            assert_eq!(in_tests.len(), 1, "{name}");
            // What a test tool itself links is its own business.
            let tool = wrong(&[(name, directory, &["dev:tool"]), ("tool", "", &["tokio"])]);
            assert!(tool.is_empty(), "{name}");
        }
    }

    #[test]
    fn wire_types_stay_out_of_the_inner_crates() {
        for dependency in ["ringfold-proto", "dev:ringfold-proto"] {
            let got = wrong(&[("ringfold-train", "worker/train", &[dependency])]);
            assert!(got[0].contains("wire types stay in the shells"));
        }
    }

    #[test]
    fn common_depends_on_no_other_crate_of_ours() {
        let got = wrong(&[("ringfold-common", "common", &["ringfold-graph"])]);
        assert!(got[0].contains("at the bottom"));
    }

    #[test]
    fn a_guarded_dependency_has_one_owner() {
        for (_, names) in GUARDED {
            let one = [("a", "a", &[names[0]][..]), ("b", "b", &[])];
            assert!(wrong(&one).is_empty());
            let last = names[names.len() - 1];
            let two = [("a", "a", &[names[0]][..]), ("b", "b", &[last][..])];
            let got = wrong(&two);
            assert_eq!(got.len(), 1, "{names:?}");
            assert!(got[0].starts_with("b/Cargo.toml: "));
            assert!(got[0].contains("named by a/Cargo.toml"));
        }
    }

    #[test]
    fn patterns() {
        assert!(fits("tokio*", "tokio-util") && fits("h2", "h2") && fits("*blas*", "openblas-src"));
        assert!(!fits("h2", "h2x") && !fits("tokio*", "atokio"));
    }
}
