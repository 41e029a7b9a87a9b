r"""Equations: blocks between lines of `$$`, in the LaTeX that they need, become MathML.

Browsers draw MathML themselves: no script, no fonts, nothing from the network. GitHub draws the
same blocks by MathJax. A command that is not known here fails the build, so that no equation is
half drawn.
"""

from __future__ import annotations

import re
from html import escape

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import Files
from mkdocs.structure.pages import Page

BLOCK = re.compile(r"^\$\$\n(.+?)\n\$\$$", re.MULTILINE | re.DOTALL)
TOKEN = re.compile(r"\\[A-Za-z]+|\\.|\d+(?:\.\d+)?|\S")
LETTERS = {
    "alpha": "α", "beta": "β", "eta": "η", "theta": "θ", "lambda": "λ", "pi": "π", "sigma": "σ",
    "tau": "τ", "Delta": "Δ", "nabla": "∇", "partial": "∂", "infty": "∞",
    "dots": "…",
}  # fmt: skip
OPERATORS = {
    "cdot": "·", "in": "∈", "le": "≤", "ge": "≥", "lVert": "‖", "rVert": "‖", "mid": "|",
    "leftarrow": "←", "to": "→", "times": "×", "neq": "≠", "approx": "≈",
    "{": "{", "}": "}",
}  # fmt: skip
SPACES = {",": "0.2em", ";": "0.3em", "quad": "1em", "qquad": "2em"}
FUNCTIONS = ("cos", "log", "exp", "sin", "max", "min")
ACCENTS = {"hat": "^", "bar": "¯", "tilde": "~"}


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Replace the equations of a page."""
    return BLOCK.sub(lambda found: f'<div class="equation">{mathml(found[1])}</div>', markdown)


def mathml(latex: str) -> str:
    """An equation as MathML.

    Raises:
        ValueError: It uses what is not known here.
    """
    reader = _Reader(latex)
    body = reader.row(until=None)
    note = escape(" ".join(latex.split()))
    return (
        '<math display="block" xmlns="http://www.w3.org/1998/Math/MathML"><semantics>'
        f'{body}<annotation encoding="application/x-tex">{note}</annotation></semantics></math>'
    )


class _Reader:
    """Reads tokens from left to right."""

    def __init__(self, latex: str) -> None:
        self.latex = latex
        self.tokens = TOKEN.findall(latex)

    def row(self, until: str | None) -> str:
        """Everything up to a closing token, or to the end."""
        parts: list[str] = []
        while self.tokens:
            if self.tokens[0] == until:
                self.tokens.pop(0)
                return f"<mrow>{''.join(parts)}</mrow>"
            parts.append(self.scripted())
        if until is not None:
            raise ValueError(f"{until!r} is missing in the equation {self.latex!r}")
        return f"<mrow>{''.join(parts)}</mrow>"

    def scripted(self) -> str:
        """One thing with what stands below and above it."""
        large = self.tokens[0] == r"\sum"
        base = self.single()
        scripts: dict[str, str] = {}
        while self.tokens and self.tokens[0] in "_^":
            sign = self.tokens.pop(0)
            scripts[sign] = self.single()
        below, above = scripts.get("_"), scripts.get("^")
        under, over, both = (
            ("munder", "mover", "munderover") if large else ("msub", "msup", "msubsup")
        )
        if below and above:
            return f"<{both}>{base}{below}{above}</{both}>"
        if below or above:
            tag = under if below else over
            return f"<{tag}>{base}{below or above}</{tag}>"
        return base

    def single(self) -> str:
        """One letter, number, sign, group or command."""
        if not self.tokens:
            raise ValueError(f"the equation {self.latex!r} ends too early")
        token = self.tokens.pop(0)
        if token == "{":
            return self.row(until="}")
        if token.startswith("\\"):
            return self.command(token[1:])
        if token[0].isdigit():
            return f"<mn>{token}</mn>"
        if token.isalpha():
            return f"<mi>{token}</mi>"
        return f"<mo>{escape('−' if token == '-' else token)}</mo>"

    def command(self, name: str) -> str:
        """What a command writes."""
        if name in LETTERS:
            return f"<mi>{LETTERS[name]}</mi>"
        if name in OPERATORS:
            return f"<mo>{OPERATORS[name]}</mo>"
        if name in SPACES:
            return f'<mspace width="{SPACES[name]}"/>'
        if name in FUNCTIONS:
            return f"<mi>{name}</mi>"
        if name == "sum":
            return "<mo>∑</mo>"
        if name in ("left", "right"):
            return f'<mo stretchy="true">{escape(self.tokens.pop(0))}</mo>'
        if name == "frac":
            return f"<mfrac>{self.single()}{self.single()}</mfrac>"
        if name in ACCENTS:
            return f'<mover accent="true">{self.single()}<mo>{ACCENTS[name]}</mo></mover>'
        if name in ("operatorname", "text", "mathrm"):
            return f'<mi mathvariant="normal">{self.words()}</mi>'
        raise ValueError(f"\\{name} is not known in the equation {self.latex!r}")

    def words(self) -> str:
        """The letters of a group, as they are."""
        if self.tokens.pop(0) != "{":
            raise ValueError(f"a group is missing in the equation {self.latex!r}")
        end = self.tokens.index("}")
        found, self.tokens = self.tokens[:end], self.tokens[end + 1 :]
        return escape("".join(found).replace("~", "\u00a0"))
