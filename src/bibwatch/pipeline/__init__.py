"""The pipeline: ledger to stage to ledger. Batching, decoding ahead, retries."""
