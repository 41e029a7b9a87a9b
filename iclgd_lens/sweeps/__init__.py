"""What changes when one factor changes: a score and its controls along it, with the gate above.

alterations   episodes with label noise, flips, neutral text, another order
factors       the table of factors: what each changes, its values, its axis
sweeping      `sweep`: measure along a factor
result        `Sweep`: frame, figure, sentence
claims        published claims as files: paper, claim, what would refute it, sweeps
"""

from iclgd_lens.sweeps.claims import Claim as Claim
from iclgd_lens.sweeps.claims import load_claim as load_claim
from iclgd_lens.sweeps.factors import FACTORS as FACTORS
from iclgd_lens.sweeps.factors import Factor as Factor
from iclgd_lens.sweeps.result import Sweep as Sweep
from iclgd_lens.sweeps.sweeping import sweep as sweep
