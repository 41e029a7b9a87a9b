"""Which heads do in-context learning's work, and whether an update does it there.

mediating   `mediate`: draws, hypotheses and controls, to one result
names       what effects are called, and those of one draw
effects     what is measured on one draw, head by head
margins     the label margin, and what stands before every query
patching    what the margin becomes where heads are replaced: exact interventions
gradients   attribution of all heads from one forward and one backward pass; direct effects
visibility  one head alone sees the demonstrations
curves      sets of heads: faithfulness against their number
ranks       statistics of head maps: intervals, corrected p-values, ratios, agreement
result      `Mediation`: frame, table, top heads, figures
kept        a mediation as the bytes of one file

Reading a result needs no torch: import from the modules.
"""
