"""Which heads do in-context learning's work, and whether an update does it there.

    mediation_job     `mediate`: from draws, hypotheses and controls to one result
    effects           what is measured on one draw, head by head
    margins           the label margin, and what stands before every query
    patching          what the margin becomes where heads are replaced: exact interventions
    gradients         attribution of all heads from one forward and one backward pass
    head_maps         what effects are called, their statistics, curves of sets of heads
    mediation_result  `Mediation`: frame, table, top heads
    display           how a mediation shows itself: text, HTML, figures
    storage           a mediation as the bytes of one file

Reading a result needs no torch: import from the modules.
"""
