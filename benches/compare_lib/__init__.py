"""The parts of benches/compare, in the order in which a run uses them: groups, lab, procs, rigs, measures, calls, report, ratios,
markdown, chart. What a rotation brings is in relay_group and switch_group; switch_rigs and switch_measures are the latter's own."""
