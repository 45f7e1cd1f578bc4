"""Ways to train, one to a file: each cuts a sweep into shards, says what determines a trial, and runs a shard."""
