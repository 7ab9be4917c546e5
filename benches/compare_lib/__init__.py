"""The parts of benches/compare, in the order in which a run uses them: lab, procs, rigs, measures, calls, report, ratios, markdown,
chart."""
