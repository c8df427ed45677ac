//! Faults on the wires of a ring over TCP, each at a moment that is chosen beforehand by a seed.
//!
//! Ranks reach each other through relays. A relay knows whose frames it passes on, and which message
//! of which operation each belongs to; when the planned one comes by, it does the damage, once, and
//! counts it: a test can tell a fault that was survived from one that never happened.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use ringfold_common::ids::Rank;

use crate::{HANDSHAKE_BYTES, HEADER_BYTES};

/// How long a [delayed](Fault::Delay) frame waits.
const DELAY: Duration = Duration::from_millis(20);

/// What happens to the victim, or to a frame of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// All its connections are closed.
    Close,
    /// Half of the frame arrives; then its connection is closed.
    Truncate,
    /// One bit of the frame's header arrives changed.
    FlipBit,
    /// From here on nothing moves to or from the victim, and its connections stay open.
    Stop,
    /// The frame waits a little. This harms nobody.
    Delay,
    /// What [`Wires::new`] was given for it is called, and then its connections are closed.
    Kill,
}

/// When it happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// Before anything of the operation has left the victim.
    Before,
    /// In the middle of its first message.
    Sending,
    /// In the middle of its second one: the others fold, or have folded, the first.
    Reducing,
}

/// One fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// What this plan was made from.
    pub seed: u64,
    /// The number of ranks.
    pub world: u32,
    /// To whom it happens.
    pub victim: Rank,
    /// In which operation, counted from 1.
    pub operation: u64,
    /// When in that.
    pub moment: Moment,
    /// What.
    pub fault: Fault,
    /// The length of the operands, in 32-bit numbers.
    pub elements: usize,
}

impl Plan {
    /// The faults that need no process of the victim's own.
    pub const FAULTS: [Fault; 5] = [
        Fault::Close,
        Fault::Truncate,
        Fault::FlipBit,
        Fault::Stop,
        Fault::Delay,
    ];
    /// All moments.
    pub const MOMENTS: [Moment; 3] = [Moment::Before, Moment::Sending, Moment::Reducing];

    /// The plan of `seed`. Any 15 seeds in a row have every fault of [`FAULTS`](Self::FAULTS) at
    /// every moment.
    #[must_use]
    pub fn from_seed(seed: u64) -> Self {
        let mut state = seed;
        let mut below = move |bound: u64| {
            // SplitMix64 (Steele, Lea and Flood, 2014).
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut word = state;
            word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            (word ^ (word >> 31)) % bound
        };
        let world = 3 + below(3) as u32;
        Self {
            seed,
            world,
            victim: Rank(below(u64::from(world)) as u32),
            operation: 2 + below(4),
            moment: Self::MOMENTS[(seed / 5 % 3) as usize],
            fault: Self::FAULTS[(seed % 5) as usize],
            // One shot; halving and doubling; around the ring.
            elements: [100, 50_000, 1_000_000][below(3) as usize],
        }
    }
}

/// The relays of a ring. Dropping them closes all its connections.
pub struct Wires {
    shared: Arc<Shared>,
    addrs: Vec<SocketAddr>,
    accepting: Vec<JoinHandle<()>>,
}

struct Shared {
    plan: Plan,
    kill: Box<dyn Fn() + Send + Sync>,
    /// Messages of the victim's that began in the operation.
    messages: AtomicU32,
    spent: AtomicU32,
    closing: AtomicBool,
    stopped: Mutex<bool>,
    changed: Condvar,
    /// The two ends of every connection, and which ranks they connect.
    open: Mutex<Vec<([Rank; 2], TcpStream, TcpStream)>>,
}

/// One direction of a connection.
struct Pump {
    from: Rank,
    to: Rank,
    source: TcpStream,
    target: TcpStream,
}

impl Wires {
    /// Relays to the ranks that listen at `targets`, in rank order. `kill` ends the victim, for
    /// [`Fault::Kill`].
    ///
    /// # Panics
    /// If the loopback has no free port.
    #[must_use]
    pub fn new(
        plan: Plan,
        targets: &[SocketAddr],
        kill: impl Fn() + Send + Sync + 'static,
    ) -> Self {
        let shared = Arc::new(Shared {
            plan,
            kill: Box::new(kill),
            messages: AtomicU32::new(0),
            spent: AtomicU32::new(0),
            closing: AtomicBool::new(false),
            stopped: Mutex::new(false),
            changed: Condvar::new(),
            open: Mutex::new(Vec::new()),
        });
        let mut addrs = Vec::new();
        let mut accepting = Vec::new();
        for (rank, &target) in (0..).map(Rank).zip(targets) {
            let here = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
            let listener = TcpListener::bind(here).expect("a free port on the loopback");
            addrs.push(listener.local_addr().expect("the port that was bound"));
            let shared = Arc::clone(&shared);
            accepting.push(thread::spawn(move || {
                shared.accept(&listener, rank, target)
            }));
        }
        Self {
            shared,
            addrs,
            accepting,
        }
    }

    /// Where ranks are reached through the relays, in rank order.
    #[must_use]
    pub fn addrs(&self) -> &[SocketAddr] {
        &self.addrs
    }

    /// How many faults have happened: 1, or 0 if the moment never came.
    #[must_use]
    pub fn spent(&self) -> u32 {
        self.shared.spent.load(Ordering::SeqCst)
    }
}

impl Drop for Wires {
    fn drop(&mut self) {
        self.shared.closing.store(true, Ordering::SeqCst);
        self.shared.changed.notify_all();
        self.shared.close(|_| true);
        for (addr, thread) in self.addrs.iter().zip(self.accepting.drain(..)) {
            // Ends its wait for a caller. A relay whose thread has panicked has failed its test.
            let _ = TcpStream::connect(addr);
            let _ = thread.join();
        }
    }
}

impl Shared {
    /// Takes calls for `rank`, which listens at `target`, until the wires are dropped.
    fn accept(self: &Arc<Self>, listener: &TcpListener, rank: Rank, target: SocketAddr) {
        for caller in listener.incoming() {
            if self.closing.load(Ordering::SeqCst) {
                return;
            }
            // A caller that leaves before it has said who it is has no wire.
            if let Ok(caller) = caller {
                let _ = self.connect(caller, rank, target);
            }
        }
    }

    fn connect(
        self: &Arc<Self>,
        mut caller: TcpStream,
        rank: Rank,
        target: SocketAddr,
    ) -> io::Result<()> {
        let mut hello = [0; HANDSHAKE_BYTES];
        caller.read_exact(&mut hello)?;
        let mut callee = TcpStream::connect(target)?;
        caller.set_nodelay(true)?;
        callee.set_nodelay(true)?;
        callee.write_all(&hello)?;
        let calling = Rank(u32::from_le_bytes(std::array::from_fn(|i| hello[12 + i])));
        let ends = (caller.try_clone()?, callee.try_clone()?);
        self.open().push(([calling, rank], ends.0, ends.1));
        let there = Pump {
            from: calling,
            to: rank,
            source: caller.try_clone()?,
            target: callee.try_clone()?,
        };
        let back = Pump {
            from: rank,
            to: calling,
            source: callee,
            target: caller,
        };
        for (pump, answers) in [(there, false), (back, true)] {
            let shared = Arc::clone(self);
            // They end with their sockets.
            thread::spawn(move || shared.pump(pump, answers));
        }
        Ok(())
    }

    /// Passes on what comes until one side has closed, and then closes the other.
    fn pump(&self, mut pump: Pump, answers: bool) {
        // What ends a relay is the end of one of its sockets, which the other is to see.
        let _ = self.pass_on(&mut pump, answers);
        let _ = pump.target.shutdown(Shutdown::Write);
    }

    fn pass_on(&self, pump: &mut Pump, answers: bool) -> io::Result<()> {
        if answers {
            let mut answer = [0; HANDSHAKE_BYTES];
            pump.source.read_exact(&mut answer)?;
            pump.target.write_all(&answer)?;
        }
        let mut frame = vec![0; HEADER_BYTES];
        loop {
            frame.resize(HEADER_BYTES, 0);
            pump.source.read_exact(&mut frame)?;
            let u32_at = |at: usize| u32::from_le_bytes(std::array::from_fn(|i| frame[at + i]));
            let operation = u64::from_le_bytes(std::array::from_fn(|i| frame[24 + i]));
            let (segment, payload) = (u32_at(48), u32_at(52) as usize);
            let strikes = self.strikes(pump.from, operation, segment, payload);
            frame.resize(HEADER_BYTES + payload, 0);
            pump.source.read_exact(&mut frame[HEADER_BYTES..])?;
            self.wait_while_stopped(pump);
            if strikes && !self.strike(pump, &mut frame)? {
                return Ok(());
            }
            pump.target.write_all(&frame)?;
        }
    }

    /// True if the moment has come, once.
    fn strikes(&self, from: Rank, operation: u64, segment: u32, payload: usize) -> bool {
        let plan = &self.plan;
        if from != plan.victim || operation != plan.operation {
            return false;
        }
        let begins = segment == 0 && payload > 0;
        let number = match begins {
            true => self.messages.fetch_add(1, Ordering::SeqCst) + 1,
            false => 0,
        };
        let due = match plan.moment {
            Moment::Before => true,
            Moment::Sending => number == 1,
            Moment::Reducing => number == 2,
        };
        let first = || {
            self.spent
                .compare_exchange(0, 1, Ordering::SeqCst, Ordering::SeqCst)
        };
        due && first().is_ok()
    }

    /// Does the damage. True if the frame, as it is then, is to be passed on.
    fn strike(&self, pump: &mut Pump, frame: &mut [u8]) -> io::Result<bool> {
        let sent = match (self.plan.moment, self.plan.fault) {
            (_, Fault::FlipBit | Fault::Delay) | (Moment::Before, Fault::Close | Fault::Kill) => 0,
            (Moment::Before, Fault::Stop) => 0,
            (Moment::Before, Fault::Truncate) => HEADER_BYTES / 2,
            _ => HEADER_BYTES + (frame.len() - HEADER_BYTES) / 2,
        };
        pump.target.write_all(&frame[..sent])?;
        let victim = self.plan.victim;
        match self.plan.fault {
            Fault::Close => self.close(|ranks| ranks.contains(&victim)),
            Fault::Truncate => {
                pump.source.shutdown(Shutdown::Both)?;
                pump.target.shutdown(Shutdown::Both)?;
            }
            Fault::FlipBit => {
                let at = self.plan.seed as usize * 7 % HEADER_BYTES;
                frame[at] ^= 1 << (self.plan.seed % 8);
                return Ok(true);
            }
            Fault::Stop => {
                *self.stopped() = true;
                self.wait_while_stopped(pump);
            }
            Fault::Delay => {
                thread::sleep(DELAY);
                return Ok(true);
            }
            Fault::Kill => {
                (self.kill)();
                self.close(|ranks| ranks.contains(&victim));
            }
        }
        Ok(false)
    }

    fn wait_while_stopped(&self, pump: &Pump) {
        let victim = self.plan.victim;
        let mut stopped = self.stopped();
        let holds = pump.from == victim || pump.to == victim;
        while *stopped && holds && !self.closing.load(Ordering::SeqCst) {
            let waited = self.changed.wait_timeout(stopped, DELAY);
            stopped = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn close(&self, which: impl Fn(&[Rank; 2]) -> bool) {
        for (_, caller, callee) in self.open().iter().filter(|(ranks, ..)| which(ranks)) {
            // One that is closed already is what is wanted.
            let _ = caller.shutdown(Shutdown::Both);
            let _ = callee.shutdown(Shutdown::Both);
        }
    }

    fn open(&self) -> std::sync::MutexGuard<'_, Vec<([Rank; 2], TcpStream, TcpStream)>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stopped(&self) -> std::sync::MutexGuard<'_, bool> {
        self.stopped.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
