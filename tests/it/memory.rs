//! The program's allocator, which is that of these tests too.

use switch_core::sync::slots::Slots;

#[derive(Clone, Copy)]
#[repr(align(64))]
struct Line([u64; 8]);

const LINES: usize = 1 << 18;

/// What is this process's alone. Units: bytes. Source: proc_pid_smaps_rollup(5).
fn resident() -> usize {
    let text = std::fs::read_to_string("/proc/self/smaps_rollup").unwrap();
    let line = text.lines().find_map(|l| l.strip_prefix("Anonymous:"));
    line.unwrap()
        .trim()
        .trim_end_matches(" kB")
        .parse::<usize>()
        .unwrap()
        * 1024
}

#[test]
fn an_empty_table_costs_nothing_until_it_is_written_to() {
    let before = resident();
    let table = Slots::<4>::new(LINES);
    assert!(resident() < before + (1 << 20), "of {} bytes", LINES * 64);
    let (_, slot) = table.chain(7).next().unwrap();
    assert_eq!(slot.look(|words| words.all()), Some([0; 4]));
    slot.claim().unwrap().set([1, 2, 3, 4]);
    assert_eq!(slot.look(|words| words.all()), Some([1, 2, 3, 4]));
    let full = vec![Line([1; 8]); LINES];
    assert!(resident() > before + LINES * 64);
    drop(full);
    assert!(resident() < before + (1 << 20), "it is given back");
}

#[test]
fn what_grows_from_the_heap_into_a_mapping_and_back_keeps_its_values() {
    let mut lines = Vec::new();
    for n in 0..50_000_u64 {
        lines.push(Line([n; 8]));
    }
    lines.truncate(100);
    lines.shrink_to_fit();
    assert_eq!(lines.as_ptr().align_offset(64), 0);
    assert!(lines.iter().zip(0..).all(|(line, n)| line.0 == [n; 8]));
}
