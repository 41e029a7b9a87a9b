"""Benchmarks: a plan's grid of cells, measured once each, kept, resumed and summarised.

    plan   what is asked for: models x tasks x draws of demonstrations, hypotheses and controls
    cells  each cell, named by a hash of everything that changes its numbers
    store  one file a finished cell, one record a failed one
    run    measures what is missing: in this process, on a share of the cells, or on Ray
    frames `load_run`: tidy tables, intervals, differences and verdicts

Heavy libraries are imported by the modules that need them; this package itself loads none.
"""
