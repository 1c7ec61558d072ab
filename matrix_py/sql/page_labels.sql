-- What labels are made from, a page of scenes at a time.
CREATE OR REPLACE TEMP TABLE page AS
SELECT s.scene, s.position, instruction.text AS instruction, response.text AS response
FROM (FROM scenes WHERE position > ? ORDER BY position LIMIT ?) s
LEFT JOIN texts instruction ON instruction.hash = s.instruction
LEFT JOIN texts response ON response.hash = s.response;
SELECT events.scene, arg_min(events.payload ->> 'text', events.seq)
FROM events JOIN page USING (scene)
WHERE events.kind = 'ResponseGiven'
GROUP BY events.scene;
SELECT events.scene, events.payload ->> 'role'
FROM events JOIN page USING (scene)
WHERE events.kind = 'RoleCast'
ORDER BY events.scene, events.seq;
SELECT completions.scene, completions.path, completions.attempt, completions.kind, completions.finish, texts.text
FROM completions JOIN page USING (scene)
JOIN texts ON texts.hash = completions.text
WHERE completions.outcome != 'too_long'
ORDER BY completions.scene, completions.recorded_at, completions.path, completions.attempt
