//! Golden transcripts: `testdata/*.txt` hold commands, and after each what the core does.
//!
//! A line that starts with `> ` is a command, one that starts with `#` a remark; the lines after
//! a command are the effects in words. `RINGFOLD_BLESS=1 cargo test -p ringfold-coordinator-core
//! --test transcripts` writes what the core does now; look at the difference before you commit it.

mod rig;

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use rig::Rig;
use ringfold_common::ids::{JobId, SlotId, Step};
use ringfold_common::job::{Cause, JobEvent, JobEventKind, Phase};
use ringfold_coordinator_core::{
    Change, Command, Effect, Event, ExitCause, RequestId, SlotState, StreamEnd,
};

const BLESS: &str = "RINGFOLD_BLESS";

#[test]
fn transcripts_are_as_blessed() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata");
    let mut paths: Vec<_> = std::fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    paths.sort();
    assert!(paths.len() >= 6);
    for path in paths {
        let expected = std::fs::read_to_string(&path).unwrap();
        let actual = play(&expected);
        if std::env::var_os(BLESS).is_some() {
            std::fs::write(&path, actual).unwrap();
        } else {
            assert!(
                actual == expected,
                "{} differs; with {BLESS}=1 it becomes:\n{actual}",
                path.display()
            );
        }
    }
}

/// The script's remarks and commands, each command followed by what the core does.
fn play(script: &str) -> String {
    let mut rig = Rig::new();
    let mut out = String::new();
    for line in script.lines() {
        if let Some(command) = line.strip_prefix("> ") {
            writeln!(out, "{line}").unwrap();
            let words: Vec<_> = command.split_whitespace().collect();
            run(&mut rig, &words, &mut out);
        } else if line.starts_with('#') || line.is_empty() {
            writeln!(out, "{line}").unwrap();
        }
    }
    out
}

fn run(rig: &mut Rig, words: &[&str], out: &mut String) {
    let effects = match *words {
        ["register", node] => {
            let slot = rig.next_slot();
            let info = rig::info(node, slot);
            rig.event(Event::SlotRegistered { slot, info })
        }
        ["submit", workers] => submit(rig, workers, None),
        ["submit", workers, token] => submit(rig, workers, Some(token.to_owned())),
        ["cancel", job] => rig.event(Event::Cancel {
            request: RequestId(1),
            job: job.parse::<JobId>().unwrap(),
        }),
        ["heard", id] => rig.event(Event::Heard { slot: slot(id) }),
        ["listen", id] => rig.listen(slot(id)),
        ["train", id] => rig.train(slot(id)),
        ["phase", id, "step", step] => {
            rig.phase(slot(id), Phase::Training(Step(step.parse().unwrap())))
        }
        ["progress", id, step] => rig.progress(slot(id), step.parse().unwrap()),
        ["evaluate", id, step] => rig.evaluate(slot(id), step.parse().unwrap()),
        ["finish", id] => rig.finish(slot(id)),
        ["fail", id, "peer-lost", ref text @ ..] => {
            rig.fail(slot(id), Cause::PeerLost(text.join(" ")))
        }
        ["fail", id, "error", ref text @ ..] => rig.fail(slot(id), Cause::Error(text.join(" "))),
        ["stopped", id] => rig.stopped(slot(id)),
        ["lost", id] => rig.close(slot(id), StreamEnd::Lost),
        ["left", id] => rig.close(slot(id), StreamEnd::Left),
        ["exit", node, id, code] => {
            rig.exit(node, slot(id), ExitCause::Exited(code.parse().unwrap()))
        }
        ["signal", node, id, signal] => rig.exit(
            node,
            slot(id),
            ExitCause::Signalled(signal.parse().unwrap()),
        ),
        ["wait", ms] => rig.tick_after(Duration::from_millis(ms.parse().unwrap())),
        ["restart"] => rig.restart(),
        ["look"] => return look(rig, out),
        _ => panic!("unknown command {words:?}"),
    };
    for effect in &effects {
        tell(effect, out);
    }
}

fn submit(rig: &mut Rig, workers: &str, client_token: Option<String>) -> Vec<Effect> {
    rig.event(Event::Submit {
        request: RequestId(1),
        spec: rig::spec(workers.parse().unwrap()),
        dataset: rig::dataset(),
        client_token,
    })
}

fn slot(id: &str) -> SlotId {
    SlotId(id.parse().unwrap())
}

fn tell(effect: &Effect, out: &mut String) {
    match effect {
        Effect::Commit { expected, changes } => {
            let changes: Vec<_> = changes.iter().map(change).collect();
            writeln!(out, "commit at {expected}: {}", changes.join(", "))
        }
        Effect::Send { slot, command } => writeln!(out, "send {slot}: {}", words(command)),
        Effect::CloseSlot { slot, reason } => writeln!(out, "close {slot}: {reason}"),
        Effect::Reply { result, .. } => match result {
            Ok(reply) => writeln!(out, "reply {reply:?}"),
            Err(refusal) => writeln!(out, "refuse with {}: {refusal}", refusal.code()),
        },
        Effect::Publish(event) => writeln!(out, "publish {}", event_words(event)),
    }
    .unwrap();
}

fn change(change: &Change) -> String {
    match change {
        Change::PutJob(record) => format!(
            "put {} {} in epoch {}",
            record.id, record.state, record.membership_epoch
        ),
        Change::DropJob(id) => format!("drop {id}"),
        Change::SetNextJob(id) => format!("next is {id}"),
    }
}

fn words(command: &Command) -> String {
    match command {
        Command::Assign(assignment) => format!(
            "assign {} of {}, replicas {:?}, tests {:?}",
            assignment.fence,
            assignment.world,
            assignment.part.replicas,
            assignment.part.test_records
        ),
        Command::Prepare(preparation) => format!("prepare for {}", preparation.job),
        Command::StartRing { fence, peers, .. } => {
            format!("start the ring of {fence} on {}", peers.join(" "))
        }
        Command::Abort { fence, reason } => format!("abort {fence}: {reason}"),
    }
}

fn event_words(event: &JobEvent) -> String {
    let what = match &event.kind {
        JobEventKind::State { state, reason, .. } => format!("{state}, {reason}"),
        JobEventKind::Progress(progress) => format!("progress to step {}", progress.step),
        JobEventKind::Evaluation(evaluation) => format!("evaluation at step {}", evaluation.step),
    };
    format!("{} #{}: {what}", event.job, event.sequence)
}

fn look(rig: &Rig, out: &mut String) {
    for job in rig.core.jobs() {
        let record = job.record;
        writeln!(out, "{} {}, {}", record.id, record.state, record.reason).unwrap();
    }
    for view in rig.core.slots() {
        let state = match view.state {
            SlotState::Free => "free".to_owned(),
            SlotState::Joining(job) => format!("joins {job}"),
            SlotState::Assigned(fence) => format!("is {fence}"),
            SlotState::Stopping(fence) => format!("stops being {fence}"),
        };
        writeln!(out, "{} on {} {state}", view.slot, view.info.node).unwrap();
    }
    writeln!(out, "stale messages: {}", rig.core.stale_messages()).unwrap();
}
