//! A rank in a process of its own, to be stopped or killed.
//!
//! The process runs one ignored test, `victim`, of the program that starts it. It is told what to do by
//! an environment variable, says where it listens, and is told its peers.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Lines, Write};
use std::net::SocketAddr;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use crate::Listener;

/// The process.
#[derive(Debug)]
pub struct Victim {
    /// To stop, kill and wait for.
    pub child: Child,
    stdin: ChildStdin,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Victim {
    /// Starts the test `victim` of the running program, with `variable` set.
    ///
    /// # Panics
    /// If no process can be started.
    #[must_use]
    pub fn start(variable: &str, value: impl AsRef<OsStr>) -> Self {
        let program = std::env::current_exe().expect("this program's path");
        let mut child = Command::new(program)
            .args(["--exact", "victim", "--ignored", "--nocapture"])
            .env(variable, value)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a process");
        let stdout = child.stdout.take().expect("it is piped");
        Self {
            stdin: child.stdin.take().expect("it is piped"),
            lines: BufReader::new(stdout).lines(),
            child,
        }
    }

    /// Reads what it prints up to a line with `text`, and returns what follows that.
    ///
    /// # Panics
    /// If it ends without.
    pub fn said(&mut self, text: &str) -> String {
        let line = self.lines.find_map(|line| {
            let line = line.expect("the victim prints text");
            Some(line.split_once(text)?.1.to_owned())
        });
        line.unwrap_or_else(|| panic!("the victim ended before it said {text:?}"))
    }

    /// Where it listens, as [`meet`] prints it.
    ///
    /// # Panics
    /// If it doesn't say so.
    pub fn addr(&mut self) -> SocketAddr {
        self.said(ADDR).parse().expect("an address")
    }

    /// Tells it its peers, which [`meet`] reads.
    ///
    /// # Panics
    /// If it has ended.
    pub fn tell(&mut self, peers: &[SocketAddr]) {
        let peers: Vec<String> = peers.iter().map(SocketAddr::to_string).collect();
        writeln!(self.stdin, "{}", peers.join(" ")).expect("the victim listens");
    }
}

/// What stands before an address.
const ADDR: &str = "addr=";

/// In the victim: says where it listens, and waits to be told its peers.
///
/// # Panics
/// If it is told anything else.
#[must_use]
pub fn meet(listener: &Listener) -> Vec<SocketAddr> {
    println!("{ADDR}{}", listener.addr());
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).expect("a line");
    let peers = line.split_whitespace();
    peers.map(|p| p.parse().expect("an address")).collect()
}
