"""The prompts and label words that the embedded model is trained under: the shipped tasks' own."""

from __future__ import annotations

from iclgd_lens.tasks import get_task

_TASKS = ("sst2", "sst5", "mr", "subj", "agnews", "cb")

PROMPTS = {task: get_task(task).prompt for task in _TASKS}

LABELS = {task: get_task(task).labels for task in _TASKS}
"""Label words by label id."""
