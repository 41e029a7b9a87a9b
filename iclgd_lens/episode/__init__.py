"""An episode: demonstrations and queries as token ids, written under a protocol."""

from iclgd_lens.episode._episode import EMBEDDED as EMBEDDED
from iclgd_lens.episode._episode import FOREIGN as FOREIGN
from iclgd_lens.episode._episode import Demonstration as Demonstration
from iclgd_lens.episode._episode import Demonstrations as Demonstrations
from iclgd_lens.episode._episode import Episode as Episode
from iclgd_lens.episode._episode import Query as Query
from iclgd_lens.episode._episode import Tokens as Tokens
from iclgd_lens.episode._episode import TrainingSequence as TrainingSequence
from iclgd_lens.episode._load import load_demonstrations as load_demonstrations
from iclgd_lens.episode._load import load_episode as load_episode
