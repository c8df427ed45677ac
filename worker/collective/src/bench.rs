//! How fast an all-reduce is, measured by its ranks together.
//!
//! A sample is the time of a batch of operations, of the slowest rank, divided by their number;
//! batches are long enough (200 µs) that reading the clock doesn't show. Warm-up is not counted.

mod duplex;

use std::fmt;
use std::time::Duration;

use ringfold_common::clock::Clock;
use ringfold_common::random::Stream;

use crate::algorithm::Replicas;
use crate::compression::{Compressor, Matrix, Method, Traffic};
use crate::{CollectiveError, Reduce, ReplicaBuffers, Ring};

pub use duplex::duplex;

/// Bytes that a rank copies to measure the machine.
const COPY_BYTES: usize = 64 << 20;
const COPY_ROUNDS: usize = 5;
const WARM_UP: u32 = 3;
const BATCH_SECONDS: f64 = 200e-6;
const SAMPLES_MIN: f64 = 7.0;
const SAMPLES_MAX: f64 = 400.0;

/// Which all-reduce of 32-bit floats, by sum.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Mode {
    /// [`Ring::all_reduce`].
    Fast,
    /// [`Ring::reproducible_all_reduce`] of so many replicas; folding a rank's own is not counted.
    Reproducible(u32),
    /// [`Compressor::all_reduce`], with any error feedback, of uniform numbers. The vector is one matrix,
    /// as near to a square as may be, and a rest.
    Compressed(Method),
}

/// The result for one size. Shown as one line of JSON.
#[derive(Clone, Copy, Debug)]
pub struct Measured {
    /// The length of the vector.
    pub bytes: usize,
    /// The number of ranks.
    pub world: u32,
    /// Half of the samples were no slower.
    pub median: Duration,
    /// Nine of ten samples were no slower.
    pub p90: Duration,
    /// Bytes that all ranks together copied a second, each 64 MiB from memory to memory at once.
    pub copy_bytes_per_second: f64,
    /// What a rank sent in one all-reduce; of compressed ones only.
    pub traffic: Option<Traffic>,
    /// What as many bytes take both ways on a plain connection, if that was [measured](duplex()) in the
    /// same run.
    pub duplex: Option<Duration>,
}

impl Measured {
    /// Bytes of the vector a second.
    #[must_use]
    pub fn algorithm_bandwidth(&self) -> f64 {
        self.bytes as f64 / self.median.as_secs_f64()
    }

    /// Bytes a second that a rank of a ring would have to send to be as fast: `2(w-1)/w` of the
    /// vector. Comparable between worlds.
    #[must_use]
    pub fn bus_bandwidth(&self) -> f64 {
        let world = f64::from(self.world);
        self.algorithm_bandwidth() * 2.0 * (world - 1.0) / world
    }

    /// The share of a plain connection's speed, if that was measured.
    #[must_use]
    pub fn duplex_share(&self) -> Option<f64> {
        Some(self.duplex?.as_secs_f64() / self.median.as_secs_f64())
    }
}

impl fmt::Display for Measured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{{\"bytes\":{},\"median_us\":{:.2},\"p90_us\":{:.2},\"algbw_gbps\":{:.6},\
             \"busbw_gbps\":{:.6},\"copy_gbps\":{:.3}",
            self.bytes,
            self.median.as_secs_f64() * 1e6,
            self.p90.as_secs_f64() * 1e6,
            self.algorithm_bandwidth() / 1e9,
            self.bus_bandwidth() / 1e9,
            self.copy_bytes_per_second / 1e9,
        )?;
        if let Some(traffic) = self.traffic {
            let (sent, saved) = (traffic.sent_bytes, traffic.saved_bytes());
            write!(f, ",\"sent_bytes\":{sent},\"saved_bytes\":{saved}")?;
        }
        if let (Some(duplex), Some(share)) = (self.duplex, self.duplex_share()) {
            let micros = duplex.as_secs_f64() * 1e6;
            write!(f, ",\"duplex_us\":{micros:.2},\"duplex_share\":{share:.3}")?;
        }
        f.write_str("}")
    }
}

/// Measures the memory of the machine: all ranks copy at once.
///
/// # Errors
/// Those of the ring.
pub fn copy_bandwidth(ring: &mut Ring, clock: &dyn Clock) -> Result<f64, CollectiveError> {
    let from = vec![1_u8; COPY_BYTES];
    let mut to = vec![0_u8; COPY_BYTES];
    let mut samples = Vec::new();
    for _ in 0..COPY_ROUNDS {
        ring.barrier()?;
        let start = clock.monotonic();
        to.copy_from_slice(std::hint::black_box(&from));
        std::hint::black_box(&mut to);
        samples.push((clock.monotonic() - start).as_secs_f64());
    }
    ring.all_reduce(&mut samples, Reduce::Max)?;
    samples.sort_by(f64::total_cmp);
    Ok(COPY_BYTES as f64 * f64::from(ring.world()) / samples[COPY_ROUNDS / 2])
}

/// Measures vectors of `bytes` (whole 32-bit floats) for about `seconds`. All ranks call it.
///
/// # Errors
/// Those of the ring, and [`ReplicaWorld`](CollectiveError::ReplicaWorld) if there are fewer
/// replicas than ranks.
pub fn measure(
    ring: &mut Ring,
    clock: &dyn Clock,
    bytes: usize,
    mode: Mode,
    seconds: f64,
) -> Result<Measured, CollectiveError> {
    let copy_bytes_per_second = copy_bandwidth(ring, clock)?;
    let elements = bytes / size_of::<f32>();
    let mut subject = Subject::new(ring, mode, elements)?;
    let mut batch = |ring: &mut Ring, operations: u32| -> Result<f64, CollectiveError> {
        ring.barrier()?;
        let took = subject.run(ring, clock, operations)?;
        Ok(took.as_secs_f64() / f64::from(operations))
    };
    batch(ring, WARM_UP)?;
    // All ranks must do the same: the slowest decides.
    let mut once = [batch(ring, WARM_UP)?.max(1e-7)];
    ring.all_reduce(&mut once, Reduce::Max)?;
    let operations = (BATCH_SECONDS / once[0]).ceil().max(1.0);
    let count = (seconds / (operations * once[0])).clamp(SAMPLES_MIN, SAMPLES_MAX) as usize;
    let mut samples = Vec::with_capacity(count);
    for _ in 0..count {
        samples.push(batch(ring, operations as u32)?);
    }
    ring.all_reduce(&mut samples, Reduce::Max)?;
    samples.sort_by(f64::total_cmp);
    let at = |share: f64| Duration::from_secs_f64(samples[(count as f64 * share) as usize]);
    Ok(Measured {
        bytes,
        world: ring.world(),
        median: at(0.5),
        p90: at(0.9),
        copy_bytes_per_second,
        traffic: subject.traffic(),
        duplex: None,
    })
}

/// What is summed.
enum Subject {
    Fast(Vec<f32>),
    Reproducible(ReplicaBuffers<f32>),
    Compressed {
        compressor: Compressor,
        /// Where values come from before each sum, since sums of sums would grow.
        source: Vec<f32>,
        values: Vec<f32>,
        last: Traffic,
    },
}

impl Subject {
    fn new(ring: &Ring, mode: Mode, elements: usize) -> Result<Self, CollectiveError> {
        Ok(match mode {
            Mode::Fast => Self::Fast(vec![0.0; elements]),
            Mode::Reproducible(replicas) => Self::Reproducible(zeros(ring, replicas, elements)?),
            Mode::Compressed(method) => {
                let rows = elements.isqrt();
                let matrix = Matrix {
                    start: 0,
                    rows,
                    columns: elements.checked_div(rows).unwrap_or(0),
                };
                let matrices: &[Matrix] = if rows > 0 { &[matrix] } else { &[] };
                let stream = Stream::new(ring.rank().0.into(), 0);
                let numbers = (0..elements as u64).map(|at| stream.uniform(at) as f32 - 0.5);
                Self::Compressed {
                    compressor: Compressor::new(method, elements, matrices)?,
                    source: numbers.collect(),
                    values: vec![0.0; elements],
                    last: Traffic::default(),
                }
            }
        })
    }

    /// Sums so many times, and returns the time that it took.
    fn run(
        &mut self,
        ring: &mut Ring,
        clock: &dyn Clock,
        operations: u32,
    ) -> Result<Duration, CollectiveError> {
        let start = clock.monotonic();
        let mut aside = Duration::ZERO;
        for _ in 0..operations {
            match self {
                Self::Fast(values) => ring.all_reduce(values, Reduce::Sum)?,
                Self::Reproducible(buffers) => ring.reproducible_all_reduce(buffers).map(|_| ())?,
                Self::Compressed {
                    compressor,
                    source,
                    values,
                    last,
                } => {
                    let copying = clock.monotonic();
                    values.copy_from_slice(source);
                    aside += clock.monotonic() - copying;
                    *last = compressor.all_reduce(ring, 0, values)?;
                }
            }
        }
        Ok((clock.monotonic() - start).saturating_sub(aside))
    }

    fn traffic(&self) -> Option<Traffic> {
        match self {
            Self::Compressed { last, .. } => Some(*last),
            _ => None,
        }
    }
}

fn zeros(
    ring: &Ring,
    replicas: u32,
    elements: usize,
) -> Result<ReplicaBuffers<f32>, CollectiveError> {
    let world = ring.world();
    let replicas = Replicas::new(replicas, world).ok_or(CollectiveError::ReplicaWorld {
        rank: ring.rank(),
        world,
        buffers: replicas,
    })?;
    let mut buffers = ReplicaBuffers::new(&replicas, ring.rank(), elements)?;
    while buffers.due().is_some() {
        buffers.push(vec![0.0; elements])?;
    }
    Ok(buffers)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::RingOptions;
    use crate::testing::{join_memory, on_threads};
    use ringfold_common::clock::SystemClock;

    #[test]
    fn all_ranks_get_the_same_figures() {
        for mode in [
            Mode::Fast,
            Mode::Reproducible(3),
            Mode::Compressed(Method::Int8 { block: 64 }),
            Mode::Compressed(Method::PowerSgd { rank: 2, seed: 1 }),
        ] {
            let figures = on_threads(join_memory(2, RingOptions::default()), |(mut ring, _)| {
                let measured = measure(&mut ring, &SystemClock::new(), 4096, mode, 0.001).unwrap();
                assert!(measured.median <= measured.p90 && measured.copy_bytes_per_second > 0.0);
                (measured.median, measured.p90)
            });
            assert_eq!(figures[0], figures[1]);
        }
    }

    #[test]
    fn a_line_is_json_with_units_in_its_names() {
        let mut measured = Measured {
            bytes: 1 << 20,
            world: 4,
            median: Duration::from_micros(500),
            p90: Duration::from_micros(625),
            copy_bytes_per_second: 8e9,
            traffic: None,
            duplex: None,
        };
        assert_eq!(
            measured.to_string(),
            "{\"bytes\":1048576,\"median_us\":500.00,\"p90_us\":625.00,\"algbw_gbps\":2.097152,\
             \"busbw_gbps\":3.145728,\"copy_gbps\":8.000}"
        );
        measured.traffic = Some(Traffic {
            sent_bytes: 100,
            plain_bytes: 70,
        });
        let line = measured.to_string();
        assert!(
            line.ends_with(",\"sent_bytes\":100,\"saved_bytes\":-30}"),
            "{line}"
        );
        measured.traffic = None;
        measured.duplex = Some(Duration::from_micros(450));
        let line = measured.to_string();
        assert!(
            line.ends_with(",\"duplex_us\":450.00,\"duplex_share\":0.900}"),
            "{line}"
        );
    }
}
