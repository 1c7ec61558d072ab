-- In the order in which the event log hands its batches over. A text that the log has is not written again, nor one twice from a batch.
INSERT INTO texts SELECT DISTINCT hash, text FROM batch ANTI JOIN texts USING (hash);
INSERT INTO scenes SELECT scene, position, label, row, occurrence, instruction, response, meta FROM batch;
INSERT INTO completions SELECT scene, path, attempt, kind, request, outcome, finish, text, segments, trusted, prompt_tokens, cached_tokens,
    generated_tokens, masked_tokens, log_odds, queued_us, prefill_us, decode_us, recorded_at, sampling FROM batch;
INSERT INTO events SELECT scene, seq, kind, payload, hash, recorded_at FROM batch
