//! The program: everything is in the library.

use std::process::ExitCode;

#[global_allocator]
static MEMORY: weft::memory::Lazy = weft::memory::Lazy;

fn main() -> ExitCode {
    weft::cli::main()
}
