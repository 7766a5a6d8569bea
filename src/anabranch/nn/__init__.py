"""Parts that sit inside a model, one folder per idea; the contract of a folder's slot stands in its ``base`` module."""
