//! What links cost, measured by ranks together when a ring is joined.
//!
//! In turn: barriers, whose messages carry nothing, give the time of a message; all-reduces around the
//! ring give that of a byte; a fold in this rank's own memory gives that of folding one. Of each, the
//! least of a few rounds is taken, since whatever disturbs a round makes it longer. Then every rank
//! takes the greatest of all ranks' figures, so that all hold the same bytes and choose alike.

use std::time::Duration;

use ringfold_common::clock::Clock;

use crate::algorithm::cost::LinkCost;
use crate::algorithm::direct::{self, Tally};
use crate::algorithm::{self};
use crate::element::{bytes_of, bytes_of_mut, fold_of};
use crate::over_tcp::{Outcome, around_the_ring};
use crate::topology::RingTopology;
use crate::transport::tcp::{Call, Operand, TcpLink};
use crate::{CollectiveError, Reduce};

const ROUNDS: u32 = 5;
/// Vectors of which sums are timed, in 32-bit numbers: the next one if the one before took less than
/// [`ENOUGH`].
const ELEMENTS: [usize; 3] = [16 << 10, 256 << 10, 1 << 20];
/// What is long enough to tell a byte's time from a message's.
const ENOUGH: Duration = Duration::from_millis(2);
/// One more message while another is on its way, as a share of one: that of the loopback.
const OVERHEAD_SHARE: f64 = LinkCost::LOOPBACK.overhead_seconds / LinkCost::LOOPBACK.alpha_seconds;
/// No figure is less, whatever the clock says.
const LEAST_SECONDS: f64 = 1e-12;

/// Measures `link` under `call`, which all its messages carry. All ranks do the same.
pub(crate) fn measure(
    ring: RingTopology,
    link: &mut TcpLink,
    call: Call,
    clock: &dyn Clock,
) -> Result<LinkCost, CollectiveError> {
    let world = f64::from(ring.world());
    let hops = 2.0 * (world - 1.0);
    let messages = match link.is_direct() {
        true => f64::from(ring.world().next_power_of_two().ilog2()),
        false => hops,
    };
    let alpha = least(clock, || barrier(ring, link, call))?.as_secs_f64() / messages;

    let mut values = vec![0.0_f32; ELEMENTS[0]];
    let mut beta = 0.0;
    for elements in ELEMENTS {
        values.resize(elements, 0.0);
        let took = least(clock, || sum(ring, link, call, &mut values))?;
        // All must go on, or none: the slowest decides.
        let [took] = agree(ring, link, call, [took.as_secs_f64()])?;
        let moved = (elements * size_of::<f32>()) as f64 * hops / world;
        beta = (took - hops * alpha) / moved;
        if took >= ENOUGH.as_secs_f64() {
            break;
        }
    }
    let gamma = fold_seconds(clock, &mut values);
    let [alpha, beta, gamma] = agree(ring, link, call, [alpha, beta, gamma])?;
    Ok(LinkCost {
        alpha_seconds: alpha,
        overhead_seconds: alpha * OVERHEAD_SHARE,
        beta_seconds_per_byte: beta,
        gamma_seconds_per_byte: gamma,
    })
}

/// The greatest of all ranks' figures.
fn agree<const N: usize>(
    ring: RingTopology,
    link: &mut TcpLink,
    call: Call,
    mine: [f64; N],
) -> Result<[f64; N], CollectiveError> {
    let mut all = vec![[0.0_f64; N]; ring.world() as usize];
    all[ring.rank().0 as usize] = mine;
    around_the_ring(ring, link, call, bytes_of_mut(all.as_flattened_mut()))?;
    let greatest = |at: usize| {
        all.iter()
            .map(|figures| figures[at])
            .fold(LEAST_SECONDS, f64::max)
    };
    Ok(std::array::from_fn(greatest))
}

/// The least time of a few rounds, after one that is not counted.
fn least(
    clock: &dyn Clock,
    mut round: impl FnMut() -> Outcome,
) -> Result<Duration, CollectiveError> {
    round()?;
    let mut least = Duration::MAX;
    for _ in 0..ROUNDS {
        let start = clock.monotonic();
        round()?;
        least = least.min(clock.monotonic().saturating_sub(start));
    }
    Ok(least)
}

fn barrier(ring: RingTopology, link: &mut TcpLink, call: Call) -> Outcome {
    let nothing = Operand {
        bytes: &mut [],
        element_bytes: 1,
        fold: None,
    };
    if !link.is_direct() {
        return algorithm::barrier(ring, &mut link.begin(call, nothing));
    }
    let mut tally = Tally::default();
    direct::dissemination_barrier(ring, &mut tally)?;
    direct::dissemination_barrier(ring, &mut link.begin_direct(call, nothing, tally))
}

fn sum(ring: RingTopology, link: &mut TcpLink, call: Call, values: &mut [f32]) -> Outcome {
    let elements = values.len();
    let operand = Operand {
        bytes: bytes_of_mut(values),
        element_bytes: size_of::<f32>(),
        fold: Some(fold_of::<f32>(Reduce::Sum)),
    };
    algorithm::all_reduce(ring, elements, &mut link.begin(call, operand))
}

/// What folding a byte takes here.
fn fold_seconds(clock: &dyn Clock, values: &mut [f32]) -> f64 {
    let terms = vec![0.0_f32; values.len()];
    let fold = fold_of::<f32>(Reduce::Sum);
    let start = clock.monotonic();
    fold(bytes_of_mut(values), std::hint::black_box(bytes_of(&terms)));
    let took = clock.monotonic().saturating_sub(start);
    took.as_secs_f64() / size_of_val(&*values) as f64
}
