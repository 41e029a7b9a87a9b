"""Tasks as data, their rows from the Hub, a folder, the package or memory, and seeded draws.

This room knows neither models nor tokenizers.
"""

from iclgd_lens.tasks.draws import PUBLISHED_QUERIES as PUBLISHED_QUERIES
from iclgd_lens.tasks.draws import draw_demonstrations as draw_demonstrations
from iclgd_lens.tasks.draws import draw_queries as draw_queries
from iclgd_lens.tasks.overlaps import asked_elsewhere as asked_elsewhere
from iclgd_lens.tasks.rows import Row as Row
from iclgd_lens.tasks.rows import Rows as Rows
from iclgd_lens.tasks.rows import Splits as Splits
from iclgd_lens.tasks.rows import hash_rows as hash_rows
from iclgd_lens.tasks.rows import load_rows as load_rows
from iclgd_lens.tasks.rows import load_splits as load_splits
from iclgd_lens.tasks.sources import Data as Data
from iclgd_lens.tasks.task import Task as Task
from iclgd_lens.tasks.task import get_task as get_task
from iclgd_lens.tasks.task import list_tasks as list_tasks
