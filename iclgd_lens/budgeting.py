"""Gives rules their rate, epochs and loss tokens, where nobody gave them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from iclgd_lens.episode import Episode
from iclgd_lens.errors import LensError
from iclgd_lens.host import Host
from iclgd_lens.hypotheses.lanes import Chain, alone
from iclgd_lens.hypotheses.registry import Hypothesis
from iclgd_lens.rules import Rule


def with_settings_of(rule: Rule, settings: Mapping[str, Any]) -> Rule:
    """The rule with settings that it takes and has not been given."""
    if not isinstance(rule.value, Hypothesis):
        return rule
    takes = rule.value.settings()
    more = {key: value for key, value in settings.items() if key in takes}
    return replace(rule, settings={**more, **rule.settings})


def needs_budget(rule: Rule) -> bool:
    """Whether a rule takes a learning rate that nobody gave and that it does not choose itself."""
    takes = isinstance(rule.value, Hypothesis) and rule.value.takes_budget
    return takes and rule.settings.get("lr") is None


def with_budget(rule: Rule, host: Host, episode: Episode, **search: Any) -> Rule:
    """The rule at the budget that left-out demonstrations choose on a network and draw.

    A rule that takes no rate, was given one or chooses it itself is returned as it is. Where none
    can be chosen (too few demonstrations, say, or training that diverges everywhere) the rule keeps
    its defaults, and the record says why. `search` goes to `choose_budget`: its grid, epochs,
    losses and folds.
    """
    return alone(budgeted(rule, host, episode, **search))


def budgeted(rule: Rule, host: Host, episode: Episode, **search: Any) -> Chain[Rule]:
    """`with_budget` beside others (`iclgd_lens.hypotheses.lanes`)."""
    from iclgd_lens.budget import choosing

    if not needs_budget(rule) or not isinstance(rule.value, Hypothesis):
        return rule
    try:
        found = yield from choosing(host, episode, rule.value, rule.settings, **search)
    except LensError as error:
        return replace(rule, facts={**rule.facts, "budget": {"problem": str(error)}})
    chosen = with_settings_of(rule, found.settings)
    return replace(chosen, facts={**rule.facts, "budget": found.as_dict()})
