"""What changes when one factor changes: a score and its controls along it, with the gate above.

    alterations   episodes with label noise, flips, neutral text, another order
    factors       the table of factors: what each changes, its values, its axis
    sweep_job     `sweep`: measures along a factor
    sweep_result  `Sweep`: frame, figure, sentence
    claims        published claims as files: paper, claim, what would refute it, sweeps

The table of factors needs no torch: import from the modules.
"""
