-- What came with log format 3: who said a completion, `model`, `reused` or `edited`. Older ones are the model's, and have NULL.
ALTER TABLE completions ADD COLUMN source VARCHAR;
