"""Plotly figures from arrays and tidy tables: one builder for results, report and demo.

    places     by layer and head: heat maps with marks for what survives correction, layer profiles
    paths      along training, the learning rate or a factor: scores, accuracy, controls
    evidence   against controls: means, paired differences, a control's draws with what was observed
    causal     curves of sets of heads, an update's effects beside those of ICL
    behaviour  accuracy and AUC, norms of changes, attention of the readout token over tokens
    static     SVG, PNG and PDF files through kaleido (the extra `figures`)
    style      what all figures share: colours, marks, axes, and how a builder makes a figure

A builder takes arrays or a data frame and returns a `plotly.graph_objects.Figure`; its `.spec`
returns the same as plain values, without loading Plotly. Builders know nothing of models and change
no defaults of Plotly's.
"""

from iclgd_lens.figures.behaviour import attention as attention
from iclgd_lens.figures.behaviour import behaviour_bars as behaviour_bars
from iclgd_lens.figures.behaviour import norms as norms
from iclgd_lens.figures.causal import head_scatter as head_scatter
from iclgd_lens.figures.causal import set_curves as set_curves
from iclgd_lens.figures.evidence import forest as forest
from iclgd_lens.figures.evidence import means as means
from iclgd_lens.figures.evidence import nulls as nulls
from iclgd_lens.figures.evidence import trained_untrained as trained_untrained
from iclgd_lens.figures.paths import against_behaviour as against_behaviour
from iclgd_lens.figures.paths import factor_curves as factor_curves
from iclgd_lens.figures.paths import rate_curve as rate_curve
from iclgd_lens.figures.paths import trajectory as trajectory
from iclgd_lens.figures.places import head_maps as head_maps
from iclgd_lens.figures.places import heatmap as heatmap
from iclgd_lens.figures.places import layer_profiles as layer_profiles
from iclgd_lens.figures.static import write_static as write_static
from iclgd_lens.figures.style import COLOURS as COLOURS
from iclgd_lens.figures.style import DIVERGING as DIVERGING
from iclgd_lens.figures.style import UNDEFINED as UNDEFINED
