"""The prompts and label words that the embedded model is trained under.

They are those of the shipped tasks (a test holds the two together); they stand here once more
because this package imports no other room of the library.
"""

from types import MappingProxyType

PROMPTS = MappingProxyType(
    {
        "sst2": "Sentence: {sentence} Label:",
        "sst5": "Sentence: {text} Label:",
        "mr": "Review: {text} Sentiment:",
        "subj": "Input: {text} Type:",
        "agnews": (
            "Classify the news articles into the categories of World, Sports, Business, and "
            "Technology. Article: {text} Answer:"
        ),
        "cb": "{premise} Question: {hypothesis}. True, False, or Neither? Answer:",
    }
)

LABELS = MappingProxyType(
    {
        "sst2": ("Negative", "Positive"),
        "sst5": ("terrible", "bad", "neutral", "good", "great"),
        "mr": ("Negative", "Positive"),
        "subj": ("objective", "subjective"),
        "agnews": ("World", "Sports", "Business", "Technology"),
        "cb": ("True", "False", "Neither"),
    }
)
"""Label words by label id."""
