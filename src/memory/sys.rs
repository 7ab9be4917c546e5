//! An allocator in which large zeroed memory of any alignment is the kernel's zero pages until it is written to.
//!
//! The tables of the data plane are aligned to cache lines and made for the largest load. glibc has no call for aligned zeroed
//! memory, so the standard library writes the zeros itself, and a network that nobody uses has a megabyte.
#![allow(unsafe_code, reason = "an allocator is unsafe by its trait")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::ptr::null_mut;

/// What malloc aligns to by itself. Source: malloc(3), "suitably aligned for any type"; 16 bytes on 64-bit machines.
const ALIGNED: usize = 16;
/// Smaller memory is the heap's. Source: mallopt(3), M_MMAP_THRESHOLD's first value. Units: bytes.
const LARGE: usize = 128 * 1024;
/// The least that a page has on any machine, to which a mapping is aligned. Units: bytes.
const PAGE: usize = 4096;

/// The system's allocator, but for what is large and of an alignment of its own: that is mapped.
#[derive(Debug, Clone, Copy, Default)]
pub struct Lazy;

const fn is_mapped(layout: Layout) -> bool {
    layout.align() > ALIGNED && layout.align() <= PAGE && layout.size() >= LARGE
}

fn map(len: usize) -> *mut u8 {
    let (prot, flags) = (
        libc::PROT_READ | libc::PROT_WRITE,
        libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
    );
    // SAFETY: a new anonymous mapping at a place of the kernel's choice touches nothing that exists.
    let at = unsafe { libc::mmap(null_mut(), len, prot, flags, -1, 0) };
    if at == libc::MAP_FAILED {
        null_mut()
    } else {
        at.cast()
    }
}

// SAFETY: every layout belongs to one of two allocators by `is_mapped`, which looks at nothing but the layout, and who gives
// memory back must show the layout that it was asked with. Mappings are page-aligned, of the length asked for, and zero.
// `realloc` keeps what both lengths have. Nothing here unwinds.
unsafe impl GlobalAlloc for Lazy {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if is_mapped(layout) {
            return map(layout.size());
        }
        // SAFETY: the caller's promise, that the size is not zero, is handed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if is_mapped(layout) {
            return map(layout.size());
        }
        // SAFETY: as in `alloc`.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        if is_mapped(layout) {
            // SAFETY: by the caller's promise this came from `alloc` with this layout, so it is a mapping of this length, and
            // nobody uses it any more. It cannot fail: the whole mapping goes.
            let _ = unsafe { libc::munmap(at.cast(), layout.size()) };
            return;
        }
        // SAFETY: by the caller's promise this came from `alloc` with this layout, so from the system's.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller promises that the size, rounded up to the alignment, is a layout's.
        let new = unsafe { Layout::from_size_align_unchecked(size, layout.align()) };
        if !is_mapped(layout) && !is_mapped(new) {
            // SAFETY: both belong to the system's.
            return unsafe { System.realloc(at, layout, size) };
        }
        // SAFETY: the caller promises that the size is not zero.
        let moved = unsafe { self.alloc(new) };
        if !moved.is_null() {
            // SAFETY: the old memory has `layout.size()` bytes, the new one `size`, and they do not overlap.
            unsafe { at.copy_to_nonoverlapping(moved, layout.size().min(size)) };
            // SAFETY: the old memory came from here with this layout, and is the caller's no more.
            unsafe { self.dealloc(at, layout) };
        }
        moved
    }
}
