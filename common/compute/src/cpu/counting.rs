//! A global allocator that counts, for the test that a run allocates nothing.
//!
//! Counts are per thread; allocations inside the `gemm` crate are counted apart.
//!
//! Invariant: every call is handed to the system's allocator unchanged; counting allocates nothing
//! (the cells are constant-initialised and have no destructor).

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

thread_local! {
    static OWN: Cell<usize> = const { Cell::new(0) };
    static GEMM: Cell<usize> = const { Cell::new(0) };
    static GEMM_CALLS: Cell<usize> = const { Cell::new(0) };
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}

struct Counting;

fn count() {
    let cell = if INSIDE.get() { &GEMM } else { &OWN };
    cell.set(cell.get() + 1);
}

// SAFETY: each method has the contract of the system allocator's method that it calls.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: the caller's promise is passed on.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Allocations of this thread since it began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Outside the `gemm` crate.
    pub own: usize,
    /// Inside it.
    pub gemm: usize,
    /// Calls of it.
    pub gemm_calls: usize,
}

pub(crate) fn counts() -> Counts {
    Counts {
        own: OWN.get(),
        gemm: GEMM.get(),
        gemm_calls: GEMM_CALLS.get(),
    }
}

/// Marks the time inside a call of the `gemm` crate.
pub(crate) struct InsideGemm;

pub(crate) fn inside_gemm() -> InsideGemm {
    GEMM_CALLS.set(GEMM_CALLS.get() + 1);
    INSIDE.set(true);
    InsideGemm
}

impl Drop for InsideGemm {
    fn drop(&mut self) {
        INSIDE.set(false);
    }
}
