-- Rows that belong to nothing or are there twice: what is wrong, of which scene (id, hex) and which event or turn. One row a finding.
SELECT 'an event belongs to no scene of the run' AS what, lower(hex(scene)) AS scene, seq, NULL AS turn
FROM events ANTI JOIN scenes USING (scene)
UNION ALL
SELECT 'a completion belongs to no scene of the run', lower(hex(scene)), NULL, path || if(attempt = 1, '', '#' || attempt)
FROM completions ANTI JOIN scenes USING (scene)
UNION ALL
SELECT 'the scene is listed ' || count(*) || ' times', lower(hex(scene)), 0, NULL
FROM scenes GROUP BY scene HAVING count(*) > 1
UNION ALL
-- From 0, without gaps: the order of the root hash.
SELECT 'the scene is at position ' || position || ' of the input, where ' || expected || ' comes next', lower(hex(scene)), 0, NULL
FROM (SELECT scene, position, row_number() OVER (ORDER BY position, rowid) - 1 AS expected FROM scenes) WHERE position != expected
UNION ALL
-- Records keep the order of their input, whose place in it stands beside the position and is not hashed. What was merged, and forks of it,
-- may have several inputs of one label.
SELECT 'the scene stands before one that came earlier in its input', lower(hex(scene)), 0, NULL
FROM (SELECT scene, row, lead(row) OVER (PARTITION BY label ORDER BY position) AS next FROM scenes)
WHERE row > next AND EXISTS (FROM run WHERE coalesce(json_array_length(execution, '$.merged_from'), 0) = 0 AND execution ->> 'parent' IS NULL)
UNION ALL
SELECT 'a completion is there ' || count(*) || ' times', lower(hex(scene)), NULL, path || if(attempt = 1, '', '#' || attempt)
FROM completions GROUP BY scene, path, attempt HAVING count(*) > 1
UNION ALL
SELECT 'the event is filed under another kind than its own', lower(hex(scene)), seq, NULL
FROM events WHERE NOT starts_with(payload::VARCHAR, '{"kind":"' || kind || '",')
UNION ALL
-- The columns repeat what payloads say, for queries and views.
SELECT 'the completion''s kind is ' || c.kind || '; its event says ' || (e.payload ->> 'turn'), lower(hex(c.scene)), e.seq,
    c.path || if(c.attempt = 1, '', '#' || c.attempt)
FROM completions c
JOIN events e ON e.scene = c.scene AND e.kind = 'TurnCompleted' AND e.payload ->> 'path' = c.path
    AND e.payload ->> 'attempt' = c.attempt::VARCHAR
WHERE e.payload ->> 'turn' != c.kind
