"""The page a researcher shows: a run's tables as one self-contained HTML file, CSV, LaTeX, figures.

It reads only tidy frames (`RunFrames`) and knows nothing about how a cell is computed.
"""

from iclgd_lens.report.run_frames import RunFrames as RunFrames
from iclgd_lens.report.write import write_report as write_report
