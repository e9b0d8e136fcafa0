"""Commands to a home and phone assistant: a grammar, hand-written test sentences and a small BERT."""
