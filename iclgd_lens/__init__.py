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

__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
__all__ = [*__all__, "__version__"]  # pyright: ignore[reportUnsupportedDunderAll]
