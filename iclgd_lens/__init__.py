"""What does in-context learning do to attention, and is it what gradient descent would do?

    import iclgd_lens as lens

    model = lens.load_model("embedded")
    episode = lens.load_episode("sst2", model, shots=8, queries=32)
    result = lens.compare(model, episode, ["gd", "lcgd"])
    result.frame()

Names are imported when first used, so that `import iclgd_lens` costs nothing; `__init__.pyi` lists
them.
"""

import lazy_loader as _lazy

__version__ = "0.1.0"

_get, _, _names = _lazy.attach_stub(__name__, __file__)
__all__ = [*_names, "__version__"]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> object:
    """A public name, imported now; as Python says it where there is none."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return _get(name)


def __dir__() -> list[str]:
    """The public names."""
    return sorted(__all__)
