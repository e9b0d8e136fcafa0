"""From a compressed checkpoint to an artifact and a session that runs it."""
