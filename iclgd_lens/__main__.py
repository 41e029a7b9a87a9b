"""``python -m iclgd_lens``: the ``iclgd`` command."""

from iclgd_lens.cli import main

if __name__ == "__main__":
    main()
