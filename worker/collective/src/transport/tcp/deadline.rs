//! A deadline that can be polled, so that waiting for several sockets up to a point in time needs
//! no clock: the kernel keeps the time.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

/// Becomes readable once its time has passed, and stays so.
pub(crate) struct Deadline(platform::Timer);

impl Deadline {
    /// A deadline `time` from now; more than zero.
    pub fn after(time: Duration) -> io::Result<Self> {
        platform::Timer::start(time).map(Self)
    }

    pub fn fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(target_os = "linux")]
mod platform {
    use super::*;
    use rustix::event::Timespec;
    use rustix::time::{
        Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, timerfd_create,
        timerfd_settime,
    };

    pub struct Timer(std::os::fd::OwnedFd);

    impl Timer {
        pub fn start(time: Duration) -> io::Result<Self> {
            let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC)?;
            let once = Itimerspec {
                it_interval: Timespec::default(),
                it_value: Timespec::try_from(time)
                    .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?,
            };
            timerfd_settime(&timer, TimerfdTimerFlags::empty(), &once)?;
            Ok(Self(timer))
        }
    }

    impl AsFd for Timer {
        fn as_fd(&self) -> BorrowedFd<'_> {
            self.0.as_fd()
        }
    }
}

#[cfg(not(target_os = "linux"))]
use threaded as platform;

/// Where there is no timer to poll: a thread that sleeps and then closes a pipe. Dropping the timer
/// ends it. Also built for tests, so that it is tested where there is one.
#[cfg(any(test, not(target_os = "linux")))]
mod threaded {
    use super::*;
    use std::sync::mpsc;

    pub struct Timer {
        reader: io::PipeReader,
        _cancel: mpsc::Sender<()>,
    }

    impl Timer {
        pub fn start(time: Duration) -> io::Result<Self> {
            let (reader, writer) = io::pipe()?;
            let (cancel, cancelled) = mpsc::channel();
            std::thread::Builder::new()
                .name("ring-deadline".to_owned())
                .spawn(move || {
                    // Nothing is ever sent: this ends by the time, or by the timer's drop.
                    let _ = cancelled.recv_timeout(time);
                    drop(writer);
                })?;
            Ok(Self {
                reader,
                _cancel: cancel,
            })
        }
    }

    impl AsFd for Timer {
        fn as_fd(&self) -> BorrowedFd<'_> {
            self.reader.as_fd()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::event::{PollFd, PollFlags, Timespec, poll};

    fn ready(fd: BorrowedFd<'_>, timeout: Option<&Timespec>) -> bool {
        let mut fds = [PollFd::from_borrowed_fd(fd, PollFlags::IN)];
        poll(&mut fds, timeout).unwrap() == 1
    }

    #[test]
    fn a_deadline_is_ready_when_its_time_has_passed_and_stays_so() {
        let (short, long) = (Duration::from_millis(2), Duration::from_secs(3600));
        let passed = Deadline::after(short).unwrap();
        assert!(ready(passed.fd(), None) && ready(passed.fd(), None));
        let passed = threaded::Timer::start(short).unwrap();
        assert!(ready(passed.as_fd(), None) && ready(passed.as_fd(), None));
        let now = Some(&Timespec::default());
        assert!(!ready(Deadline::after(long).unwrap().fd(), now));
        assert!(!ready(threaded::Timer::start(long).unwrap().as_fd(), now));
    }
}
