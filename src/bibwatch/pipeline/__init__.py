"""The pipeline, from ledger to stage to ledger: batching, decoding ahead, retries, failover."""
