-- What was played in scenes, a page of them at a time: what training rows are made from. Turns are in the order of the scene's chain, which
-- is the same in every run of it.
CREATE OR REPLACE TEMP TABLE page AS
SELECT s.scene, s.position, s.label, s.meta, instruction.text AS instruction
FROM (FROM scenes WHERE position > $1 AND ($3 IS NULL OR scene IN (SELECT unnest($3::BLOB[]))) ORDER BY position LIMIT $2) s
LEFT JOIN texts instruction ON instruction.hash = s.instruction;
SELECT position, scene, label, meta::VARCHAR, instruction FROM page ORDER BY position;
SELECT c.scene, c.path, c.attempt, c.kind, c.outcome, c.finish, texts.text, c.segments, c.trusted
FROM completions c JOIN page USING (scene)
LEFT JOIN texts ON texts.hash = c.text
LEFT JOIN (
    SELECT scene, seq, payload ->> 'path' AS path, (payload ->> 'attempt')::UINTEGER AS attempt
    FROM events JOIN page USING (scene) WHERE kind = 'TurnCompleted'
) e ON e.scene = c.scene AND e.path = c.path AND e.attempt = c.attempt
ORDER BY c.scene, e.seq NULLS LAST, c.path, c.attempt;
SELECT hash, text FROM texts
SEMI JOIN (SELECT DISTINCT unnest(segments) AS hash FROM completions JOIN page USING (scene)) USING (hash);
SELECT scene, kind, payload
FROM events JOIN page USING (scene)
WHERE kind IN ('TurnFellBack', 'ReplyFlawed', 'ResponseGiven', 'ResponseRevised', 'ResponseKept', 'RoleCast', 'SceneFinished')
ORDER BY scene, seq
