//! Depthwise convolution: every channel is a group of its own.
//!
//! There are no other channels to fill the lanes with, so they hold 16 neighbouring pixels of one
//! packed plane. Where rows are short the whole plane is one row, and the sums that lie between the
//! rows are thrown away.
//!
//! Invariant of the unsafe code: a loop of this file is reached only through [`Loops::of`], which
//! wants the proof that the processor has the instructions; [`Depthwise::new`] checks that the last
//! 16 pixels that it reads lie in the packed plane with [`TAIL`] more, and the callers of the loops
//! borrow that much.

use super::Conv2d;
use super::correlate::{Part, forward_part, input_gradient_parts};
#[cfg(target_arch = "x86_64")]
use super::lanes::x86::{TwoYmm, Zmm};
use super::lanes::{Lanes, Level, Simd};
use super::pack::Placement;
use super::tile::BLOCK;
use super::units::UNITS_MAX;

/// Zeros behind a packed plane, so that the last register may read past it.
const TAIL: usize = BLOCK;

/// Rows of sums of products of a packed plane.
struct Rows<'a> {
    x: *const f32,
    in_row: usize,
    /// For each tap.
    steps: &'a [u32],
    weights: &'a [f32],
    bias: f32,
    relu: bool,
    /// `rows` rows of `cols` elements, a multiple of 16.
    out: *mut f32,
    rows: usize,
    cols: usize,
}

/// The loops for one level of instructions.
#[derive(Clone, Copy)]
struct Loops {
    rows: unsafe fn(&Rows<'_>),
    /// `sum += dy · x`, in lanes, over as many elements of 16 as `dy` has.
    dot: unsafe fn(&mut [f32; BLOCK], &[f32], *const f32),
}

#[inline(always)]
unsafe fn rows<V: Lanes>(job: &Rows<'_>) {
    // SAFETY: the level's instructions are there; the addresses are those that the maker of `job`
    // borrows.
    unsafe {
        for row in 0..job.rows {
            for col in (0..job.cols).step_by(BLOCK) {
                let x = job.x.add(row * job.in_row + col);
                let mut sum = V::splat(job.bias);
                for (&step, &w) in job.steps.iter().zip(job.weights) {
                    sum = sum.fma(V::load(x.add(step as usize)), V::splat(w));
                }
                if job.relu {
                    sum = sum.relu();
                }
                sum.store(job.out.add(row * job.cols + col));
            }
        }
    }
}

#[inline(always)]
unsafe fn dot<V: Lanes>(sum: &mut [f32; BLOCK], dy: &[f32], x: *const f32) {
    const CHAINS: usize = 4;
    // SAFETY: the level's instructions are there; `x` is good for as many elements as `dy` has.
    unsafe {
        let mut sums = [V::splat(0.0); CHAINS];
        let (fours, rest) = dy.as_chunks::<{ CHAINS * BLOCK }>();
        for (i, dy) in fours.iter().enumerate() {
            let x = x.add(i * CHAINS * BLOCK);
            for (j, sum) in sums.iter_mut().enumerate() {
                let dy = V::load(dy.as_ptr().add(j * BLOCK));
                *sum = sum.fma(dy, V::load(x.add(j * BLOCK)));
            }
        }
        let x = x.add(fours.len() * CHAINS * BLOCK);
        for (i, dy) in rest.as_chunks::<BLOCK>().0.iter().enumerate() {
            let x = V::load(x.add(i * BLOCK));
            sums[0] = sums[0].fma(V::load(dy.as_ptr()), x);
        }
        let all = sums[0].add(sums[1]).add(sums[2].add(sums[3]));
        V::load(sum.as_ptr()).add(all).store(sum.as_mut_ptr());
    }
}

macro_rules! level {
    ($module:ident, $lanes:ty $(, $feature:meta)?) => {
        mod $module {
            use super::*;

            $(#[$feature])?
            unsafe fn rows(job: &Rows<'_>) {
                // SAFETY: as for this function.
                unsafe { super::rows::<$lanes>(job) }
            }

            $(#[$feature])?
            unsafe fn dot(sum: &mut [f32; BLOCK], dy: &[f32], x: *const f32) {
                // SAFETY: as for this function.
                unsafe { super::dot::<$lanes>(sum, dy, x) }
            }

            pub const LOOPS: Loops = Loops { rows, dot };
        }
    };
}

level!(portable, [f32; BLOCK]);
#[cfg(target_arch = "x86_64")]
level!(avx2, TwoYmm, target_feature(enable = "avx2,fma"));
#[cfg(target_arch = "x86_64")]
level!(avx512, Zmm, target_feature(enable = "avx512f"));

impl Loops {
    fn of(simd: Simd) -> Self {
        match simd.level() {
            Level::Portable => portable::LOOPS,
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => avx2::LOOPS,
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => avx512::LOOPS,
        }
    }
}

#[derive(Clone, Debug)]
struct Tiled {
    part: Part,
    steps: Vec<u32>,
    /// Rows that the loop runs over, and their length.
    rows: usize,
    cols: usize,
    /// The distance of the part's rows in what the loop writes.
    row: usize,
}

/// The forward pass or the input gradient of a depthwise convolution.
#[derive(Clone, Debug)]
pub(super) struct Depthwise {
    simd: Simd,
    channels: usize,
    taps: usize,
    placement: Placement,
    out_pixels: usize,
    parts: Vec<Tiled>,
}

impl Depthwise {
    /// True if every channel is a group of its own.
    pub fn fits(conv: &Conv2d) -> bool {
        conv.group_in() == 1 && conv.group_out() == 1
    }

    pub fn forward(conv: &Conv2d, simd: Simd) -> Self {
        let (placement, part) = forward_part(conv);
        let out_pixels = conv.out_h() * conv.out_w();
        Self::new(conv, simd, placement, out_pixels, vec![part])
    }

    pub fn input_gradient(conv: &Conv2d, simd: Simd) -> Self {
        let (placement, parts) = input_gradient_parts(conv);
        Self::new(conv, simd, placement, conv.in_h * conv.in_w, parts)
    }

    fn new(
        conv: &Conv2d,
        simd: Simd,
        placement: Placement,
        out_pixels: usize,
        parts: Vec<Part>,
    ) -> Self {
        let parts = parts.into_iter().map(|part| {
            let flat = (part.rows - 1) * part.in_row + part.cols;
            let by_row = part.rows * part.cols.next_multiple_of(BLOCK);
            let (rows, cols, row) = if flat < by_row {
                (1, flat.next_multiple_of(BLOCK), part.in_row)
            } else {
                let cols = part.cols.next_multiple_of(BLOCK);
                (part.rows, cols, cols)
            };
            let steps: Vec<u32> = part.taps.iter().map(|&(_, pixel)| pixel as u32).collect();
            let last = steps.iter().max().map_or(0, |&step| step as usize);
            assert!(steps.is_empty() || last + flat <= placement.pixels);
            assert!((rows - 1) * part.in_row + cols <= flat + TAIL);
            Tiled {
                part,
                steps,
                rows,
                cols,
                row,
            }
        });
        Self {
            simd,
            channels: conv.in_channels,
            taps: conv.taps(),
            out_pixels,
            parts: parts.collect(),
            placement,
        }
    }

    pub fn packed_weights(&self) -> usize {
        self.channels * self.taps
    }

    /// By channel, part and tap.
    pub fn pack_weights(&self, packed: &mut [f32], weights: &[f32]) {
        assert_eq!(packed.len(), self.packed_weights(), "packed weights");
        let channels = packed.chunks_exact_mut(self.taps);
        for (packed, weights) in channels.zip(weights.chunks_exact(self.taps)) {
            let taps = self.parts.iter().flat_map(|tiled| &tiled.part.taps);
            for (to, &(tap, _)) in packed.iter_mut().zip(taps) {
                *to = weights[tap];
            }
        }
    }

    pub fn scratch(&self) -> usize {
        let out = self.parts.iter().map(|tiled| tiled.rows * tiled.cols);
        self.placement.pixels + TAIL + out.max().unwrap_or(0)
    }

    pub fn run(
        &self,
        images: usize,
        [y, scratch]: [&mut [f32]; 2],
        x: &[f32],
        packed: &[f32],
        bias: Option<&[f32]>,
        relu: bool,
    ) {
        let image = self.placement.image();
        assert_eq!(x.len(), images * self.channels * image, "input");
        assert_eq!(y.len(), images * self.channels * self.out_pixels, "output");
        assert_eq!(packed.len(), self.packed_weights(), "packed weights");
        assert!(scratch.len() >= self.scratch(), "scratch");
        if let Some(bias) = bias {
            assert_eq!(bias.len(), self.channels, "bias");
        }
        let loops = Loops::of(self.simd);
        let (plane, out) = scratch.split_at_mut(self.placement.pixels + TAIL);
        plane.fill(0.0);
        let planes = x
            .chunks_exact(image)
            .zip(y.chunks_exact_mut(self.out_pixels));
        for (i, (x, y)) in planes.enumerate() {
            let channel = i % self.channels;
            self.placement
                .pack(self.simd, 1, &mut plane[..self.placement.pixels], x);
            let mut weights = &packed[channel * self.taps..][..self.taps];
            for tiled in &self.parts {
                let (of_part, rest) = weights.split_at(tiled.steps.len());
                weights = rest;
                let job = Rows {
                    x: plane.as_ptr(),
                    in_row: tiled.part.in_row,
                    steps: &tiled.steps,
                    weights: of_part,
                    bias: bias.map_or(0.0, |bias| bias[channel]),
                    relu,
                    out: out[..tiled.rows * tiled.cols].as_mut_ptr(),
                    rows: tiled.rows,
                    cols: tiled.cols,
                };
                // SAFETY: `new` checked the last address read against the plane and its tail; what
                // is written was just borrowed; `simd` chose the loop.
                unsafe { (loops.rows)(&job) };
                let [first, out_row, out_col] = tiled.part.out;
                for row in 0..tiled.part.rows {
                    let from = &out[row * tiled.row..][..tiled.part.cols];
                    let to = &mut y[first + row * out_row..];
                    if out_col == 1 {
                        to[..from.len()].copy_from_slice(from);
                    } else {
                        for (to, &from) in to.iter_mut().step_by(out_col).zip(from) {
                            *to = from;
                        }
                    }
                }
            }
        }
    }
}

/// The weight gradient of a depthwise convolution. A unit is a range of channels.
#[derive(Clone, Debug)]
pub(super) struct DepthwiseWeights {
    conv: Conv2d,
    simd: Simd,
    placement: Placement,
    /// The output's gradient, with zeros where the packed input has pixels between the rows.
    spread: Placement,
    steps: Vec<u32>,
}

impl DepthwiseWeights {
    pub fn new(conv: &Conv2d, simd: Simd) -> Self {
        let (placement, part) = forward_part(conv);
        let flat = (part.rows - 1) * part.in_row + part.cols;
        let steps: Vec<u32> = part.taps.iter().map(|&(_, pixel)| pixel as u32).collect();
        let last = steps.iter().max().map_or(0, |&step| step as usize);
        assert!(last + flat <= placement.pixels);
        let pixels = flat.next_multiple_of(BLOCK);
        let spread = Placement::new([part.rows, part.cols], pixels, |row, col| {
            Some(row * part.in_row + col)
        });
        Self {
            conv: *conv,
            simd,
            placement,
            spread,
            steps,
        }
    }

    pub fn units(&self) -> usize {
        self.conv.out_channels.min(UNITS_MAX)
    }

    fn channels(&self, unit: usize) -> std::ops::Range<usize> {
        let first = |unit: usize| self.conv.out_channels * unit / self.units();
        first(unit)..first(unit + 1)
    }

    pub fn partials(&self) -> usize {
        self.conv.weights()
    }

    pub fn unit_range(&self, unit: usize) -> std::ops::Range<usize> {
        let channels = self.channels(unit);
        channels.start * self.conv.taps()..channels.end * self.conv.taps()
    }

    pub fn scratch(&self) -> usize {
        self.placement.pixels + TAIL + self.spread.pixels + self.conv.taps() * BLOCK
    }

    pub fn run(
        &self,
        units: std::ops::Range<usize>,
        [dw, scratch]: [&mut [f32]; 2],
        x: &[f32],
        dy: &[f32],
    ) {
        let conv = &self.conv;
        let channels = self.channels(units.start).start..self.channels(units.end - 1).end;
        assert_eq!(dw.len(), channels.len() * conv.taps(), "partial sums");
        assert_eq!(x.len(), conv.batch * conv.image_in(), "input");
        assert_eq!(dy.len(), conv.batch * conv.image_out(), "output gradient");
        assert!(scratch.len() >= self.scratch(), "scratch");
        let loops = Loops::of(self.simd);
        let (plane, rest) = scratch.split_at_mut(self.placement.pixels + TAIL);
        let (spread, rest) = rest.split_at_mut(self.spread.pixels);
        let sums = &mut rest.as_chunks_mut::<BLOCK>().0[..conv.taps()];
        plane.fill(0.0);
        spread.fill(0.0);
        let (image_in, image_out) = (self.placement.image(), self.spread.image());
        for (channel, dw) in channels.zip(dw.chunks_exact_mut(conv.taps())) {
            sums.fill([0.0; BLOCK]);
            for n in 0..conv.batch {
                let at = n * conv.out_channels + channel;
                let x = &x[at * image_in..][..image_in];
                self.placement
                    .pack(self.simd, 1, &mut plane[..self.placement.pixels], x);
                self.spread
                    .pack(self.simd, 1, spread, &dy[at * image_out..][..image_out]);
                for (sum, &step) in sums.iter_mut().zip(&self.steps) {
                    let x = &plane[step as usize..][..spread.len()];
                    // SAFETY: `x` is as long as `spread`; `simd` chose the loop.
                    unsafe { (loops.dot)(sum, spread, x.as_ptr()) };
                }
            }
            for (dw, sum) in dw.iter_mut().zip(sums.iter()) {
                *dw = crate::cpu::kernels::sum(sum, |lane| lane);
            }
        }
    }

    pub fn fold(&self, dw: &mut [f32], partials: &[f32]) {
        assert_eq!(dw.len(), self.conv.weights(), "weight gradient");
        dw.copy_from_slice(partials);
    }
}
