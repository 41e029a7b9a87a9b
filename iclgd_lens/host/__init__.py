"""The only room that imports TransformerLens: models, their hook points and linear sites."""

from iclgd_lens.host.base import ForwardResult as ForwardResult
from iclgd_lens.host.base import Host as Host
from iclgd_lens.host.base import LinearSite as LinearSite
from iclgd_lens.host.base import Prefix as Prefix
from iclgd_lens.host.choose import as_host as as_host
from iclgd_lens.host.guard import copied as copied
from iclgd_lens.host.guard import frozen as frozen
from iclgd_lens.host.guard import own_precision as own_precision
from iclgd_lens.host.head_writes import head_values as head_values
from iclgd_lens.host.head_writes import writes_add_up as writes_add_up
from iclgd_lens.host.hooks import Hook as Hook
from iclgd_lens.host.hooks import uncounted_hooks as uncounted_hooks
from iclgd_lens.host.sites_and_passes import layer_of as layer_of
