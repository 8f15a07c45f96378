"""What a pair is, the same for whoever caches it, trains on it or tracks with it."""
