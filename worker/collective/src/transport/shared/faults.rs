//! Processes that are killed or stopped at each phase of an operation in shared memory.
//!
//! A process whose environment has [`STRIKE`] ends, or stops, itself at that moment: between two
//! instructions of its own, so that the moment is exact. Its parent sees the signal, which is how a
//! fault is known to have been spent.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use ringfold_common::ids::Rank;
use rustix::process::{Pid, Signal, WaitOptions};

use crate::testing::{identity, on_threads};
use crate::{AbortSignal, CollectiveError, LastSign, RingOptions, SharedHost, join_shared};

/// "operation moment signal", as in `3 sending kill`.
const STRIKE: &str = "RINGFOLD_TEST_STRIKE";
/// Where the host's ranks meet.
const HOST: &str = "RINGFOLD_TEST_SHARED_MEETING";
const VICTIM: Rank = Rank(1);
const WORLD: u32 = 3;

/// When in an operation, by the ticks of it that the victim has posted; none before it has entered.
const MOMENTS: [(&str, Option<u32>); 3] = [
    ("before", None),
    // Its contribution is written.
    ("sending", Some(0)),
    // It has folded its slice.
    ("reducing", Some(1)),
];
const SIGNALS: [(&str, Signal); 2] = [("kill", Signal::KILL), ("stop", Signal::STOP)];

/// Called at every moment of every operation.
pub(super) fn strike(operation: u64, ticks: Option<u32>) {
    static PLAN: OnceLock<Option<(u64, Option<u32>, Signal)>> = OnceLock::new();
    let plan = PLAN.get_or_init(|| {
        let words = std::env::var(STRIKE).ok()?;
        let mut words = words.split(' ');
        let operation = words.next()?.parse().ok()?;
        let moment = words.next()?;
        let (_, ticks) = *MOMENTS.iter().find(|(name, _)| *name == moment)?;
        let signal = words.next()?;
        let (_, signal) = *SIGNALS.iter().find(|(name, _)| *name == signal)?;
        Some((operation, ticks, signal))
    });
    if let Some((at, moment, signal)) = plan
        && (*at, *moment) == (operation, ticks)
    {
        rustix::process::kill_process(rustix::process::getpid(), *signal).unwrap();
        // The signal may reach another thread first.
        loop {
            std::thread::park();
        }
    }
}

/// The victim's own calls: as the others', without an end.
#[test]
#[ignore = "the process that the tests of this module start"]
fn victim() {
    let Ok(host) = std::env::var(HOST) else {
        return;
    };
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).unwrap();
    let elements = line.trim().parse().unwrap();
    let (options, abort) = (RingOptions::default(), AbortSignal::new().unwrap());
    let mut ring = join_shared(&host, identity(VICTIM.0, WORLD), options, abort).unwrap();
    println!("joined");
    loop {
        if ring.all_reduce_sum_f32(&mut vec![1.0; elements]).is_err() {
            return;
        }
    }
}

fn start(host: &str, elements: usize, strike: &str) -> Child {
    let module = module_path!();
    let name = format!("{}::victim", &module[module.find("::").unwrap() + 2..]);
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", &name, "--ignored", "--nocapture"])
        .env(HOST, host)
        .env(STRIKE, strike)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    writeln!(child.stdin.take().unwrap(), "{elements}").unwrap();
    child
}

/// Runs until the fault, and returns the survivors' errors.
fn survive(elements: usize, operation: u64, moment: &str, signal: &str) -> Vec<CollectiveError> {
    let host = SharedHost::bind().unwrap();
    let address = host.address().to_owned();
    let strike = format!("{operation} {moment} {signal}");
    let mut child = start(&address, elements, &strike);
    let options = RingOptions {
        progress_deadline: match signal {
            "stop" => Duration::from_millis(300),
            _ => RingOptions::default().progress_deadline,
        },
        ..RingOptions::default()
    };
    let errors = on_threads(vec![(0, Some(host)), (2, None)], |(rank, host)| {
        let (identity, abort) = (identity(rank, WORLD), AbortSignal::new().unwrap());
        let mut ring = match host {
            Some(host) => host.connect_ring(identity, options, abort),
            None => join_shared(&address, identity, options, abort),
        }
        .unwrap();
        ring.keep_operands(true);
        let before: Vec<f32> = (0..elements).map(|i| i as f32).collect();
        loop {
            let mut values = before.clone();
            if let Err(error) = ring.all_reduce_sum_f32(&mut values) {
                assert!(values == before, "{strike} {elements}: {error}");
                break error;
            }
        }
    });
    let lines = BufReader::new(child.stdout.take().unwrap());
    assert!(lines.lines().any(|line| line.unwrap().ends_with("joined")) || signal == "stop");
    // Spent: the victim's end, or its stop, is by that signal.
    let pid = Pid::from_child(&child);
    let status = rustix::process::waitpid(Some(pid), WaitOptions::UNTRACED);
    let (_, status) = status.unwrap().unwrap();
    match signal {
        "kill" => assert_eq!(status.terminating_signal(), Some(Signal::KILL.as_raw())),
        _ => {
            assert_eq!(status.stopping_signal(), Some(Signal::STOP.as_raw()));
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }
    errors
}

#[test]
fn a_process_that_is_killed_or_stopped_at_any_phase_is_named_with_all_that_is_known() {
    let operation = 3;
    let mut spent = 0;
    for (moment, _) in MOMENTS {
        for (signal, _) in SIGNALS {
            // Slices in one block, and in several. (One shot has one tick: nobody reduces before it.)
            for elements in [40_000, 400_000] {
                for error in survive(elements, operation, moment, signal) {
                    let words = error.to_string();
                    assert_eq!(error.accused(), [VICTIM], "{moment} {signal}: {words}");
                    let (CollectiveError::PeerClosed { at, .. }
                    | CollectiveError::Stalled { at, .. }) = &error
                    else {
                        panic!("{moment} {signal}: {words}")
                    };
                    assert_eq!(at.operation, operation, "{moment} {signal}: {words}");
                    let LastSign::Entered { call, .. } = at.last_sign else {
                        panic!("{moment} {signal}: {words}")
                    };
                    let seen_in = operation - u64::from(moment == "before");
                    assert_eq!(call.operation, seen_in, "{moment} {signal}: {words}");
                    for part in [
                        "rank 1 on this host",
                        "operation 3 (all-reduce sum f32), reduce-scatter step",
                        &format!(" of {} bytes", elements * 4),
                        &format!("it was last seen in operation {seen_in}"),
                    ] {
                        assert!(
                            words.contains(part) || moment == "reducing",
                            "{part}: {words}"
                        );
                    }
                }
                spent += 1;
            }
        }
    }
    assert_eq!(spent, MOMENTS.len() * SIGNALS.len() * 2);
}
