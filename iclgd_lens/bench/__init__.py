"""Benchmarks: a plan's grid of cells, measured once each, kept, resumed and summarised.

    plan               what is asked for: models x tasks x draws, hypotheses and controls
    plan_entries       what a plan consists of: models, hypotheses with settings, networks, draws
    plan_check         whether everything that a plan names exists
    drawn_rows         which rows each draw shows and asks
    cells              each cell, named by a hash of everything that changes its numbers
    digests            the part of that hash that stands for the code
    code_meaning       what code does, as text: without comments, docstrings and layout
    own_code           the same of somebody's own function, in a module or a notebook
    estimate           what a plan will cost, before anything runs
    run                `run_plan`: measures what is missing, here or on Ray, records what fails
    ray_engine         the same work on a Ray cluster
    workbench          the work of one setting, wherever it is done
    session            one loaded model that measures cell after cell
    progress           how far a run has come, as it goes
    store              the run directory: one file per finished cell, one record per failed one
    run_folder         that directory on a disk, or wherever fsspec goes
    cell_file          a cell's file
    readings_file      the file of what a setting's own network leaves
    studies            what is looked at once per model and task: training, attention, heads
    remaining          which cells a command finds finished, and which it will measure
    known_before       what is known of the rows to mislead before a model is loaded
    read_only_store    a run directory that is looked at and left as it is
    run_differences    what moved between two runs
    run_tables         `load_run`: tidy tables, intervals, differences and verdicts
    figure_data        what a run's figures are drawn from
    order_sensitivity  how much predictions change when demonstrations are permuted

Heavy libraries are imported by the modules that need them; this package itself loads none.
"""
