"""Recipes of SparseML, the form in which the oBERT authors published theirs, read and translated to ours.

`document` reads the YAML with a safe loader, `fields` one modifier's settings, `rates` the learning rate,
`tensors` the names of parameters; `translate` puts stages together. Nothing here imports torch.
"""
