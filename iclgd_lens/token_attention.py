"""Which tokens the readout token of one query attends to: alone, in context, after an update."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from iclgd_lens.episode import Episode
from iclgd_lens.errors import EpisodeError
from iclgd_lens.host import Hook, Host, Prefix, as_host, frozen
from iclgd_lens.intervention import Batch, Intervention, hooks_of

if TYPE_CHECKING:
    import pandas as pd


def readout_attention(
    model: Any,
    episode: Episode,
    interventions: Mapping[str, Intervention] | None = None,
    *,
    query: int = 0,
    by_head: bool = False,
) -> pd.DataFrame:
    """Return the attention of one query's readout token over tokens.

    Args:
        model: A HookedTransformer, TransformerBridge or host; it is not changed.
        episode: Demonstrations and queries.
        interventions: What is read beside ZS and ICL, by the name that the table has for it:
            updates, for example.
        query: Which of the episode's queries.
        by_head: Every head's attention in place of the mean over layers and heads.

    Returns:
        One line per setting and token that it sees: columns setting ("ZS", "ICL", or a name),
        position (of the token in the prompt with demonstrations), token (its text), part ("bos",
        "content", "label" or "separator" of the demonstrations, or "query"), weight; with `by_head`
        also layer and head. `figures.attention` draws the mean.

    Raises:
        EpisodeError: The episode has no such query.
        HookError: The model does not expose its attention pattern.
    """
    import pandas as pd

    host = as_host(model)
    if not 0 <= query < len(episode.queries):
        raise EpisodeError(f"There is no query {query}; the episode has {len(episode.queries)}.")
    prompt, bos = episode.demonstrations.prompt(), episode.demonstrations.bos
    own = episode.readout_tokens(episode.queries[query])
    appended = len(own) - len(episode.queries[query].content)
    alone = (*(() if bos is None else (bos,)), *own)
    nothing = Intervention()
    settings = [("ZS", alone, nothing), ("ICL", (*prompt, *own), nothing)]
    settings += [(name, alone, each) for name, each in (interventions or {}).items()]
    whole = (*prompt, *own)
    text = [_text(host, token) for token in whole]
    parts = [*episode.demonstrations.prompt_parts(), *["query"] * len(own)]
    frames: list[pd.DataFrame] = []
    with frozen(host.model), torch.no_grad():
        for name, tokens, change in settings:
            prefix = change.prefix(host)
            if prefix is not None and bos is not None:
                tokens = tokens[1:]  # a prefix begins with it
            weights = _pattern(host, tokens, query, appended, prefix, change)
            seen = _positions(
                len(tokens), weights.shape[-1], len(prompt), len(own), bos is not None
            )
            here = [key for key, at in enumerate(seen) if at is not None]
            at = [place for place in seen if place is not None]
            weights = (weights if by_head else weights.mean((0, 1), keepdim=True))[..., here]
            layer, head, key = np.indices(weights.shape).reshape(3, -1)
            columns: dict[str, Any] = {"layer": layer, "head": head} if by_head else {}
            columns |= {
                "position": np.take(at, key), "token": np.take([text[each] for each in at], key),
                "part": np.take([parts[each] for each in at], key),
                "weight": weights.flatten().double().cpu().numpy(),
            }  # fmt: skip
            frames.append(pd.DataFrame({"setting": name, **columns}))
    return pd.concat(frames, ignore_index=True)


def _positions(tokens: int, keys: int, prompt: int, own: int, bos: bool) -> list[int | None]:
    """Where each key stands in the prompt with demonstrations; None for one that does not."""
    query: list[int | None] = [*range(prompt, prompt + own)]
    if tokens == prompt + own:
        return [*range(prompt + own - keys, prompt + own)]
    before = keys - own
    if before == prompt:  # the demonstrations' own keys, or those that replace them
        return [*range(prompt), *query]
    if before == 1 and bos:  # the BOS alone
        return [0, *query]
    return [None] * before + query


def _pattern(
    host: Host, tokens: tuple[int, ...], query: int, appended: int, prefix: Prefix | None,
    change: Intervention,
) -> Float[Tensor, "layer head key"]:  # fmt: skip
    """Attention of the last token; the label is predicted `appended` tokens before it."""
    rows = host.tensor(tokens)
    place = torch.tensor([len(tokens) - 1], device=host.device)
    batch = Batch(
        torch.tensor([query], device=host.device), place + 1, place, tokens=rows,
        predicting=place - appended,
    )  # fmt: skip
    found: list[Tensor] = []
    hooks: list[Hook] = [
        (f"blocks.{layer}.attn.hook_pattern", partial(_keep, found))
        for layer in range(host.n_layers)
    ]
    with host.hooked(hooks_of(change, host, batch), forced=False), host.hooked(hooks):
        host.run(rows, prefix, at=-1)
    # Layers whose window is shorter hand on fewer keys: the last ones.
    longest = max(each.shape[-1] for each in found)
    padded = [torch.nn.functional.pad(each, (longest - each.shape[-1], 0)) for each in found]
    return torch.stack(padded)


def _keep(found: list[Tensor], pattern: Tensor, hook: Any) -> None:
    found.append(pattern[0, :, -1].float())


def _text(host: Host, token: int) -> str:
    """A token as text; its id where there is no tokenizer."""
    tokenizer = host.tokenizer
    return str(token) if tokenizer is None else str(tokenizer.decode([token]))
