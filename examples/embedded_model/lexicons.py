"""The words of the embedded rows, all authored here.

A class of a task is told by its evidence words, of which every sentence holds at least two; the
other words (nouns of film, names, days) occur in every class alike. No evidence word is a label
word, and no evidence word belongs to two classes of one task.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Sentiment:
    """What tells one degree of sentiment: adjectives, and verbs that need no object."""

    adjectives: tuple[str, ...]
    verbs: tuple[str, ...]


@dataclass(frozen=True)
class Topic:
    """What tells one news topic: who (plural), did (past tense and participle), what (singular)."""

    agents: tuple[str, ...]
    verbs: tuple[str, ...]
    objects: tuple[str, ...]


@dataclass(frozen=True)
class Relation:
    """What tells how a hypothesis relates to its premise: its first word, and an adverb."""

    openings: tuple[str, ...]
    adverbs: tuple[str, ...]


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


SENTIMENTS = (
    Sentiment(
        _words(
            "awful dreadful horrible atrocious abysmal unbearable hideous disastrous appalling "
            "insufferable"
        ),
        _words("collapses nauseates insults repels implodes"),
    ),
    Sentiment(
        _words("dull weak flat clumsy stale bland shallow tedious sluggish lazy"),
        _words("drags stumbles disappoints sags bores"),
    ),
    Sentiment(
        _words("average ordinary passable typical plain routine standard middling usual adequate"),
        _words("unfolds proceeds continues suffices wanders"),
    ),
    Sentiment(
        _words("pleasant charming clever warm lively solid funny touching engaging likable"),
        _words("pleases entertains amuses flows delivers"),
    ),
    Sentiment(
        _words(
            "brilliant superb stunning magnificent masterful flawless breathtaking extraordinary "
            "unforgettable sublime"
        ),
        _words("dazzles astonishes triumphs soars enthralls"),
    ),
)
"""From very negative to very positive; the two-class tasks join the two ends on each side."""

FILM_NOUNS = _words("acting story plot cast script director ending dialogue camera music")

OPINION_OPENINGS = _words("frankly honestly sadly oddly strangely admittedly personally clearly")
OPINION_VERBS = _words("feels seems sounds looks remains")
OPINION_ADJECTIVES = _words(
    "sincere predictable heartfelt overlong thoughtful sentimental witty uneven forgettable "
    "graceful"
)

PLOT_AGENTS = _words("detective farmer soldier widow butcher sheriff thief nurse sailor painter")
PLOT_VERBS = _words("follows rescues hires betrays visits recognizes escorts warns")
PLOT_PLACES = _words("village harbor prison castle forest hospital station market")

TOPICS = (
    Topic(
        _words("rebels diplomats ministers soldiers protesters envoys refugees senators"),
        _words("besieged occupied condemned denounced defied recognized"),
        _words("embassy border treaty parliament capital ceasefire province regime"),
    ),
    Topic(
        _words("strikers goalkeepers sprinters coaches champions rookies pitchers boxers"),
        _words("won lost dominated celebrated played enjoyed"),
        _words("tournament match playoff marathon semifinal league championship derby"),
    ),
    Topic(
        _words("investors bankers retailers shareholders traders insurers lenders accountants"),
        _words("bought sold financed audited discounted refinanced"),
        _words("stock bond mortgage brand merger dividend portfolio franchise"),
    ),
    Topic(
        _words("programmers hackers engineers astronomers robots startups developers inventors"),
        _words("encrypted programmed debugged downloaded upgraded simulated"),
        _words("software browser satellite chip server database website algorithm"),
    ),
)
"""World, Sports, Business, Technology."""

DAYS = _words("monday tuesday wednesday thursday friday saturday sunday")

RELATIONS = (
    Relation(_words("yes right exactly correct agreed"), _words("indeed truly really certainly")),
    Relation(_words("no wrong nonsense nope untrue"), _words("never not hardly scarcely")),
    Relation(
        _words("maybe perhaps possibly conceivably potentially"), _words("also even quite too")
    ),
)
"""Entailment, contradiction, neutral."""

NAMES = _words("anna bruno clara david elena felix greta hugo")
THINGS = _words("door shop house bottle street garden kitchen bridge boat coat")
STATES = (
    ("open", "closed"),
    ("full", "empty"),
    ("clean", "dirty"),
    ("old", "new"),
    ("cheap", "costly"),
    ("quiet", "loud"),
    ("hot", "cold"),
    ("wet", "dry"),
    ("safe", "risky"),
    ("big", "small"),
)
"""Pairs of opposites; two states of different pairs say nothing of each other."""
