-- What was said in the turns of some scenes. A text that is missing was deleted: then nothing was said.
SELECT
    c.scene, c.path, c.attempt, c.kind, c.request, t.text, c.outcome, c.finish, c.prompt_tokens, c.generated_tokens, c.masked_tokens, c.log_odds
FROM completions c
JOIN texts t ON t.hash = c.text
WHERE c.scene IN (SELECT unnest($1::BLOB[]))
