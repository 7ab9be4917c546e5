//! An allocator that counts, for each thread on its own.
#![allow(
    unsafe_code,
    reason = "the trait of allocators is unsafe; all of it is handed on to the system's"
)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
    /// What it has asked for less what it has given back; others may give back what it had.
    static HELD: Cell<usize> = const { Cell::new(0) };
}

struct Counting;

#[global_allocator]
static COUNTING: Counting = Counting;

/// How often this thread has asked for memory so far, or for more of it.
pub(crate) fn allocations() -> u64 {
    ALLOCATIONS.get()
}

/// How many bytes this thread holds, of those that it has asked for.
pub(crate) fn held() -> usize {
    HELD.get()
}

fn count(more: usize, less: usize) {
    // The thread's own storage is gone near its end; nobody counts there.
    let _ = HELD.try_with(|n| n.set(n.get().wrapping_add(more).wrapping_sub(less)));
    if more > 0 {
        let _ = ALLOCATIONS.try_with(|n| n.set(n.get() + 1));
    }
}

// SAFETY: every call goes to the system's allocator as it came. The counter is a plain number in constant storage: counting
// allocates nothing, so it cannot come back here.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size(), 0);
        // SAFETY: the caller promises that the layout's size is not zero.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        count(0, layout.size());
        // SAFETY: the caller promises that it came from `alloc` or `realloc` here, that is the system's, with this layout.
        unsafe { System.dealloc(memory, layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size, layout.size());
        // SAFETY: as for `dealloc`, and the caller promises a size that is not zero and does not overflow.
        unsafe { System.realloc(memory, layout, size) }
    }
}
