"""Tasks that come with the package, so that a first build needs no data and no network."""
