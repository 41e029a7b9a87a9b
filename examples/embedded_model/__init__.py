"""How the embedded model was made: its rows, tokenizer, training and card.

The package ships the results alone (`iclgd_lens/embedded`). From the repository's root:

    python -m examples.embedded_model.generate             # the rows, written into the package
    python -m examples.embedded_model.train --out FOLDER   # the model, in FOLDER/model
    python -m examples.embedded_model.evaluate             # what the model card says
"""
